"""Each extra, as a stranger installs it: with pip, from the index, without our lock. pip goes on for minutes, or fails,
where lower bounds leave it too many old versions to try."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXTRAS = {
    "ingestion": "ijson", "validation": "py3langid", "preprocessing": "apache-beam", "train": "torch",
    "evaluation": "pycocoevalcap", "kubeflow": "kfp", "airflow": "apache-airflow", "all": "mlflow",
}  # fmt: skip
PATIENCE = 1800
"""Seconds; an idle machine of two cores needs some tens."""


@pytest.mark.slow
@pytest.mark.parametrize("extra", EXTRAS)
def test_pip_finds_versions_that_go_together(extra: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-build-isolation", "--quiet",
         "--report", str(tmp_path / "report"), f"{ROOT}[{extra}]"],
        capture_output=True, text=True, check=False, timeout=PATIENCE,
    )  # fmt: skip
    if "No matching distribution" in done.stderr and "(from versions: none)" in done.stderr:
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr
    installed = {
        package["metadata"]["name"].lower() for package in json.loads((tmp_path / "report").read_text())["install"]
    }
    assert {"captionflow", EXTRAS[extra]} <= installed
    assert "tfx" not in installed
