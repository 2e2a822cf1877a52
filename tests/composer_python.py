"""Pythons like Cloud Composer's: its image's packages, and CaptionFlow's wheel in place of the checkout."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from captionflow.core.artifact import Artifact, open_artifact
from tests.test_dag import QUICK

ROOT = Path(__file__).parents[1]
IMAGE = ROOT / "deploy" / "composer" / "image.lock"
UV = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))


def package(output: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run package.py, as `make composer-package` does."""
    return subprocess.run(
        [sys.executable, ROOT / "deploy" / "composer" / "package.py", output, *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def wheel_of(packaged: Path) -> Path:
    """Return the wheel of a package."""
    (wheel,) = packaged.glob("*.whl")
    return wheel


def build(name: str, packaged: Path, *locks: Path) -> Path:
    """Return a Python that holds exactly what the files and the package pin; a second time little is done."""
    folder = ROOT / ".bench" / name
    python = folder / "bin" / "python"
    requirements = packaged / "requirements.txt"
    for command in (
        ["venv", "--allow-existing", "--python", "3.11", str(folder)],
        ["pip", "sync", "--python", str(python), "--find-links", str(packaged), *map(str, locks), str(requirements)],
    ):
        done = subprocess.run([UV, "--quiet", *command], cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"{name} cannot be built: uv {' '.join(command[:2])}: {done.stderr.strip()[-300:]}")
    return python


class Composer:
    """Airflow in a Python of its own, which sees the package and nothing of the checkout."""

    def __init__(self, python: Path, packaged: Path, home: Path) -> None:
        self.python, self.home, self.artifacts = python, home, home / "artifacts"
        self.env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {
            "PATH": f"{python.parent}:{os.environ['PATH']}",
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_FOLDER": str(packaged / "dags"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(home / "plugins"),
            "CAPTIONFLOW_ARTIFACT_ROOT": str(self.artifacts),
        }
        done = self.run("-m", "airflow", "db", "migrate")
        assert done.returncode == 0, done.stderr[-3000:]

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run that Python."""
        return subprocess.run(
            [self.python, *arguments], env=self.env | environment, cwd=self.home, capture_output=True, text=True,
            check=False,
        )  # fmt: skip

    def tell(self, code: str, **environment: str) -> Any:
        """Run Python that prints JSON last."""
        done = self.run("-W", "ignore", "-c", code, **environment)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])

    def run_dag(self, sample: Path, *options: str) -> dict[str, Artifact]:
        """Run image_captioning on a sample to its end, and return what it made by kind."""
        images = str(sample / "images")
        conf = {"sources": [str(sample / "captions.json")], "image_root": [images], "allow_url_prefix": [images]}
        done = self.run(
            "-m", "airflow", "dags", "test", "image_captioning", "--conf", json.dumps(conf | QUICK), *options
        )
        assert done.returncode == 0, done.stdout[-4000:]
        (run,) = (self.artifacts / "image_captioning").iterdir()
        return {folder.name: open_artifact(str(folder)) for folder in run.iterdir()}
