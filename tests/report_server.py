"""Airflow's API server with our plugin, behind a path, under one of its auth managers."""

import json
import os
import secrets
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.processes import answers, free_port, wait_until

AUTH_MANAGERS = {
    "simple": "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager",
    "fab": "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager",
}
# `reader` may see the XComs of DAGs; `guest` is known, and may not.
SIMPLE_USERS = "reader:viewer,guest:"
ADD_FAB_USERS = """
import json, sys
from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder

with get_application_builder() as builder:
    manager = builder.sm
    manager.bulk_sync_roles([{"role": "DAGs alone", "perms": [("can_read", "DAGs"), ("can_read", "Website")]}])
    for name, password in json.load(sys.stdin).items():
        role = manager.find_role({"reader": "Viewer", "guest": "DAGs alone"}[name])
        assert manager.add_user(name, name, name, f"{name}@example.com", role, password)
"""


@dataclass(frozen=True)
class ApiServer:
    """A running API server."""

    url: str  # with its path
    pid: int
    home: Path
    environment: Mapping[str, str]
    tokens: Mapping[str, str]

    def get(self, path: str, user: str | None = None, accept: str = "text/html") -> httpx.Response:
        """Ask for a path of the server as a browser does, whose session is a cookie."""
        cookies = {"_token": self.tokens[user]} if user else {}
        address = httpx.URL(self.url).join(path)
        return httpx.get(address, cookies=cookies, headers={"Accept": accept}, timeout=120)

    def publish(self, value: object, run_id: str, dag_id: str = "image_captioning", task_id: str = "evaluate") -> None:
        """Note a task's XCom as Airflow does."""
        with sqlite3.connect(self.home / "airflow.db") as database:
            database.execute(
                "INSERT INTO xcom (dag_run_id, task_id, map_index, key, dag_id, run_id, value, timestamp)"
                " VALUES (abs(random()), ?, -1, 'return_value', ?, ?, ?, '2026-01-02 03:04:05')",
                (task_id, dag_id, run_id, json.dumps(value)),
            )

    def peak_memory(self) -> int:
        """Return the most bytes of memory that the server has held at a time since `forget_peak_memory`."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

    def forget_peak_memory(self) -> None:
        """Begin anew with `peak_memory`."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")


@contextmanager
def api_server(home: Path, auth_manager: str, environment: Mapping[str, str]) -> Iterator[ApiServer]:
    """Run a server with a database, users and a home of its own."""
    port = free_port()
    url = f"http://localhost:{port}/behind/a/proxy"
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__CORE__AUTH_MANAGER": AUTH_MANAGERS[auth_manager],
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": SIMPLE_USERS,
        **environment,
    }
    airflow = [sys.executable, "-m", "airflow"]
    subprocess.run([*airflow, "db", "migrate"], env=environment, check=True, capture_output=True)
    passwords = {name: secrets.token_urlsafe() for name in ("reader", "guest")}
    if auth_manager == "fab":
        command = [sys.executable, "-c", ADD_FAB_USERS]
        told = json.dumps(passwords)
        subprocess.run(command, input=told, env=environment, check=True, capture_output=True, text=True)
    else:
        (home / "simple_auth_manager_passwords.json.generated").write_text(json.dumps(passwords))
    with (home / "api-server.log").open("wb") as log:
        process = subprocess.Popen([*airflow, "api-server"], env=environment, stdout=log, stderr=log)
    try:
        wait_until(lambda: answers(f"{url}/api/v2/monitor/health") or process.poll() is not None, seconds=600)
        assert process.poll() is None, (home / "api-server.log").read_text()[-3000:]
        tokens = {name: _token(url, name, password) for name, password in passwords.items()}
        yield ApiServer(url, process.pid, home, environment, tokens)
    finally:
        process.terminate()
        process.wait()


def _token(url: str, name: str, password: str) -> str:
    answer = httpx.post(f"{url}/auth/token", json={"username": name, "password": password}, timeout=120)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["access_token"])
