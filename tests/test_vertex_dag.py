"""The DAG that sends the TFX pipeline to Vertex AI: how it parses, what its form offers, what it sends and awaits."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from beam_jobs.parameters import DataflowParameters
from kfp_pipeline.names import input_of
from kfp_pipeline.parameters import CompileParameters
from kfp_pipeline.pipeline import compile_pipeline, pipeline_inputs
from tests.dags import DAGS, load
from tests.pipeline_services import VertexPipelines

ROOT = Path(__file__).parents[1]
RUN = {"project": "a-project", "region": "europe-west4", "pipeline_root": "gs://a-bucket/vertex"}


def deploy(monkeypatch: pytest.MonkeyPatch, **settings: str) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(f"CAPTIONFLOW_VERTEX_{name.upper()}", value)


def with_spec(monkeypatch: pytest.MonkeyPatch, spec: Path) -> Any:
    """Return the DAG as it is with a compiled pipeline."""
    monkeypatch.setenv("CAPTIONFLOW_VERTEX_SPEC", str(spec))
    return load(DAGS / "image_captioning_vertex.py")["image_captioning_vertex"]


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compiled pipeline with parameters of its own."""
    file = tmp_path_factory.mktemp("spec") / "pipeline.json"
    compile_pipeline(CompileParameters(), str(file))
    return file


def start(dag: Any, **params: Any) -> Any:
    """Render and execute the task as Airflow does, with a task instance that keeps no XComs."""
    task = dag.get_task("run_pipeline")
    context = {
        "dag": dag, "task": task, "run_id": "manual__1", "params": {**dag.params.dump(), **params},
        "ti": SimpleNamespace(xcom_push=lambda **_: None),
    }  # fmt: skip
    task.render_template_fields(context)
    return task.execute(context)


def test_it_parses_without_a_compiled_pipeline_and_asks_for_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    dag = with_spec(monkeypatch, tmp_path / "none.json")
    dag.params.validate()
    assert set(dag.params) == set()
    (task,) = dag.tasks
    assert task.retries > 0
    assert task.execution_timeout is not None


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"root": 1}', '{"root": {"inputDefinitions": {"parameters": {"a": {}}}}}']
)
def test_it_parses_whatever_lies_in_the_pipelines_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str
) -> None:
    (tmp_path / "broken.json").write_text(content)
    assert len(with_spec(monkeypatch, tmp_path / "broken.json").params) == 0


def test_the_form_offers_the_pipelines_own_parameters(monkeypatch: pytest.MonkeyPatch, spec: Path) -> None:
    dag = with_spec(monkeypatch, spec)
    dag.params.validate()
    assert set(dag.params) == set(pipeline_inputs()) - {input_of(name) for name in DataflowParameters.json_schema()}
    for name in dag.params:
        assert dag.params.get_param(name).description
    assert dag.params.get_param("epochs").schema["type"] == ["null", "integer"]


def test_parsing_imports_nothing_heavy() -> None:
    code = (
        "import sys; from tests.dags import DAGS, load; load(DAGS / 'image_captioning_vertex.py');"
        "print([m for m in ('torch', 'apache_beam', 'tensorflow', 'tfx', 'kfp', 'google.cloud.aiplatform')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"project": ""}, "CAPTIONFLOW_VERTEX_PROJECT: is empty; the deployment must set it"),
        ({"region": ""}, "CAPTIONFLOW_VERTEX_REGION: is empty; the deployment must set it"),
        ({"spec": "/nowhere/spec.json"}, "CAPTIONFLOW_VERTEX_SPEC: /nowhere/spec.json: no such file"),
    ],
)
def test_a_setting_that_cannot_work_fails_at_once(
    monkeypatch: pytest.MonkeyPatch, spec: Path, settings: dict[str, str], message: str
) -> None:
    from airflow.providers.common.compat.sdk import AirflowFailException

    deploy(monkeypatch, **{"spec": str(spec), **RUN, **settings})
    dag = load(DAGS / "image_captioning_vertex.py")["image_captioning_vertex"]
    with pytest.raises(AirflowFailException, match=message):
        start(dag)


OWN = {"component_artifact_root": "gs://a-bucket/artifacts", "sources": ["gs://a-bucket/captions.json"], "epochs": 3}


@pytest.mark.slow
@pytest.mark.parametrize(("pipeline", "own"), [("spec", OWN), ("compiled_tfx", {})], ids=["own parameters", "TFX"])
def test_it_submits_over_http_defers_and_ends_as_vertex_says(
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    google: tuple[VertexPipelines, dict[str, str]],
    pipeline: str,
    own: dict[str, Any],
) -> None:
    """Up to the trigger it is the wire; the trigger speaks gRPC, and only what it is told to await is seen here."""
    from airflow.providers.common.compat.sdk import AirflowException, TaskDeferred
    from google.cloud import aiplatform

    server, environment = google
    for name, value in {**environment, "AIRFLOW_CONN_GOOGLE_CLOUD_DEFAULT": "google-cloud-platform://"}.items():
        monkeypatch.setenv(name, value)
    aiplatform.init(api_endpoint=server.url, api_transport="rest")
    file: Path = request.getfixturevalue(pipeline)
    content = json.loads(file.read_bytes())
    dag = with_spec(monkeypatch, file)
    deploy(monkeypatch, **RUN, service_account="runner@b")
    monkeypatch.setenv("CAPTIONFLOW_TRIGGER_PREFIXES", "gs://a-bucket")
    with pytest.raises(TaskDeferred) as deferred:
        start(dag, **own)

    (job,) = server.jobs
    assert job["displayName"] == "image_captioning_vertex manual__1"
    assert job["pipelineSpec"] == content.get("pipelineSpec", content)
    assert job["runtimeConfig"]["gcsOutputDirectory"] == RUN["pipeline_root"]
    assert job["serviceAccount"] == "runner@b"
    sent = job["runtimeConfig"].get("parameterValues", {})
    assert {name: sent[name] for name in own} == own

    _, awaited = deferred.value.trigger.serialize()
    assert (awaited["project_id"], awaited["location"]) == ("a-project", "europe-west4")
    assert awaited["job_id"].startswith(job["pipelineSpec"]["pipelineInfo"]["name"])
    task = dag.get_task("run_pipeline")
    resumed = getattr(task, deferred.value.method_name)
    run = {"name": "projects/1/locations/europe-west4/pipelineJobs/2"}
    assert resumed({}, {"status": "success", "message": "", "job": run}) == run["name"]
    with pytest.raises(AirflowException, match="completed with status FAILED"):
        resumed({}, {"status": "error", "message": "Pipeline job 2 completed with status FAILED"})
