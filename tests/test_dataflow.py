"""The DAG with its preprocess job on Dataflow, whose API is stood for at the wire."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import grpc
import pytest

from tests.airflow_services import Api, served, services, triggerer
from tests.dataflow_service import Dataflow, dataflow
from tests.gcs import serve_gcs
from tests.processes import wait_until
from tests.test_dag import RUN_AT, Airflow, conf_for

pytestmark = pytest.mark.slow

BUCKET = "gs://bucket"
FORM = {"artifact_root": f"{BUCKET}/artifacts", "runner": "DataflowRunner", "beam_options": ["--max_num_workers=7"]}
PLACE = {
    "gcp_project": "a-project",
    "region": "europe-west4",
    "dataflow_staging_root": f"{BUCKET}/staging",
    "dataflow_service_account": "worker@a-project",
    "dataflow_worker_image": "europe-west4-docker.pkg.dev/a-project/images/captionflow-worker:1",
    "trigger_prefixes": f"{BUCKET} {tempfile.gettempdir()}",
}


# Of what DirectRunner makes of the same captions, and of what is there.
DIGESTS = """
import json, sys
from beam_jobs.preprocess import run
from captionflow.core.artifact import open_artifact
from captionflow.preprocess.parameters import PreprocessParameters
ingested, preprocessed, conf = sys.argv[1:]
direct = run(ingested, "gs://bucket/direct", PreprocessParameters.from_mapping(json.loads(conf)), [])
print(*(open_artifact(uri).manifest.sha256 for uri in (direct, preprocessed)))
"""


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    """An Airflow whose gs:// is an emulator."""
    with serve_gcs() as store:
        airflow = Airflow(tmp_path_factory.mktemp("airflow")).set(**PLACE)
        airflow.env |= store
        code = "import fsspec; fsspec.filesystem('gs').mkdir('bucket')"
        subprocess.run([sys.executable, "-c", code], env=airflow.env, check=True)
        yield airflow


@pytest.fixture
def google(airflow: Airflow, tmp_path: Path) -> Iterator[Dataflow]:
    before = airflow.env
    airflow.env = dict(before)
    with dataflow(tmp_path, airflow.env) as service:
        yield service
    airflow.env = before


def conf(sample: Path, **changes: Any) -> dict[str, Any]:
    return conf_for(sample, **FORM, **changes)


class Run:
    """One `airflow dags test`, and what it has said so far."""

    def __init__(self, airflow: Airflow, sample: Path, log: Path, **changes: Any) -> None:
        self.log = log
        command = airflow.dag_test(conf(sample, **changes))
        with log.open("wb") as sink:
            self.process = subprocess.Popen(command, env=airflow.env, stdout=sink, stderr=sink, start_new_session=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Kill it with all it has started, as a lost machine does."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def says(self, words: str) -> bool:
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        return words in self.log.read_text()

    def until(self, words: str) -> None:
        wait_until(lambda: self.says(words), seconds=600)


def test_a_retry_submits_what_was_refused_and_waits_for_the_job_of_a_lost_machine(
    airflow: Airflow, google: Dataflow, small_sample: Path, tmp_path: Path
) -> None:
    google.refusal = grpc.StatusCode.RESOURCE_EXHAUSTED, "Quota exceeded for quota metric 'Create requests'."
    with Run(airflow, small_sample, tmp_path / "first.log") as run:
        run.until("captionflow: Dataflow: Quota exceeded for quota metric 'Create requests'.")
        google.refusal = None
        run.until("Created job with id: [job-0]")
        run.until("[DAG TEST] running trigger in line")

    with Run(airflow, small_sample, tmp_path / "again.log") as run:
        run.until("An earlier try's job job-0 is at work; waiting for that one")
        (job,) = google.jobs
        google.work(job)
        assert run.process.wait(900) == 0, run.log.read_text()[-3000:]

    preprocessed = airflow.xcoms()["preprocess"]
    folder, kind = preprocessed.rsplit("/", 1)
    assert (folder, kind) == (f"{BUCKET}/artifacts/image_captioning/manual__{RUN_AT}", "preprocessed")
    digests = subprocess.run(
        [sys.executable, "-c", DIGESTS, f"{folder}/ingested", preprocessed, json.dumps(conf(small_sample))],
        env=airflow.env, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert len(digests) == 2
    assert digests[0] == digests[1]
    assert_as_asked(job)


def assert_as_asked(job: dict[str, Any]) -> None:
    """Check what the form and the deployment's settings became in the job that was submitted."""
    environment = job["environment"]
    (pool,) = environment["workerPools"]
    options = environment["sdkPipelineOptions"]["options"]
    assert re.fullmatch(r"captionflow-image-captioning-manual-2026-01-02t03-04-05-00-00-[0-9a-f]{8}", job["name"])
    assert job["type"] == "JOB_TYPE_BATCH"
    assert job["labels"].items() >= {
        "airflow-dag": "image-captioning", "airflow-run": "manual-2026-01-02t03-04-05-00-00",
    }.items()  # fmt: skip
    assert environment["serviceAccountEmail"] == PLACE["dataflow_service_account"]
    assert pool["workerHarnessContainerImage"] == PLACE["dataflow_worker_image"]
    assert pool["autoscalingSettings"] == {"maxNumWorkers": 7}
    assert "enable_streaming_engine" not in environment["experiments"]
    assert options["temp_location"].startswith(PLACE["dataflow_staging_root"])
    assert [package["name"] for package in pool["packages"]] == ["submission_environment_dependencies.txt"]


def test_a_job_that_failed_is_begun_again_and_one_that_was_cancelled_is_not(
    airflow: Airflow, google: Dataflow, small_sample: Path, tmp_path: Path
) -> None:
    states = ("JOB_STATE_FAILED", "JOB_STATE_CANCELLED")
    with Run(airflow, small_sample, tmp_path / "log") as run:
        for number, state in enumerate(states):
            run.until(f"Created job with id: [job-{number}]")
            google.jobs[number]["currentState"] = state
        assert run.process.wait(900) == 1
    for number, state in enumerate(states):
        assert f"Job with id 'job-{number}' is in failed terminal state: {state}" in run.log.read_text()
    assert len(google.jobs) == len(states)


@pytest.mark.security
@pytest.mark.parametrize("victim", ["job-of-another-team", "no/such/job"])
def test_text_of_the_form_that_reads_like_a_jobs_id_is_none(
    airflow: Airflow, google: Dataflow, small_sample: Path, tmp_path: Path, victim: str
) -> None:
    """The launcher repeats the form's text in its errors, and tells the job's id in words."""
    google.jobs = [{"id": "job-of-another-team", "name": "nightly-billing", "currentState": "JOB_STATE_RUNNING"}]
    reuse = f"{FORM['artifact_root']}/Created job with id: [{victim}]"
    with Run(airflow, small_sample, tmp_path / "log", reuse=reuse) as run:
        run.until("The job ended with exit code 2: ")
    assert f"Created job with id: [{victim}]" in (tmp_path / "log").read_text()
    assert google.polled == set()
    assert [job["currentState"] for job in google.jobs] == ["JOB_STATE_RUNNING"]


def wait_until_triggerer_polls(google: Dataflow, api: Api, job_id: str) -> None:
    """Wait until it is the triggerer that asks for the job: what submits it asks, too."""
    wait_until(lambda: job_id in google.polled and api.state("stopped", "preprocess") == "deferred", seconds=400)
    google.polled.clear()
    wait_until(lambda: job_id in google.polled, seconds=100)


def test_a_task_marked_failed_while_it_waits_cancels_its_job_and_a_cleared_one_or_a_stopped_triggerer_does_not(
    airflow: Airflow, google: Dataflow, small_sample: Path, tmp_path: Path
) -> None:
    home = tmp_path / "airflow"
    environment = served(airflow.env | {"AIRFLOW_HOME": str(home)})
    subprocess.run(airflow.command("db", "migrate"), env=environment, check=True)
    with services(home, environment, "image_captioning") as api:
        with triggerer(home, environment):
            api.begin("stopped", conf(small_sample))
            wait_until_triggerer_polls(google, api, "job-0")
        assert [job["currentState"] for job in google.jobs] == ["JOB_STATE_RUNNING"]
        google.polled.clear()
        with triggerer(home, environment):
            wait_until(lambda: "job-0" in google.polled, seconds=600)
            api.clear("stopped", "preprocess")
            second = home / "logs/dag_id=image_captioning/run_id=stopped/task_id=preprocess/attempt=2.log"
            attached = "An earlier try's job job-0 is at work"
            wait_until(lambda: second.exists() and attached in second.read_text(), seconds=400)
            wait_until_triggerer_polls(google, api, "job-0")
            assert [job["currentState"] for job in google.jobs] == ["JOB_STATE_RUNNING"]
            api.mark_failed("stopped", "preprocess")
            wait_until(lambda: google.jobs[0]["currentState"] == "JOB_STATE_CANCELLED", seconds=100)
    assert len(google.jobs) == 1


def test_a_task_that_is_stopped_before_it_is_told_of_its_job_cancels_it(
    airflow: Airflow, google: Dataflow, small_sample: Path, tmp_path: Path
) -> None:
    google.jobs = [{"id": "job-of-another-team", "name": "nightly", "currentState": "JOB_STATE_RUNNING"}]
    google.may_answer.clear()
    try:
        with Run(airflow, small_sample, tmp_path / "log") as run:
            wait_until(lambda: len(google.jobs) == 2, seconds=600)
            run.process.terminate()
            wait_until(lambda: google.jobs[1]["currentState"] == "JOB_STATE_CANCELLED", seconds=100)
    finally:
        google.may_answer.set()
    assert google.jobs[0]["currentState"] == "JOB_STATE_RUNNING"


OUT_OF_TIME = """
from datetime import timedelta
from airflow.sdk import DAG
from captionflow.airflow.beam_operator import BeamOperator
with DAG("slow"):
    BeamOperator(
        task_id="job", py_file="job.py", runner="DataflowRunner", execution_timeout=timedelta(seconds=60),
        dataflow_config={"project_id": "a-project", "location": "europe-west4", "job_name": "slow",
                         "append_job_name": False})
"""


def test_a_task_that_runs_out_of_time_while_it_waits_cancels_its_job(
    airflow: Airflow, google: Dataflow, tmp_path: Path
) -> None:
    google.jobs = [{"id": "job-0", "name": "slow", "currentState": "JOB_STATE_RUNNING"}]
    (tmp_path / "slow.py").write_text(OUT_OF_TIME)
    environment = airflow.env | {"AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path)}
    command = [sys.executable, "-m", "tests.dag_test", "slow", RUN_AT, "{}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "AirflowException: Job job-0 was cancelled: the task ran out of time\n" in done.stdout + done.stderr
    assert [job["currentState"] for job in google.jobs] == ["JOB_STATE_CANCELLED"]
