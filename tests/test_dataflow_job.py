"""How a run's Dataflow job is named and labelled."""

import re
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captionflow.core.steps import step_named

texts = st.text(min_size=1)


@pytest.fixture(scope="module")
def job() -> ModuleType:
    from captionflow.airflow import beam_operator  # Airflow, which it imports, takes seconds

    return beam_operator


@given(dag_id=texts, run_id=texts)
def test_any_run_has_a_name_that_dataflow_takes(job: ModuleType, dag_id: str, run_id: str) -> None:
    name = job.job_name(dag_id, run_id)
    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,1022}[a-z0-9])?", name)
    assert name == job.job_name(dag_id, run_id)


@given(first=texts, second=texts)
def test_two_runs_have_two_names(job: ModuleType, first: str, second: str) -> None:
    assert (job.job_name("dag", first) == job.job_name("dag", second)) == (first == second)


@given(text=texts)
def test_any_text_becomes_a_label(job: ModuleType, text: str) -> None:
    assert re.fullmatch(r"[a-z0-9-]{0,63}", job.label(text))


def test_the_two_jobs_of_a_run_have_two_names() -> None:
    from captionflow.airflow.ingest_operator import IngestOperator
    from captionflow.airflow.preprocess_operator import PreprocessOperator

    context: Any = {"dag": SimpleNamespace(dag_id="a_dag"), "run_id": "a_run"}
    ingest = IngestOperator(step=step_named("ingest"), uris={})
    preprocess = PreprocessOperator(step=step_named("preprocess"), uris={})
    assert ingest.job_name(context) == f"{preprocess.job_name(context)}-ingest"
