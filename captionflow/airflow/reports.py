"""The pages of reports, in Airflow's API server.

Airflow does not guard what plugins serve. This asks the auth manager that is set, as Airflow's own pages do.
"""

from collections.abc import Iterator
from http import HTTPStatus
from shutil import copyfileobj
from tempfile import SpooledTemporaryFile
from typing import IO

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import requires_access_dag
from airflow.models.xcom import XCOM_RETURN_KEY, XComModel
from airflow.utils.session import create_session
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import PlainTextResponse, RedirectResponse, Response, StreamingResponse
from sqlalchemy import select

from captionflow.airflow.links import report_path
from captionflow.core.artifact import Artifact, open_artifact
from captionflow.core.errors import CaptionFlowError, InvalidInputError, StoreError
from captionflow.core.steps import REPORT, REPORTED
from captionflow.core.terminal import one_line
from captionflow.core.uris import store_errors

_LARGEST = 50_000_000
_CHUNK = 1 << 20
# Its captions are strangers' words: nothing in it may act as Airflow's own page.
_HEADERS = {
    "Content-Security-Policy": "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
}

app = FastAPI(title="CaptionFlow's reports", openapi_url=None)


@app.get(
    # A deployment may let run ids hold slashes.
    "/report/{dag_id}/{run_id:path}/{task_id}",
    dependencies=[Depends(requires_access_dag("GET", DagAccessEntity.XCOM))],
)
def report(dag_id: str, run_id: str, task_id: str) -> Response:
    """Serve a task's report to those who may see its XCom."""
    uri = _uri(dag_id, run_id, task_id)
    if uri is None:
        raise HTTPException(
            HTTPStatus.NOT_FOUND, f"{task_id}: has made no artifact in {run_id} yet; look once it has succeeded"
        )
    try:
        artifact = _with_report(uri)
        if any(file.bytes > _LARGEST for file in artifact.files(REPORT)):
            message = f"{uri}/{REPORT}: is larger than {_LARGEST} bytes; open the file itself"
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message)
        content = _verified(artifact)
    except StoreError as error:
        raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, str(error)) from error
    except CaptionFlowError as error:
        raise HTTPException(HTTPStatus.NOT_FOUND, str(error)) from error
    return StreamingResponse(_chunks(content), media_type="text/html; charset=utf-8", headers=_HEADERS)


@app.exception_handler(HTTPException)
def refuse(request: Request, error: HTTPException) -> Response:
    """Say in one line why there is no report; a browser without a login is sent to get one."""
    if error.status_code == HTTPStatus.UNAUTHORIZED and "text/html" in request.headers.get("Accept", ""):
        return RedirectResponse(get_auth_manager().get_url_login(next_url=report_path(**request.path_params)))
    return PlainTextResponse(f"{one_line(error.detail)}\n", error.status_code, headers=_HEADERS)


def _uri(dag_id: str, run_id: str, task_id: str) -> str | None:
    """Return the URI that is the task's XCom. A custom XCom backend is not asked: it may build objects."""
    task = {"dag_id": dag_id, "run_id": run_id, "task_id": task_id, "map_index": -1}
    with create_session(scoped=False) as session:
        value = session.scalar(select(XComModel.value).filter_by(**task, key=XCOM_RETURN_KEY))
    return value if isinstance(value, str) else None


def _with_report(uri: str) -> Artifact:
    artifact = open_artifact(uri)
    if artifact.manifest.kind not in REPORTED:
        raise InvalidInputError(
            f"{uri}: is an artifact of kind {artifact.manifest.kind}; expected {' or '.join(REPORTED)}"
        )
    return artifact


def _verified(artifact: Artifact) -> IO[bytes]:
    """Return the report as the manifest says it is; little of it is held in memory."""
    content = SpooledTemporaryFile(max_size=_CHUNK)  # noqa: SIM115 - sent, and closed, later
    with store_errors(artifact.uri), artifact.open(REPORT) as file:
        copyfileobj(file, content, _CHUNK)
    content.seek(0)
    return content


def _chunks(content: IO[bytes]) -> Iterator[bytes]:
    with content:
        while chunk := content.read(_CHUNK):
            yield chunk
