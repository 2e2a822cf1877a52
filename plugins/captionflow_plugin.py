"""The evaluation report, served by Airflow itself, and the links of a task's page, made known to Airflow."""

from typing import Any

from airflow.models.taskinstancekey import TaskInstanceKey
from airflow.plugins_manager import AirflowPlugin
from captionflow_links import REPORTS_PATH, MlflowRunLink, ReportLink, artifact_of
from flask import Blueprint, Response, abort

from captionflow.errors import CaptionFlowError
from captionflow.kinds import EVALUATION, REPORT

_POLICY = "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'"
# Held in the webserver's memory while it is sent.
_LARGEST = 50_000_000
REPORTS = Blueprint("captionflow", __name__, url_prefix=REPORTS_PATH)


@REPORTS.get("/report/<dag_id>/<run_id>/<task_id>")
def report(dag_id: str, run_id: str, task_id: str) -> Any:
    """Serve a task's report to those who may see its XCom."""
    from airflow.auth.managers.models.resource_details import DagAccessEntity
    from airflow.www.auth import has_access_dag  # takes seconds to import

    return has_access_dag("GET", DagAccessEntity.XCOM)(_report)(dag_id=dag_id, run_id=run_id, task_id=task_id)


def _report(dag_id: str, run_id: str, task_id: str) -> Response:
    artifact = artifact_of(TaskInstanceKey(dag_id, task_id, run_id), EVALUATION)
    files = artifact.files(REPORT) if artifact else []
    if not artifact or not files:
        abort(404)
    if files[0].bytes > _LARGEST:
        abort(413, f"{artifact.uri}/{REPORT} is larger than {_LARGEST} bytes; open the file itself")
    try:
        content = artifact.read(REPORT)
    except CaptionFlowError as error:
        abort(404, str(error))
    # Its captions are strangers' words: nothing in it may act as Airflow's own page.
    return Response(content, mimetype="text/html", headers={"Content-Security-Policy": _POLICY})


class CaptionFlowPlugin(AirflowPlugin):
    """Registers the links and serves the reports."""

    name = "captionflow"
    operator_extra_links = (MlflowRunLink(), ReportLink())
    flask_blueprints = (REPORTS,)
