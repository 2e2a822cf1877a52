"""What a task's page in Airflow links to: its run in MLflow, and the evaluation report.

The DAG imports this. It needs no web framework, since Airflow 3 brings another.
"""

import logging
import os
from typing import Any
from urllib.parse import quote, urlsplit

from airflow.configuration import conf
from airflow.providers.common.compat.sdk import TaskInstanceKey
from airflow.sdk import BaseOperatorLink
from airflow.sdk.bases.xcom import BaseXCom
from airflow.sdk.execution_time.xcom import XCom

from captionflow.artifacts import Artifact, open_artifact
from captionflow.kinds import EVALUATION
from captionflow.terminal import one_line
from captionflow.tracking import NOTE

_LOG = logging.getLogger(__name__)
REPORTS_PATH = "/captionflow"
"""Where the plugin serves reports, below Airflow's own address."""


class MlflowRunLink(BaseOperatorLink):
    """The run in MLflow that training and evaluation share, when it was tracked and MLflow's UI has an address."""

    name = "MLflow run"

    def get_link(self, operator: Any, *, ti_key: TaskInstanceKey) -> str:
        """Return the address of the run's page, or an empty text."""
        artifact = artifact_of(ti_key)
        noted = artifact and artifact.manifest.run.get(NOTE)
        ui = os.environ.get("CAPTIONFLOW_MLFLOW_UI", "").rstrip("/")
        if not ui or not isinstance(noted, dict):
            return ""
        experiment, run = (quote(str(noted.get(name)), safe="") for name in ("experiment_id", "run_id"))
        return f"{ui}/#/experiments/{experiment}/runs/{run}"


class ReportLink(BaseOperatorLink):
    """The evaluation report."""

    name = "Report"

    def get_link(self, operator: Any, *, ti_key: TaskInstanceKey) -> str:
        """Return the report's path in Airflow's webserver, or an empty text while there is none."""
        if artifact_of(ti_key, EVALUATION) is None:
            return ""
        root = urlsplit(conf.get("api", "base_url", fallback="")).path.rstrip("/")
        where = "/".join(quote(part, safe="") for part in (ti_key.dag_id, ti_key.run_id, ti_key.task_id))
        return f"{root}{REPORTS_PATH}/report/{where}"


def artifact_of(ti_key: TaskInstanceKey, kind: str | None = None) -> Artifact | None:
    """Return the artifact whose URI is the task's XCom, or None where it is gone or was never made."""
    uri = XCom.get_value(ti_key=ti_key, key=BaseXCom.XCOM_RETURN_KEY)
    try:
        return open_artifact(uri, kind) if isinstance(uri, str) else None
    except Exception as error:  # each store's client has errors of its own
        _LOG.warning("%s", one_line(f"{uri}: {error}"))
        return None
