"""The project's DAG files as Airflow reads them: in this process, and for runs of theirs."""

from pathlib import Path
from typing import Any

DAGS = Path(__file__).parents[1] / "dags"


def import_errors(path: Path) -> dict[str, str]:
    """Return the errors of importing a file or folder, by file."""
    return dict(_bag(path).import_errors)


def load(path: Path = DAGS) -> dict[str, Any]:
    """Return the DAGs of a file or folder by id; fails on an import error."""
    bag = _bag(path)
    assert bag.import_errors == {}
    return dict(bag.dags)


def _bag(path: Path) -> Any:
    from airflow.dag_processing.dagbag import BundleDagBag

    return BundleDagBag(path, bundle_path=DAGS, bundle_name="dags-folder")
