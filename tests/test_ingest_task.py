"""The task ingest, in real runs: in the worker, or as a Beam job if the run's form names a runner for it."""

import json
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from captionflow.airflow.ingest_operator import IngestOperator
from captionflow.airflow.preprocess_operator import PreprocessOperator
from captionflow.core.artifact import open_artifact
from captionflow.core.steps import step_named
from tests.test_dag import RUN_AT, Airflow
from tests.test_ingest import coco

DAG = """
from airflow.sdk import DAG
from captionflow.airflow.form import RootParameters, form
from captionflow.airflow.workflow import task_of
from captionflow.core.steps import step_named, workflow

sections = {"run": RootParameters, **{step.name: step.parameters_class for step in workflow()}}
with DAG("alone", params=form(sections)):
    task_of(step_named("ingest"), {})
"""


def run(airflow: Airflow, *confs: dict[str, Any]) -> list[tuple[bool, str]]:
    """Run the DAG with each form; returns whether it succeeded, and what it said."""
    command = [sys.executable, "-m", "tests.dag_test", "alone", RUN_AT, "--each"]
    runs = json.dumps([{"conf": conf, "env": {}} for conf in confs])
    done = subprocess.run(command, env=airflow.env, input=runs, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]


@pytest.mark.slow
def test_the_task_makes_the_same_artifact_in_both_ways(tmp_path: Path) -> None:
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / "alone.py").write_text(DAG)
    (tmp_path / "captions.json").write_bytes(coco())
    (tmp_path / "broken.json").write_bytes(coco()[:-20])
    airflow = Airflow(tmp_path / "home")
    airflow.env |= {"AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path / "dags")}
    conf = {"artifact_root": str(tmp_path), "sources": [str(tmp_path / "captions.json")]}
    on_beam = {"ingest_runner": "DirectRunner", "beam_options": ["--direct_num_workers=1"]}
    broken = {**conf, **on_beam, "sources": [str(tmp_path / "broken.json")]}

    here, job, failed = run(airflow, {**conf, "beam_options": ["--direct_num_workers=1"]}, conf | on_beam, broken)

    assert (here[0], job[0], failed[0]) == (True, True, False), (here[1] + job[1])[-5000:]
    assert "--ingest-runner=DirectRunner" in job[1]
    assert "--ingest-runner" not in here[1]
    assert f"captionflow: {tmp_path}/broken.json: cannot be read to its end" in failed[1]
    moments = [datetime.fromisoformat(RUN_AT) + timedelta(minutes=number) for number in range(2)]
    digests = [
        open_artifact(f"{tmp_path}/alone/manual__{moment.isoformat()}/ingested").manifest.sha256 for moment in moments
    ]
    assert digests[0] == digests[1]


def test_the_two_jobs_of_a_run_have_two_names_on_dataflow() -> None:
    context: Any = {"dag": SimpleNamespace(dag_id="a_dag"), "run_id": "a_run"}
    ingest = IngestOperator(step=step_named("ingest"), uris={})
    preprocess = PreprocessOperator(step=step_named("preprocess"), uris={})
    assert ingest.job_name(context) == f"{preprocess.job_name(context)}-ingest"
