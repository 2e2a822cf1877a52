"""Fixtures of the tests that run in TFX's environment: `make test` runs pytest there."""

import os
import subprocess
import tempfile
from pathlib import Path

# Before anything imports Airflow, which is but a library here.
os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="captionflow-airflow-")
os.environ["_AIRFLOW__AS_LIBRARY"] = "1"
os.environ.pop("MLFLOW_TRACKING_URI", None)

import pytest

from captionflow.sample.parameters import SampleParameters
from captionflow.sample.sample import sample
from captionflow.sources.csv_export import export_csv
from captionflow.sources.ingest import ingest
from captionflow.sources.parameters import IngestParameters
from tests.processes import captionflow

QUICK = {"epochs": 6, "width": 48, "learning_rate": 0.02}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast tests first."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


def run(csv: str, root: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Run the pipeline on this machine."""
    options = [part for name, value in QUICK.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    return captionflow("tfx", "run", "--csv", csv, "--pipeline-root", str(root), *options, *more)


def latest(root: Path, pattern: str) -> Path:
    return max(root.glob(pattern), key=lambda path: path.stat().st_mtime)


def pushed(root: Path) -> Path:
    """The model that TensorFlow Serving would take: the one with the highest number."""
    return max((root / "serving").iterdir(), key=lambda folder: int(folder.name))


@pytest.fixture(scope="session")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The captions of 60 pictures of the built-in sample."""
    folder = Path(sample(str(tmp_path_factory.mktemp("sample") / "sample"), SampleParameters(images=60)))
    parameters = IngestParameters(sources=(str(folder / "captions.json"),), image_root=(str(folder / "images"),))
    return ingest(str(tmp_path_factory.mktemp("ingested") / "ingested"), parameters)


@pytest.fixture(scope="session")
def csv_uri(ingested: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same captions as CSV."""
    return export_csv(ingested, str(tmp_path_factory.mktemp("csv") / "csv"))
