"""What a task's page in Airflow links to: its run in MLflow, and the page of its artifact.

The DAG imports this. Airflow calls the links in the worker when a task ends, and keeps what they return.
"""

import logging
import os
from typing import Any, ClassVar
from urllib.parse import quote, urlsplit

from airflow.providers.common.compat.sdk import TaskInstanceKey, conf
from airflow.sdk import BaseOperatorLink
from airflow.sdk.bases.xcom import BaseXCom
from airflow.sdk.execution_time.xcom import XCom

from captionflow.core.artifact import Artifact, open_artifact
from captionflow.core.steps import EVALUATION, PAGES, PREPROCESSED, VALIDATION
from captionflow.core.terminal import one_line
from captionflow.core.tracking import NOTE

_LOG = logging.getLogger(__name__)
REPORTS_PATH = "/captionflow"
"""Where the plugin serves pages, below Airflow's own address."""


class MlflowRunLink(BaseOperatorLink):
    """The run in MLflow that training and evaluation share, when it was tracked and MLflow's UI has an address."""

    name = "MLflow run"

    def get_link(self, operator: Any, *, ti_key: TaskInstanceKey) -> str:
        """Return the address of the run's page, or an empty text, for which Airflow shows no button."""
        artifact = _artifact_of(ti_key)
        noted = artifact and artifact.manifest.run.get(NOTE)
        ui = os.environ.get("CAPTIONFLOW_MLFLOW_UI", "").rstrip("/")
        if not ui or not isinstance(noted, dict):
            return ""
        experiment, run = (quote(str(noted.get(name)), safe="") for name in ("experiment_id", "run_id"))
        return f"{ui}/#/experiments/{experiment}/runs/{run}"


class _PageLink(BaseOperatorLink):
    """The page of a task's artifact, if that is of one of the kinds."""

    kinds: ClassVar[tuple[str, ...]]

    def get_link(self, operator: Any, *, ti_key: TaskInstanceKey) -> str:
        """Return the page's path in Airflow's API server, or an empty text while there is none."""
        artifact = _artifact_of(ti_key)
        kind = artifact.manifest.kind if artifact else ""
        if artifact is None or kind not in self.kinds or not artifact.files(PAGES[kind]):
            return ""
        return report_path(ti_key.dag_id, ti_key.run_id, ti_key.task_id)


class ReportLink(_PageLink):
    """The report of a validation or an evaluation."""

    name = "Report"
    kinds = (VALIDATION, EVALUATION)


class DatasetPageLink(_PageLink):
    """The page of the preprocessed dataset."""

    name = "Dataset page"
    kinds = (PREPROCESSED,)


def report_path(dag_id: str, run_id: str, task_id: str) -> str:
    """Return the path of the page of a task's artifact; Airflow itself may be below one (`[api] base_url`)."""
    root = urlsplit(conf.get("api", "base_url", fallback="")).path.rstrip("/")
    where = "/".join(quote(part, safe="") for part in (dag_id, run_id, task_id))
    return f"{root}{REPORTS_PATH}/report/{where}"


def _artifact_of(ti_key: TaskInstanceKey) -> Artifact | None:
    """Return the artifact whose URI is the task's XCom, or None where it is gone or was never made."""
    task = {"dag_id": ti_key.dag_id, "run_id": ti_key.run_id, "task_id": ti_key.task_id}
    # Asked for a single value that a failed task has not made, Airflow would log an error.
    (uri,) = XCom.get_all(**task, key=BaseXCom.XCOM_RETURN_KEY) or [None]
    try:
        return open_artifact(uri) if isinstance(uri, str) else None
    except Exception as error:  # each store's client has errors of its own
        _LOG.warning("%s", one_line(f"{uri}: {error}"))
        return None
