"""The report's page in a real API server of Airflow, and the links that lead to it."""

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from captionflow.core.draft import begin
from captionflow.core.steps import EVALUATION, MODEL, REPORTED
from captionflow.core.tracking import NOTE
from tests.report_server import AUTH_MANAGERS, ApiServer, api_server

pytestmark = pytest.mark.slow

PAGE = b"<!doctype html><title>Report</title><h1>Evaluation on the test split</h1>"
LARGEST = 50_000_000
POLICY = "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'"
API = "/behind/a/proxy/api/v2"
AMISS = re.compile(r"(?i)(warning|error|exception|traceback).*(link|xcom)")
DAG = """
from airflow.sdk import Param, dag, get_current_context, task
from captionflow.airflow.links import MlflowRunLink, ReportLink


@dag(schedule=None, params={"uri": Param(None, type=["null", "string"])})
def with_links():
    @task
    def evaluate():
        return get_current_context()["params"]["uri"]

    evaluate().operator.operator_extra_links = [MlflowRunLink(), ReportLink()]


with_links()
"""


@pytest.fixture(scope="module")
def silent_store() -> Iterator[socket.socket]:
    """An object store that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture(scope="module", params=AUTH_MANAGERS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, silent_store: socket.socket
) -> Iterator[ApiServer]:
    home = tmp_path_factory.mktemp("airflow")
    (home / "dags").mkdir()
    (home / "dags" / "with_links.py").write_text(DAG)
    environment = {
        "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{silent_store.getsockname()[1]}",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "CAPTIONFLOW_MLFLOW_UI": "http://mlflow.example/",
    }
    with api_server(home, request.param, environment) as running:
        yield running


def artifact(folder: Path, content: bytes = PAGE, kind: str = EVALUATION) -> str:
    """Make an artifact with a report."""
    draft = begin(str(folder), kind, {}, [])
    run = {NOTE: {"experiment_id": "7", "run_id": "abc"}}
    draft.commit([draft.put("report.html", content)], counts={}, run=run)
    return str(folder)


def path(run_id: str) -> str:
    return f"/behind/a/proxy/captionflow/report/image_captioning/{run_id}/evaluate"


@pytest.mark.parametrize("kind", REPORTED)
def test_who_may_see_the_xcom_sees_the_report_and_nothing_in_it_runs(
    server: ApiServer, tmp_path: Path, kind: str
) -> None:
    server.publish(artifact(tmp_path / kind, kind=kind), f"seen_{kind}")
    answer = server.get(path(f"seen_{kind}"), "reader")
    assert (answer.status_code, answer.content) == (200, PAGE)
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["Content-Security-Policy"] == POLICY
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_others_do_not_see_it(server: ApiServer, tmp_path: Path) -> None:
    server.publish(artifact(tmp_path / "evaluation"), "guarded")
    to_login = server.get(path("guarded"))
    assert to_login.status_code == 307
    assert urlsplit(to_login.headers["Location"]).path.rstrip("/") == "/behind/a/proxy/auth/login"
    assert parse_qs(urlsplit(to_login.headers["Location"]).query) == {"next": [path("guarded")]}
    assert server.get(path("guarded"), accept="*/*").status_code == 401
    assert server.get(path("guarded"), "guest").status_code == 403
    # Nor do they learn of which runs there is one.
    assert server.get(path("never_was"), "guest").status_code == 403
    # All DAGs at once is for nobody.
    assert server.get(path("guarded").replace("image_captioning", "~"), "reader").status_code in (403, 404)


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("nothing", "evaluate: has made no artifact in nothing yet; look once it has succeeded\n"),
        ("number", "evaluate: has made no artifact in number yet; look once it has succeeded\n"),
        ("gone", "{uri}: there is no such artifact; check the path\n"),
        ("model", "{uri}: is an artifact of kind model; expected validation or evaluation\n"),
        ("without_report", "{uri}/report.html: is missing; make the artifact again\n"),
        ("damaged", "{uri}/report.html: differs from its manifest; make the artifact again\n"),
        ("longer", "{uri}/report.html: differs from its manifest; make the artifact again\n"),
    ],
)
def test_what_is_no_whole_report_is_not_shown_and_a_line_says_why(
    server: ApiServer, tmp_path: Path, case: str, said: str
) -> None:
    folder = tmp_path / "evaluation"
    if case not in ("nothing", "number", "gone"):
        artifact(folder, kind=MODEL if case == "model" else EVALUATION)
    if case == "without_report":
        (folder / "report.html").unlink()
    if case == "damaged":
        (folder / "report.html").write_bytes(PAGE.replace(b"test", b"best"))
    if case == "longer":
        (folder / "report.html").write_bytes(PAGE + PAGE)
    if case != "nothing":
        server.publish(1 if case == "number" else str(folder), case)
    answer = server.get(path(case), "reader")
    assert (answer.status_code, answer.text) == (404, said.format(uri=folder))
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_a_large_report_is_served_a_piece_at_a_time(server: ApiServer, tmp_path: Path) -> None:
    content = bytes(LARGEST)
    server.publish(artifact(tmp_path / "evaluation", content), "large")
    server.get(path("large"), "reader")  # what stays for the next one
    server.forget_peak_memory()
    before = server.peak_memory()
    assert server.get(path("large"), "reader").content == content
    assert server.peak_memory() - before < LARGEST // 2


def test_a_larger_one_is_not_served(server: ApiServer, tmp_path: Path) -> None:
    uri = artifact(tmp_path / "evaluation", bytes(LARGEST + 1))
    server.publish(uri, "too_large")
    answer = server.get(path("too_large"), "reader")
    assert answer.status_code == 413
    assert answer.text == f"{uri}/report.html: is larger than 50000000 bytes; open the file itself\n"


@pytest.mark.parametrize("run_id", ["manual__2026-01-02T03:04:05+00:00", "of/two/parts", "50% a?b#c ü"])
def test_any_run_id_has_an_address(
    server: ApiServer, tmp_path: Path, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from captionflow.airflow.links import report_path

    server.publish(artifact(tmp_path / "evaluation"), run_id)
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", server.url)
    address = report_path("image_captioning", run_id, "evaluate")
    assert server.get(address, "reader").content == PAGE
    # Whoever logs in on the way arrives there too.
    assert parse_qs(urlsplit(server.get(address).headers["Location"]).query) == {"next": [address]}


def test_a_store_that_does_not_answer_holds_up_nobody_else(server: ApiServer, silent_store: socket.socket) -> None:
    server.publish("s3://bucket/evaluation", "far_away")
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(server.get, path("far_away"), "reader")
        connection, _ = silent_store.accept()  # It waits for the store.
        with connection:
            assert server.get(f"{API}/monitor/health").status_code == 200
            assert not waiting.done()
            connection.recv(1 << 16)
            connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        answer = waiting.result()
    assert answer.status_code == 404
    assert answer.text.count("\n") == 1
    assert answer.text.startswith("s3://bucket/evaluation: ")


def run_with_links(server: ApiServer, uri: str | None) -> tuple[list[str], dict[str, str | None]]:
    """Run a task that returns `uri`; return what its log has against links and XComs, and the links Airflow shows."""
    command = [sys.executable, "-m", "airflow", "dags", "test", "with_links", "--conf", json.dumps({"uri": uri})]
    done = subprocess.run(command, env=server.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    amiss = [line for line in (done.stdout + done.stderr).splitlines() if AMISS.search(line)]
    runs = f"{API}/dags/with_links/dagRuns"
    (run, *_) = server.get(f"{runs}?order_by=-id", "reader").json()["dag_runs"]
    links = server.get(f"{runs}/{run['dag_run_id']}/taskInstances/evaluate/links", "reader")
    return amiss, links.json()["extra_links"]


def test_the_links_of_a_task_lead_to_its_report_and_its_run(server: ApiServer, tmp_path: Path) -> None:
    amiss, found = run_with_links(server, artifact(tmp_path / "evaluation"))
    assert found["MLflow run"] == "http://mlflow.example/#/experiments/7/runs/abc"
    assert found["Report"].startswith("/behind/a/proxy/captionflow/report/with_links/manual__")
    assert server.get(found["Report"], "reader").content == PAGE
    assert amiss == []


def test_a_task_that_made_nothing_has_no_button_for_it(server: ApiServer) -> None:
    amiss, found = run_with_links(server, None)
    assert found == {"MLflow run": None, "Report": None}  # Airflow shows no button for these.
    assert amiss == []
