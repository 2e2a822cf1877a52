"""What a task's page in Airflow links to: its run in MLflow, and the evaluation report, served by Airflow itself."""

import logging
import os
from typing import Any
from urllib.parse import quote, urlsplit

from airflow.configuration import conf
from airflow.models.baseoperatorlink import BaseOperatorLink
from airflow.models.taskinstancekey import TaskInstanceKey
from airflow.models.xcom import XCom
from airflow.plugins_manager import AirflowPlugin
from airflow.utils.xcom import XCOM_RETURN_KEY
from flask import Blueprint, Response, abort

from captionflow.artifacts import Artifact, open_artifact
from captionflow.kinds import EVALUATION, REPORT
from captionflow.tracking import NOTE

_LOG = logging.getLogger(__name__)
_POLICY = "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'"
REPORTS = Blueprint("captionflow", __name__, url_prefix="/captionflow")


class MlflowRunLink(BaseOperatorLink):
    """The run in MLflow that training and evaluation share, when it was tracked and MLflow's UI has an address."""

    name = "MLflow run"

    def get_link(self, operator: Any, *, ti_key: TaskInstanceKey) -> str:
        """Return the address of the run's page, or an empty text."""
        artifact = _artifact(ti_key)
        noted = artifact and artifact.manifest.run.get(NOTE)
        ui = os.environ.get("CAPTIONFLOW_MLFLOW_UI", "").rstrip("/")
        return f"{ui}/#/experiments/{noted['experiment_id']}/runs/{noted['run_id']}" if ui and noted else ""


class ReportLink(BaseOperatorLink):
    """The evaluation report."""

    name = "Report"

    def get_link(self, operator: Any, *, ti_key: TaskInstanceKey) -> str:
        """Return the report's path in Airflow's webserver, or an empty text while there is none."""
        if _artifact(ti_key, EVALUATION) is None:
            return ""
        root = urlsplit(conf.get("webserver", "base_url")).path.rstrip("/")
        where = "/".join(quote(part, safe="") for part in (ti_key.dag_id, ti_key.run_id, ti_key.task_id))
        return f"{root}{REPORTS.url_prefix}/report/{where}"


def _artifact(ti_key: TaskInstanceKey, kind: str | None = None) -> Artifact | None:
    """Return the artifact whose URI is the task's XCom, or None where it is gone or was never made."""
    uri = XCom.get_value(ti_key=ti_key, key=XCOM_RETURN_KEY)
    try:
        return open_artifact(uri, kind) if isinstance(uri, str) else None
    except Exception as error:  # each store's client has errors of its own
        _LOG.warning("%s: %s", uri, error)
        return None


@REPORTS.get("/report/<dag_id>/<run_id>/<task_id>")
def report(dag_id: str, run_id: str, task_id: str) -> Any:
    """Serve a task's report to those who may see its XCom."""
    from airflow.auth.managers.models.resource_details import DagAccessEntity
    from airflow.www.auth import has_access_dag  # takes seconds to import, and DAG files import this module

    return has_access_dag("GET", DagAccessEntity.XCOM)(_report)(dag_id=dag_id, run_id=run_id, task_id=task_id)


def _report(dag_id: str, run_id: str, task_id: str) -> Response:
    artifact = _artifact(TaskInstanceKey(dag_id, task_id, run_id), EVALUATION)
    if artifact is None:
        abort(404)
    # Its captions are strangers' words: nothing in it may act as Airflow's own page.
    return Response(artifact.read(REPORT), mimetype="text/html", headers={"Content-Security-Policy": _POLICY})


class CaptionFlowPlugin(AirflowPlugin):
    """Registers the links and serves the reports."""

    name = "captionflow"
    operator_extra_links = (MlflowRunLink(), ReportLink())
    flask_blueprints = (REPORTS,)
