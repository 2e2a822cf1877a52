"""Airflow's services as processes of this machine, and what its user does through their API."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.processes import free_port, wait_until


@contextmanager
def service(home: Path, environment: Mapping[str, str], *command: str) -> Iterator[None]:
    """Run one of them."""
    with (home / f"{command[0]}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "airflow", *command], env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class Api:
    """What a user's browser asks of Airflow about one DAG."""

    def __init__(self, url: str, dag_id: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=120)
        self._dag = f"/api/v2/dags/{dag_id}"

    def begin(self, run_id: str, conf: dict[str, Any] | None = None) -> None:
        """Trigger a run, once the DAG is known."""
        wait_until(self._is_known, seconds=300)
        self._ask("PATCH", "", {"is_paused": False})
        self._ask("POST", "/dagRuns", {"dag_run_id": run_id, "logical_date": None, "conf": conf or {}})

    def state(self, run_id: str, task_id: str) -> str | None:
        """Return the state of a task of the run."""
        found = self._ask("GET", f"/dagRuns/{run_id}/taskInstances/{task_id}")["state"]
        return None if found is None else str(found)

    def mark_failed(self, run_id: str, task_id: str) -> None:
        """Press the button on the task's page."""
        self._ask("PATCH", f"/dagRuns/{run_id}/taskInstances/{task_id}", {"new_state": "failed"})

    def clear(self, run_id: str, task_id: str) -> None:
        """Have a task run again."""
        wanted = {"dag_run_id": run_id, "task_ids": [task_id], "only_failed": False, "dry_run": False}
        self._ask("POST", "/clearTaskInstances", wanted)

    def _is_known(self) -> bool:
        try:
            token = self._client.get("/auth/token")
            if token.status_code not in (200, 201):
                return False
            self._client.headers["Authorization"] = f"Bearer {token.json()['access_token']}"
            return self._client.get(self._dag).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        answer = self._client.request(method, self._dag + path, json=body)
        assert answer.is_success, answer.text
        return answer.json()


def served(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment in which Airflow's services find each other."""
    port = str(free_port())
    return {
        **environment,
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": port,
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        # No more than the one job of a test.
        "AIRFLOW__CORE__PARALLELISM": "2",
    }


@contextmanager
def triggerer(home: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """Run what waits for the tasks that are deferred."""
    with service(home, environment, "triggerer", "--skip-serve-logs"):
        yield


@contextmanager
def services(home: Path, environment: Mapping[str, str], dag_id: str) -> Iterator[Api]:
    """Run all of them but the triggerer, in an environment made by `served`."""
    url = environment["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"].removesuffix("/execution/")
    with (
        service(home, environment, "api-server"),
        service(home, environment, "dag-processor"),
        service(home, environment, "scheduler", "--skip-serve-logs"),
    ):
        yield Api(url, dag_id)
