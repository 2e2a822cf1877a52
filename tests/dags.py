"""The project's DAG files as Airflow reads them: in this process, and for runs of theirs."""

from pathlib import Path
from typing import Any

DAGS = Path(__file__).parents[1] / "dags"


def load(path: Path = DAGS) -> dict[str, Any]:
    """Return the DAGs of a file or folder by id; fails on an import error."""
    from airflow.dag_processing.dagbag import BundleDagBag

    bag = BundleDagBag(path, bundle_path=DAGS, bundle_name="dags-folder")
    assert bag.import_errors == {}
    return dict(bag.dags)
