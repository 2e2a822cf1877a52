"""deploy.sh and the secrets it uploads: however it ends, they do not stay in the bucket."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.processes import wait_until
from tests.test_deploy import Cloud, cloud_in

pytestmark = pytest.mark.security

SECRETS = "gs://the-bucket/data/captionflow"
# The first command that names the folder uploads to it.
UPLOAD, IMPORT, REMOVAL = f" {SECRETS}/", "variables import", f"storage rm {SECRETS}"
PATIENCE = 60


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    with cloud_in(tmp_path) as cloud:
        yield cloud


@pytest.fixture
def secrets(tmp_path: Path) -> str:
    file = tmp_path / "variables.json"
    file.write_text('{"password": "hunter2"}')
    return str(file)


def left(cloud: Cloud) -> list[Path]:
    return [path for path in (cloud.home / "the-bucket").rglob("*.json") if path.parent.name == "captionflow"]


def interrupt(cloud: Cloud, secrets: str, point: str, stop: Callable[[int], None], **environment: str) -> int:
    """Deploy, call `stop` with the process's id while gcloud is at `point`, and return the exit code."""
    process = cloud.start("--variables", secrets, "--no-smoke-run", GCLOUD_WAITS_AT=point, **environment)
    wait_until((cloud.home / "waiting").exists, PATIENCE)
    stop(process.pid)
    (cloud.home / "go").touch()
    process.communicate(timeout=PATIENCE)
    return process.returncode


def control_c(pid: int) -> None:
    """Interrupt the script and what it started, as a terminal does."""
    os.killpg(pid, signal.SIGINT)


@pytest.mark.parametrize("fault", ["variables import", "connections import"])
def test_a_failed_import_leaves_no_file(cloud: Cloud, secrets: str, fault: str) -> None:
    done = cloud.deploy("--variables", secrets, GCLOUD_FAILS_AT=fault)
    assert (done.returncode, left(cloud)) == (1, [])
    assert f"{fault}: denied" in done.stderr


@pytest.mark.parametrize("point", [UPLOAD, IMPORT, REMOVAL])
def test_control_c_leaves_no_file(cloud: Cloud, secrets: str, point: str) -> None:
    code = interrupt(cloud, secrets, point, control_c)
    assert (code, left(cloud)) == (130, [])


@pytest.mark.parametrize("point", [UPLOAD, IMPORT, REMOVAL])
@pytest.mark.parametrize(
    "kind",
    [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE, signal.SIGUSR1, signal.SIGALRM, signal.SIGXCPU],
)
def test_a_killed_script_leaves_no_file_though_its_gcloud_goes_on(
    cloud: Cloud, secrets: str, point: str, kind: signal.Signals
) -> None:
    code = interrupt(cloud, secrets, point, lambda pid: os.kill(pid, kind))
    assert (code, left(cloud)) == (128 + kind, [])


def test_control_c_leaves_no_file_though_nobody_reads_on(cloud: Cloud, secrets: str) -> None:
    """As in `deploy.sh 2>&1 | tee log`, where Ctrl-C ends tee too: gcloud's first word would be its last."""
    process = cloud.start("--variables", secrets, "--no-smoke-run", GCLOUD_WAITS_AT=IMPORT)
    wait_until((cloud.home / "waiting").exists, PATIENCE)
    for stream in (process.stdout, process.stderr):
        assert stream
        stream.close()
    control_c(process.pid)
    (cloud.home / "go").touch()
    process.wait(PATIENCE)
    assert left(cloud) == []


def test_a_second_control_c_does_not_stop_the_removal(cloud: Cloud, secrets: str) -> None:
    removal = f"{REMOVAL}/variables.json"
    code = interrupt(cloud, secrets, removal, control_c, GCLOUD_FAILS_AT=IMPORT)
    assert (code, left(cloud)) == (1, [])


def test_a_file_that_cannot_be_removed_is_told(cloud: Cloud, secrets: str) -> None:
    done = cloud.deploy("--variables", secrets, GCLOUD_FAILS_AT=REMOVAL)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "deploy.sh: gs://the-bucket/data/captionflow/connections.json may still be there, with secrets in it; "
        f"remove it: ERROR: (gcloud) {REMOVAL}: denied"
    )


def test_no_password_is_an_argument_of_a_program_that_a_container_starts(tmp_path: Path) -> None:
    """Every user of the machine can read those in its list of processes."""
    for name in ("airflow", "captionflow", "python"):
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/started\n')
        program.chmod(0o755)
    script = Path(__file__).parents[2] / "docker" / "airflow-init.sh"
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "ADMIN_PASSWORD": "hunter2"}
    subprocess.run(["bash", str(script)], env=environment, check=True, input="", text=True)
    started = (tmp_path / "started").read_text()
    assert "python -" in started
    assert "hunter2" not in started
