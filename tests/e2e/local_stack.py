"""`make airflow` in a home of its own, with PostgreSQL as its database, and an MLflow server."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from captionflow.sample.parameters import SampleParameters
from captionflow.sample.sample import sample
from tests.mlflow_server import mlflow_server
from tests.processes import answers, free_port, wait_until

ROOT = Path(__file__).parents[2]
START_SECONDS = 600


@dataclass(frozen=True)
class Stack:
    """A running Airflow: its address and the login of its `admin`."""

    url: str
    password: str


def postgres_programs() -> Path | None:
    """Return the folder of the newest PostgreSQL that Debian's packages have installed."""
    found = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    return max((path.parent for path in found), key=lambda path: int(path.parent.name), default=None)


@contextmanager
def postgres(programs: Path) -> Iterator[str]:
    """Run PostgreSQL, reached by a socket in its own folder alone; yield its address for SQLAlchemy."""
    with tempfile.TemporaryDirectory(prefix="captionflow-postgres-") as name:
        # It refuses to run as root; Debian's package brings a user for it.
        as_user = ["runuser", "--user", "postgres", "--"] if os.geteuid() == 0 else []
        if as_user:
            shutil.chown(name, "postgres")
        control = [*as_user, str(programs / "pg_ctl"), "--pgdata", f"{name}/data", "--log", f"{name}/log"]
        options = f"-c listen_addresses='' -c unix_socket_directories={name} -c fsync=off"
        quiet = {"check": True, "stdout": subprocess.DEVNULL, "cwd": name}
        subprocess.run(
            [*control, "initdb", "--options", "--username=captionflow --auth=trust --encoding=UTF8"], **quiet
        )
        subprocess.run([*control, "start", "--wait", "--options", options], **quiet)
        try:
            yield f"postgresql+psycopg2://captionflow@/postgres?host={name}"
        finally:
            subprocess.run([*control, "stop", "--mode", "immediate"], **quiet)


@contextmanager
def local_stack(folder: Path, programs: Path) -> Iterator[Stack]:
    """Run all of it on a small sample."""
    port = free_port()
    url = f"http://localhost:{port}"
    sample(str(folder / "artifacts" / "sample"), SampleParameters(images=80))
    with postgres(programs) as database, mlflow_server(folder) as mlflow:
        environment = os.environ | {
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database,
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
            "AIRFLOW__API__PORT": str(port),
            "AIRFLOW__API__BASE_URL": url,  # Else that of the Makefile that runs the tests.
            # A machine that does other things as well may take longer than 30 seconds for a DAG file.
            "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "300",
            "AIRFLOW__DAG_PROCESSOR__DAG_FILE_PROCESSOR_TIMEOUT": "400",
            "MLFLOW_TRACKING_URI": mlflow,
        }
        home = folder / "airflow"
        command = [
            "make", "airflow", f"ROOT={folder / 'artifacts'}", f"AIRFLOW_HOME={home}", f"CAPTIONFLOW_MLFLOW_UI={mlflow}"
        ]  # fmt: skip
        with (folder / "airflow.log").open("wb") as log:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        try:
            wait_until(lambda: answers(f"{url}/api/v2/monitor/health") or process.poll() is not None, START_SECONDS)
            assert process.poll() is None, (folder / "airflow.log").read_text()[-3000:]
            password = json.loads((home / "simple_auth_manager_passwords.json.generated").read_text())["admin"]
            yield Stack(url, password)
        finally:
            # Make passes nothing on, and the API server would wait for the browser.
            for ending in (signal.SIGTERM, signal.SIGKILL):
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, ending)
                process.wait()
