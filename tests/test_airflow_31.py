"""The whole DAG on Airflow 3.1, the oldest that it supports and Cloud Composer's; its other tests run on the newest."""

from pathlib import Path

import pytest

from tests.composer_python import IMAGE, ROOT, Composer, build, package

# Made by: cp requirements.lock tests/composer/steps.lock && uv pip compile --python-version 3.11 --generate-hashes
# --no-header pyproject.toml --extra evaluation --constraint deploy/composer/image.lock --output-file
# tests/composer/steps.lock $(sed -n 's/^\([a-z0-9._-]*\)==.*/--no-emit-package \1/p' deploy/composer/image.lock)
STEPS = ROOT / "tests" / "composer" / "steps.lock"
"""What training and evaluation need beside Composer's image, at the versions of requirements.lock where they fit."""


@pytest.mark.composer
@pytest.mark.slow
def test_the_whole_dag_runs_to_success(small_sample: Path, tmp_path: Path) -> None:
    assert package(tmp_path / "package").returncode == 0
    python = build("airflow-3.1", tmp_path / "package", IMAGE, STEPS)
    (tmp_path / "home").mkdir()
    airflow = Composer(python, tmp_path / "package", tmp_path / "home")
    assert airflow.run("-m", "airflow", "version").stdout.splitlines()[-1].startswith("3.1.")
    made = airflow.run_dag(small_sample)
    assert made.keys() == {"ingested", "validation", "preprocessed", "model", "evaluation"}
    for artifact in made.values():
        artifact.verify()
