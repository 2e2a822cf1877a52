"""Training away from Airflow's worker: what the form asks, and what pods and jobs are made and come to."""

import json
import os
import shutil
from collections.abc import Iterator
from copy import copy
from pathlib import Path
from typing import Any

import pytest

from captionflow.airflow import containers
from captionflow.captioner.parameters import TrainParameters
from captionflow.core.artifact import open_artifact
from captionflow.core.draft import begin
from captionflow.core.errors import InvalidInputError
from tests.dags import DAGS, import_errors, load
from tests.pipeline_services import service_account
from tests.servers import serve
from tests.test_dag import ROOT, Airflow, artifacts, conf_for
from tests.training_services import Cluster
from tests.vertex_training import VertexTraining, serve_vertex

# Each other than its default, so that one that is not passed on is seen.
TRAIN = {
    "epochs": 2, "batch_size": 8, "learning_rate": 0.002, "warmup_share": 0.2, "weight_decay": 0.01,
    "label_smoothing": 0.05, "gradient_clip": 2.0, "patience": 3, "width": 32, "encoder_depth": 0, "decoder_depth": 1,
    "heads": 2, "dropout": 0.1, "min_count": 2, "max_vocabulary": 5000, "max_caption_length": 24, "loader_workers": 1,
    "device": "cpu", "seed": 7,
}  # fmt: skip
EVALUATE = {"beam_size": 2, "evaluate_batch_size": 8, "gallery_size": 2}


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Airflow:
    return Airflow(tmp_path_factory.mktemp("airflow"))


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    running = Cluster("training")
    with serve(running):
        yield running


def in_pods(airflow: Airflow, cluster: Cluster, **settings: str) -> Airflow:
    config = airflow.home / "kubeconfig"
    config.write_text(json.dumps(cluster.kubeconfig()))
    return airflow.set(
        train_on="kubernetes", train_image="registry.example/captionflow-evaluation:1",
        pod_namespace=cluster.namespace, pod_config_file=str(config), **settings,
    )  # fmt: skip


def conf_of(sample: Path, **changes: Any) -> dict[str, Any]:
    return conf_for(sample, **{**TRAIN, **EVALUATE, **changes})


ON_VERTEX = {
    "train_on": "vertex", "train_image": "registry.example/captionflow-evaluation:1", "vertex_project": "a-project",
    "vertex_region": "europe-west4", "vertex_staging_bucket": "gs://bucket/vertex",
    "vertex_service_account": "trainer@a-project",
}  # fmt: skip


# What only the machine that trains can tell.
BAD_THERE = {"device": "mps"}


def test_each_training_parameter_is_tried_with_another_value_than_its_default() -> None:
    schemas = TrainParameters.json_schema()
    assert schemas.keys() == TRAIN.keys()
    assert not [name for name, value in TRAIN.items() if value == schemas[name]["default"]]


def test_the_webserver_is_told_the_graph_and_a_form_that_says_nothing_of_places() -> None:
    from airflow.serialization.serialized_objects import DagSerialization

    dag = load(DAGS / "image_captioning.py")["image_captioning"]
    told = DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(dag))))
    assert told.get_task("evaluate").upstream_task_ids == {"train", "preprocess"}
    assert list(told.get_task("evaluate").extra_links) == ["MLflow run", "Report"]
    assert list(told.get_task("preprocess").extra_links)[-1] == "Dataset page"
    assert {"epochs", "artifact_root"} <= set(told.params)
    assert not {"train_on", "train_image", "train_cpu", "pod_namespace", "vertex_project"} & set(told.params)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"TRAIN_ON": "vertex", "VERTEX_REGION": "europe-west4"},
            "CAPTIONFLOW_TRAIN_ON: vertex needs CAPTIONFLOW_TRAIN_IMAGE and CAPTIONFLOW_VERTEX_PROJECT and "
            "CAPTIONFLOW_VERTEX_STAGING_BUCKET",
        ),
        ({"TRAIN_GPUS": "many"}, "CAPTIONFLOW_TRAIN_GPUS: 'many' is not of type integer"),
        ({"TRAIN_ON": "moon"}, "CAPTIONFLOW_TRAIN_ON: 'moon' is none of airflow, kubernetes, vertex"),
        ({"POD_NODE_LABELS": "gpu"}, "CAPTIONFLOW_POD_NODE_LABELS: 'gpu' is not NAME=VALUE"),
    ],
)
def test_a_deployment_that_says_no_usable_place_has_a_broken_dag_that_names_the_setting(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], message: str
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(f"CAPTIONFLOW_{name}", value)
    (error,) = import_errors(DAGS / "image_captioning.py").values()
    assert message in error.splitlines()[-1]


@pytest.mark.parametrize(
    ("place", "operator"),
    [("airflow", "StepOperator"), ("kubernetes", "PodStepOperator"), ("vertex", "VertexStepOperator")],
)
def test_the_deployment_chooses_the_operator_when_the_dag_is_built(
    monkeypatch: pytest.MonkeyPatch, place: str, operator: str
) -> None:
    for name, value in {**ON_VERTEX, "train_on": place}.items():
        monkeypatch.setenv(f"CAPTIONFLOW_{name.upper()}", value)
    tasks = load(DAGS / "image_captioning.py")["image_captioning"].task_dict
    assert {name: type(task).__name__ for name, task in tasks.items()} == {
        "ingest": "IngestOperator", "validate": "StepOperator", "preprocess": "PreprocessOperator", "train": operator,
        "evaluate": operator,
    }  # fmt: skip


def resumed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, task_id: str, kind: str
) -> tuple[Any, dict[str, Any], str]:
    """A task as Airflow builds it anew to go on after it waited, its context, and the artifact it waited for."""
    for name, value in ON_VERTEX.items():
        monkeypatch.setenv(f"CAPTIONFLOW_{name.upper()}", value)
    monkeypatch.setenv("CAPTIONFLOW_TRIGGER_PREFIXES", "*")
    dag = load(DAGS / "image_captioning.py")["image_captioning"]
    params = {**dag.params.dump(), "artifact_root": str(tmp_path)}
    draft = begin(f"{tmp_path}/image_captioning/a_run/{kind}", kind, {}, [])
    draft.commit([draft.put("file", b"content")], counts={})
    return dag.get_task(task_id), {"dag": dag, "run_id": "a_run", "params": params}, draft.uri


@pytest.mark.parametrize(("task_id", "kind"), [("preprocess", "preprocessed"), ("train", "model")])
def test_a_task_that_goes_on_in_another_process_returns_the_uri_of_its_artifact(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, task_id: str, kind: str
) -> None:
    task, context, uri = resumed(monkeypatch, tmp_path, task_id, kind)
    assert task.execute_complete(context, {"status": "success", "message": "", "job": {}}) == uri
    task.on_kill()


@pytest.mark.parametrize(("code", "is_final"), [(2, True), (1, False), (22, False)])
def test_vertex_tells_bad_input_by_the_exit_code_in_its_message(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int, is_final: bool
) -> None:
    from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

    task, context, _ = resumed(monkeypatch, tmp_path, "train", "model")
    error = {"message": f"The replica workerpool0-0 exited with a non-zero status of {code}. To find out more"}
    with pytest.raises(AirflowException) as caught:
        task.execute_complete(context, {"status": "error", "message": "failed", "job": {"error": error}})
    assert isinstance(caught.value, AirflowFailException) == is_final


@pytest.mark.security
def test_no_option_of_a_container_is_filled_in_from_its_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Kubernetes puts a variable in the place of $(NAME): keys of a Secret, for one."""
    task, context, _ = resumed(monkeypatch, tmp_path, "train", "model")
    assert "captionflow" in containers.command_of(task, context)
    context["params"]["artifact_root"] = "gs://bucket/$(PASSWORD)"
    with pytest.raises(InvalidInputError, match=r"holds '\$\(', which a container's command may not; leave it out"):
        containers.command_of(task, context)


WITHOUT_TORCH = """
import sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name=name)

sys.meta_path.insert(0, Finder())
"""


@pytest.mark.slow
def test_a_worker_without_pytorch_says_so_at_once(airflow: Airflow, small_sample: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_TORCH)
    airflow = copy(airflow)
    airflow.env = airflow.env | {"PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))}
    done = airflow.run_dag(conf_for(small_sample))
    assert done.returncode != 0
    assert (
        "train: this worker has no torch; install CaptionFlow's extra 'train' on it, or set CAPTIONFLOW_TRAIN_ON"
        in done.stdout
    )
    assert airflow.retried() == []


@pytest.mark.slow
def test_a_pod_trains_and_another_evaluates_to_what_the_worker_makes(
    airflow: Airflow, cluster: Cluster, small_sample: Path
) -> None:
    done = airflow.run_dag(conf_for(small_sample, **TRAIN, **EVALUATE))
    assert done.returncode == 0, done.stdout[-3000:]
    in_worker, xcoms = artifacts(airflow), airflow.xcoms()
    shutil.rmtree(airflow.artifacts)

    done = in_pods(airflow, cluster).run_dag(conf_of(small_sample))
    assert done.returncode == 0, done.stdout[-5000:]
    assert artifacts(airflow) == in_worker
    assert airflow.xcoms() == xcoms
    assert open_artifact(str(airflow.folder("model"))).manifest.parameters == TRAIN
    assert [pod["spec"]["containers"][0]["args"][0] for pod in cluster.made] == ["train", "evaluate"]
    assert len(cluster.deleted) == 2


@pytest.mark.slow
def test_a_pod_is_as_the_deployment_says_and_not_made_again_when_it_finds_its_input_bad(
    airflow: Airflow, cluster: Cluster, small_sample: Path
) -> None:
    settings = {
        "train_gpus": "2", "train_cpu": "3", "train_memory": "5Gi", "pod_service_account": "trainer",
        "pod_secret": "keys", "pod_node_labels": "cloud.google.com/gke-accelerator=nvidia-tesla-t4 pool=gpu",
    }  # fmt: skip
    airflow = in_pods(airflow, cluster, **settings)
    tracking = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_EXPERIMENT_NAME": "mine"}
    airflow.env |= tracking
    cluster.secrets["keys"] = {"MLFLOW_TRACKING_PASSWORD": "of the Secret"}
    done = airflow.run_dag(conf_of(small_sample, **BAD_THERE))
    assert done.returncode != 0
    assert "captionflow: --device: this machine has no mps" in done.stdout
    assert "The input or a parameter is bad" in done.stdout
    assert airflow.retried() == []
    (pod,) = cluster.made
    (container,) = pod["spec"]["containers"]
    takes = {"cpu": "3", "memory": "5Gi"}
    assert container["resources"] == {"requests": takes, "limits": {**takes, "nvidia.com/gpu": "2"}}
    assert container["image"] == "registry.example/captionflow-evaluation:1"
    assert pod["spec"]["activeDeadlineSeconds"] == 24 * 60 * 60
    assert pod["spec"]["serviceAccountName"] == "trainer"
    assert pod["spec"]["nodeSelector"] == {
        "cloud.google.com/gke-accelerator": "nvidia-tesla-t4", "pool": "gpu",
    }  # fmt: skip
    environment = {variable["name"]: variable["value"] for variable in container["env"]}
    assert environment == {"CAPTIONFLOW_URI_SCHEMES": "memory", **tracking}
    assert container["envFrom"] == [{"secretRef": {"name": "keys"}}]
    assert "password" not in json.dumps(pod).lower()


@pytest.mark.security
@pytest.mark.parametrize("server", ["http://me:password@127.0.0.1:9", "sqlite:////mlflow.db"])
def test_a_container_does_not_receive_a_tracking_server_that_is_none_or_has_a_password(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, server: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    assert "MLFLOW_TRACKING_URI" not in containers.environment()
    assert "names no server, or holds a password" in caplog.text


@pytest.mark.slow
def test_a_pod_that_loses_its_node_is_made_again(airflow: Airflow, cluster: Cluster, small_sample: Path) -> None:
    cluster.kill = 1
    done = in_pods(airflow, cluster).run_dag(conf_of(small_sample))
    assert done.returncode == 0, done.stdout[-5000:]
    assert airflow.retried() == ["train"]
    assert len(cluster.made) == 3


@pytest.fixture
def vertex(tmp_path: Path) -> Iterator[VertexTraining]:
    account = service_account("airflow@a-project", project_id="a-project", token_uri="http://127.0.0.1:9/unasked")
    (tmp_path / "account.json").write_text(json.dumps(account))
    with serve_vertex(tmp_path) as running:
        running.env |= {
            "GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "account.json"),
            "AIRFLOW_CONN_GOOGLE_CLOUD_DEFAULT": "google-cloud-platform://",
        }
        yield running


def on(vertex: VertexTraining, airflow: Airflow) -> Airflow:
    found = airflow.set(**ON_VERTEX)
    found.env |= vertex.env
    return found


@pytest.mark.slow
def test_vertex_trains_and_evaluates_on_a_gpu_and_a_lost_machine_is_replaced(
    airflow: Airflow, vertex: VertexTraining, small_sample: Path
) -> None:
    vertex.kill = 1
    done = on(vertex, airflow).run_dag(conf_of(small_sample))
    assert done.returncode == 0, done.stdout[-5000:]
    assert airflow.retried() == ["train"]
    assert open_artifact(str(airflow.folder("model"))).manifest.parameters == TRAIN
    open_artifact(str(airflow.folder("evaluation"))).verify()
    assert airflow.xcoms()["evaluate"] == str(airflow.folder("evaluation"))
    inputs = [job["training_task_inputs"] for job in vertex.jobs]
    assert [task["worker_pool_specs"][0]["containerSpec"]["command"][1] for task in inputs] == [
        "train", "train", "evaluate",
    ]  # fmt: skip
    assert set(vertex.parents) == {"projects/a-project/locations/europe-west4"}
    for task in inputs:
        (pool,) = task["worker_pool_specs"]
        assert pool["containerSpec"]["imageUri"] == ON_VERTEX["train_image"]
        assert pool["machine_spec"] == {
            "machine_type": "n1-standard-8", "accelerator_type": "NVIDIA_TESLA_T4", "accelerator_count": 1,
        }  # fmt: skip
        assert task["service_account"] == ON_VERTEX["vertex_service_account"]
        assert task["base_output_directory"]["output_uri_prefix"].startswith("gs://bucket/vertex/")


@pytest.mark.slow
def test_a_job_that_finds_its_input_bad_is_not_made_again(
    airflow: Airflow, vertex: VertexTraining, small_sample: Path
) -> None:
    done = on(vertex, airflow).run_dag(conf_of(small_sample, **BAD_THERE))
    assert done.returncode != 0
    assert "exited with a non-zero status of 2" in done.stdout
    assert "The input or a parameter is bad" in done.stdout
    assert airflow.retried() == []
    assert len(vertex.jobs) == 1
