"""The Beam operator in real runs: jobs that say much, that fail, and whose tasks are stopped."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.airflow_services import served, services
from tests.processes import wait_until
from tests.test_dag import RUN_AT, Airflow

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-m", "tests.dag_test", "beam", RUN_AT, "{}"]
# What the provider asks it for, at once; jobs here need no more of it.
BEAM = "__version__ = '2.77.0'"
DAG = """
import sys
from datetime import timedelta
from airflow.sdk import DAG
from captionflow.airflow.beam_operator import BeamOperator
with DAG("beam"):
    BeamOperator(task_id="job", py_file={job!r}, py_interpreter=sys.executable, **{arguments})
"""
FLOOD = """
import sys
for pipe in (sys.stdout, sys.stderr):
    pipe.write(("x" * 99 + "\\n") * 10_000)
    pipe.flush()
print("that was all")
"""
LEVELS = """
import logging, sys
logging.basicConfig(level=logging.INFO)
print("  50%|#####     | 1/2", file=sys.stderr)
logging.info("so far so good")
logging.warning("one is odd\\nas told")
logging.error("one is lost")
print("INFO:root:\\x1b[31mred", file=sys.stderr)
"""
# Neither it nor its child can be ended but by SIGKILL.
ENDLESS = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen(["sh", "-c", "trap '' TERM; while true; do sleep 1; done"])
with open("{pids}", "a") as file:
    file.write(f"{{os.getpid()}} {{child.pid}}\\n")
while True:
    print("at work", flush=True)
    time.sleep(1)
"""
REFUSED = "deferrable: the triggerer cannot wait for DirectRunner; leave it out, or run on DataflowRunner"


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Airflow:
    return Airflow(tmp_path_factory.mktemp("airflow"))


@pytest.fixture
def environment(airflow: Airflow, tmp_path: Path) -> dict[str, str]:
    """Airflow's, with DAGs and a Beam of the test's own."""
    (tmp_path / "beam").mkdir()
    (tmp_path / "beam" / "apache_beam.py").write_text(BEAM)
    path = os.pathsep.join((str(tmp_path / "beam"), airflow.env["PYTHONPATH"]))
    return airflow.env | {"AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path / "dags"), "PYTHONPATH": path}


@pytest.fixture
def pids(tmp_path: Path) -> Iterator[Path]:
    """Where endless jobs write who they are; none of them stays after a test that failed."""
    path = tmp_path / "pids"
    yield path
    for pid in [pid for begun in jobs(path) for pid in begun]:
        if psutil.pid_exists(pid):
            os.kill(pid, signal.SIGKILL)


def jobs(pids: Path) -> list[list[int]]:
    """Return each job that has begun, as the process ids of it and its child."""
    lines = pids.read_text().splitlines() if pids.exists() else []
    return [[int(pid) for pid in line.split()] for line in lines]


def write(folder: Path, job: str, arguments: str = "{}") -> None:
    """Write a DAG of one task, and what it runs."""
    (folder / "dags").mkdir()
    (folder / "job.py").write_text(job)
    (folder / "dags" / "beam.py").write_text(DAG.format(job=str(folder / "job.py"), arguments=arguments))


def run(environment: dict[str, str]) -> tuple[int, str]:
    """Run the DAG, and return its exit code and what is in the log."""
    done = subprocess.run(COMMAND, env=environment, capture_output=True, text=True, check=False, timeout=600)
    return done.returncode, done.stdout + done.stderr


def levels(log: str, words: str) -> set[str]:
    """Return the levels at which the task logs words."""
    return set(re.findall(rf"\[(\w+) *\] [^\n]*{re.escape(words)}", log))


def test_a_job_that_says_much_on_both_pipes_ends(environment: dict[str, str], tmp_path: Path) -> None:
    write(tmp_path, FLOOD)
    code, log = run(environment)
    assert code == 0, log[-3000:]
    assert log.count("x" * 99) == 20_000
    assert "that was all" in log


def test_what_a_job_says_keeps_its_level_and_acts_on_nothing(environment: dict[str, str], tmp_path: Path) -> None:
    write(tmp_path, LEVELS)
    code, log = run(environment)
    assert code == 0, log[-3000:]
    told = {"1/2": "info", "so far so good": "info", "one is odd": "warning", "as told": "warning"}
    told |= {"one is lost": "error", r"\u001b[31mred": "info"}
    assert {words: levels(log, words) for words in told} == {words: {level} for words, level in told.items()}
    assert "dataflow_config" not in log


def test_a_job_that_fails_gives_one_clear_line(environment: dict[str, str], tmp_path: Path) -> None:
    write(tmp_path, "import sys; sys.exit('preprocess: no picture is left')")
    code, log = run(environment)
    assert code == 1
    assert "AirflowException: The job ended with exit code 1: preprocess: no picture is left\n" in log


def test_waiting_in_the_triggerer_is_refused_off_dataflow(environment: dict[str, str], tmp_path: Path) -> None:
    write(tmp_path, "print('begun')", "{'deferrable': True, 'retries': 1}")
    code, log = run(environment)
    assert code == 1
    assert f"AirflowFailException: {REFUSED}\n" in log
    assert "begun" not in log
    assert "up_for_retry" not in log.lower()


def test_a_deployment_that_likes_deferrable_operators_runs_jobs_all_the_same(
    environment: dict[str, str], tmp_path: Path
) -> None:
    write(tmp_path, "print('begun')")
    code, log = run({**environment, "AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE": "True"})
    assert code == 0, log[-3000:]
    assert "begun" in log


def test_a_task_out_of_time_ends_its_job(environment: dict[str, str], tmp_path: Path, pids: Path) -> None:
    write(tmp_path, ENDLESS.format(pids=pids), "{'execution_timeout': timedelta(seconds=10)}")
    code, log = run(environment)
    assert code == 1
    assert "AirflowTaskTimeout" in log
    (job,) = jobs(pids)
    assert not any(map(psutil.pid_exists, job))


def test_a_task_that_is_cleared_or_marked_failed_ends_its_job(
    airflow: Airflow, environment: dict[str, str], tmp_path: Path, pids: Path
) -> None:
    write(tmp_path, ENDLESS.format(pids=pids), "{'retries': 1}")
    with services(airflow.home, served(environment), "beam") as api:
        api.begin("stopped")
        wait_until(lambda: len(jobs(pids)) == 1, seconds=200)
        api.clear("stopped", "job")
        wait_until(lambda: not any(map(psutil.pid_exists, jobs(pids)[0])), seconds=100)
        wait_until(lambda: len(jobs(pids)) == 2, seconds=200)
        api.mark_failed("stopped", "job")
        wait_until(lambda: not any(map(psutil.pid_exists, jobs(pids)[1])), seconds=100)
        assert api.state("stopped", "job") == "failed"
    assert len(jobs(pids)) == 2


def test_a_task_that_is_told_to_end_ends_its_job_and_has_failed(
    environment: dict[str, str], tmp_path: Path, pids: Path
) -> None:
    """As when a worker shuts down: the task gets a SIGTERM."""
    write(tmp_path, ENDLESS.format(pids=pids))
    with (tmp_path / "log").open("wb") as log:
        task = subprocess.Popen(COMMAND, env=environment, stdout=log, stderr=log)
    wait_until(lambda: len(jobs(pids)) == 1, seconds=200)
    task.terminate()
    assert task.wait(100) == 1
    assert "AirflowException: The job was ended with its task\n" in (tmp_path / "log").read_text()
    assert not any(map(psutil.pid_exists, jobs(pids)[0]))
