"""The Kubeflow pipeline without running it: its files, its compiled form, and how it is submitted."""

import json
import os
import socket
import subprocess
import sys
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from captionflow.captioner.parameters import TrainParameters
from captionflow.cli.main import app
from captionflow.evaluation.parameters import EvaluateParameters
from captionflow.preprocess.parameters import PreprocessParameters
from captionflow.sources.parameters import IngestParameters
from captionflow.validation.parameters import ValidateParameters
from kfp_pipeline.component_files import COMPONENTS, Component, content
from kfp_pipeline.parameters import CompileParameters
from kfp_pipeline.pipeline import compile_pipeline, pipeline_inputs
from tests.pipeline_services import KubeflowPipelines, VertexPipelines, body
from tests.processes import captionflow
from tests.servers import Site, send, serve

NEEDED = {"component_artifact_root": "gs://bucket/root", "sources": ["gs://bucket/captions.json"]}
TOKEN = "a-token-nobody-may-see"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("compiled") / "pipeline.yaml"
    compile_pipeline(CompileParameters(), str(file))
    return file


def spec_of(into: Path, **options: Any) -> dict[str, Any]:
    file = into / "pipeline.json"
    compile_pipeline(CompileParameters(**options), str(file))
    spec: dict[str, Any] = json.loads(file.read_bytes())
    return spec


def executors(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    by_name = spec["deploymentSpec"]["executors"]
    return {name.removeprefix("exec-"): executor["container"] for name, executor in by_name.items()}


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda component: component.name)
def test_a_component_file_agrees_with_the_table_of_steps(component: Component) -> None:
    """If it does not: python -m kfp_pipeline.component_files."""
    assert yaml.safe_load(component.file.read_text()) == content(component)


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda component: component.name)
def test_a_component_passes_every_input_to_an_option_that_its_command_has(component: Component) -> None:
    read = yaml.safe_load(component.file.read_text())
    container = read["implementation"]["container"]
    assert container["command"] == ["captionflow", component.step.name]
    command = get_command(app).commands[component.step.name]
    known = {option for parameter in command.params for option in parameter.opts}
    flags, values = container["args"][::2], container["args"][1::2]
    assert set(flags) <= known
    assert [value["inputValue"] for value in values[:-1]] == [field["name"] for field in read["inputs"]]
    assert values[-1] == {"outputPath": read["outputs"][0]["name"]}


def test_the_documented_inputs_and_outputs_are_there() -> None:
    content = {component.name: yaml.safe_load(component.file.read_text()) for component in COMPONENTS}
    names = {name: {field["name"] for field in file["inputs"]} for name, file in content.items()}
    assert {
        "ingested_dataset_path", "base_artifact_path", "gcp_project_id", "region", "dataflow_staging_root",
        "beam_runner",
    } <= names["preprocessing"]  # fmt: skip
    assert {"preprocessed_dataset_path", "base_artifact_path"} <= names["train"]
    assert [file["outputs"][0]["name"] for file in content.values()] == [
        "ingested_dataset_path", "validation_path", "preprocessed_dataset_path", "trained_model_path",
        "evaluation_path",
    ]  # fmt: skip
    assert {"component_artifact_root", "gcp_project_id", "region", "dataflow_staging_root", "beam_runner"} <= set(
        pipeline_inputs()
    )


def test_two_compilations_are_the_same_bytes_and_the_sdk_loads_them(tmp_path: Path) -> None:
    from kfp import components

    for name in ("pipeline.yaml", "pipeline.json"):
        files = [tmp_path / attempt / name for attempt in ("one", "two")]
        for file in files:
            done = captionflow("kfp", "compile", "--output", str(file), "--image-registry", "registry.example/team")
            assert (done.returncode, done.stdout) == (0, f"{file}\n"), done.stderr
        assert files[0].read_bytes() == files[1].read_bytes()
        loaded = components.load_component_from_file(str(files[0]))
        assert loaded.name == "image-captioning"
        assert set(loaded.pipeline_spec.root.dag.tasks) == {component.name for component in COMPONENTS}


def test_the_chain_is_that_of_the_dag_and_passes_uris(tmp_path: Path) -> None:
    tasks = spec_of(tmp_path)["root"]["dag"]["tasks"]
    assert {name: sorted(task.get("dependentTasks", [])) for name, task in tasks.items()} == {
        "ingestion": [],
        "validation": ["ingestion"],
        "preprocessing": ["ingestion", "validation"],
        "train": ["preprocessing"],
        "evaluation": ["preprocessing", "train"],
    }
    for task in tasks.values():
        assert task["inputs"]["parameters"]["run_id"] == {"runtimeValue": {"constant": "{{$.pipeline_job_uuid}}"}}
        assert task["retryPolicy"] == {
            "maxRetryCount": 2, "backoffDuration": "20s", "backoffFactor": 2.0, "backoffMaxDuration": "600s",
        }  # fmt: skip
        assert not task["cachingOptions"].get("enableCache")


def test_the_inputs_have_the_defaults_and_meanings_of_the_steps(tmp_path: Path) -> None:
    inputs = spec_of(tmp_path)["root"]["inputDefinitions"]["parameters"]
    assert {name for name, field in inputs.items() if not field.get("isOptional")} == set(NEEDED)
    for parameters in (
        IngestParameters, ValidateParameters, PreprocessParameters, TrainParameters, EvaluateParameters,
    ):  # fmt: skip
        for name, schema in parameters.json_schema().items():
            assert inputs[name]["description"].startswith(schema["description"])
            if name not in NEEDED:
                assert inputs[name]["defaultValue"] == ("" if schema["default"] is None else schema["default"])


def test_runs_that_share_a_folder_share_what_they_did_with_the_same_inputs(tmp_path: Path) -> None:
    for task in spec_of(tmp_path, cache_folder="nightly")["root"]["dag"]["tasks"].values():
        assert task["cachingOptions"] == {"enableCache": True}
        assert task["inputs"]["parameters"]["run_id"] == {"runtimeValue": {"constant": "nightly/{inputs}"}}


def test_images_and_resources_are_options(tmp_path: Path) -> None:
    spec = spec_of(
        tmp_path, image_registry="registry.example/team/", image_tag="7", accelerator="nvidia.com/gpu",
        accelerators="2", preprocess_cpu="8", train_memory="32G",
    )  # fmt: skip
    containers = executors(spec)
    assert {name: container["image"] for name, container in containers.items()} == {
        component.name: f"registry.example/team/captionflow-{component.step.extra}:7" for component in COMPONENTS
    }
    assert containers["train"]["resources"]["accelerator"]["resourceType"] == "nvidia.com/gpu"
    assert containers["train"]["resources"]["accelerator"]["resourceCount"] == "2"
    assert not any("accelerator" in containers[name]["resources"] for name in ("preprocessing", "evaluation"))
    assert containers["preprocessing"]["resources"]["resourceCpuLimit"] == "8"
    assert containers["train"]["resources"]["resourceMemoryLimit"] == "32G"


WRONG_COMPILE = {
    "a file of another kind": (["--output", "{folder}/pipeline.txt"], "name it .yaml or .json"),
    "a file below a file": (["--output", "{folder}/file/pipeline.yaml"], "--output: "),
    "memory that is none": (["--output", "{folder}/p.yaml", "--train-memory", "1.5G"], "--train-memory: '1.5G'"),
    "CPUs that are none": (["--output", "{folder}/p.yaml", "--train-cpu", "2G"], "--train-cpu: '2G'"),
    "a folder elsewhere": (["--output", "{folder}/p.yaml", "--cache-folder", "../x"], "--cache-folder: '../x'"),
}


@pytest.mark.parametrize(("arguments", "message"), WRONG_COMPILE.values(), ids=WRONG_COMPILE.keys())
def test_what_cannot_be_compiled_is_refused_in_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = captionflow("kfp", "compile", *(word.format(folder=tmp_path) for word in arguments))
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def submit(file: Path, *arguments: str, parameters: Any = NEEDED, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "captionflow", "kfp", "submit", str(file), *arguments]
    command += ["--parameters", parameters if isinstance(parameters, str) else json.dumps(parameters)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | env)


WRONG_SUBMIT: dict[str, tuple[Any, str]] = {
    "no object": ([], "--parameters: not a JSON object"),
    "not JSON": ("{epochs", "--parameters: not JSON"),
    "an input that is none": ({**NEEDED, "epoch": 3}, "--parameters: image-captioning has no input 'epoch'"),
    "an input that is missing": ({"sources": ["a.json"]}, "--parameters: 'component_artifact_root' is missing"),
    "out of bounds": ({**NEEDED, "epochs": 0}, "--epochs: 0 is not within 1"),
    "a root that is none": ({**NEEDED, "component_artifact_root": 3}, "--parameters: 'component_artifact_root' is no"),
    "null": ({**NEEDED, "reuse": None}, "--parameters: 'reuse' is null"),
    "of the wrong type": ({**NEEDED, "sources": 3}, "--sources: 3 is not a list"),
}


@pytest.mark.parametrize(("parameters", "message"), WRONG_SUBMIT.values(), ids=WRONG_SUBMIT.keys())
def test_a_wrong_argument_is_not_sent(parameters: Any, message: str, compiled: Path) -> None:
    with serve(KubeflowPipelines("SUCCEEDED")) as server:
        done = submit(compiled, "--host", server.url, parameters=parameters)
        assert isinstance(server, KubeflowPipelines)
        assert server.headers == []
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"captionflow: {message}")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("content", [None, b"", b"name: train\n", b"\xff\x00", b"- 1\n", b"a: [\n"])
def test_a_file_that_holds_no_pipeline_is_refused(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "pipeline.yaml"
    if content is not None:
        file.write_bytes(content)
    done = submit(file, "--host", "http://127.0.0.1:1")
    assert done.returncode == 2
    assert done.stderr.startswith(f"captionflow: {file}: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_service_must_be_chosen(compiled: Path) -> None:
    nowhere = {
        "--host: say where": [],
        "--host: localhost:8888: begin it with http://": ["--host", "localhost:8888"],
        "--vertex: needs": ["--vertex", "--project", "p"],
        "--client-id: ": ["--host", "http://127.0.0.1:1", "--client-id", "a-client"],
    }
    for message, arguments in nowhere.items():
        done = submit(compiled, *arguments, KF_PIPELINES_ENDPOINT="")
        assert done.returncode == 2
        assert done.stderr.startswith(f"captionflow: {message}")
        assert len(done.stderr.splitlines()) == 1


def test_a_run_is_submitted_and_waited_for(compiled: Path) -> None:
    server = KubeflowPipelines("PENDING", "RUNNING", "SUCCEEDED")
    server.failures = [503]
    with serve(server):
        done = submit(
            compiled, "--host", f"{server.url}/", "--experiment", "nightly", "--run-name", "one", "--wait",
            parameters={**NEEDED, "epochs": 3, "licenses": ["*"]}, CAPTIONFLOW_KFP_TOKEN=TOKEN,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{server.url}/#/runs/details/run-0\n"
    (run,) = server.runs
    assert (run["display_name"], run["experiment_id"]) == ("one", "experiment-0")
    assert server.experiments[0]["display_name"] == "nightly"
    assert run["runtime_config"]["parameters"] == {**NEEDED, "epochs": 3, "licenses": ["*"]}
    assert run["pipeline_spec"] == yaml.safe_load(compiled.read_text())
    assert {headers["authorization"] for headers in server.headers} == {f"Bearer {TOKEN}"}
    assert [line for line in done.stderr.splitlines() if "trying again" not in line] == [
        "run: pending", "run: running", "run: succeeded",
    ]  # fmt: skip
    assert TOKEN not in done.stdout + done.stderr


def test_a_whole_job_as_tfx_compiles_it_is_submitted_too(compiled: Path, tmp_path: Path) -> None:
    spec = yaml.safe_load(compiled.read_text())
    job = tmp_path / "job.json"
    job.write_text(json.dumps({"pipelineSpec": spec, "runtimeConfig": {"gcsOutputDirectory": "gs://b/root"}}))
    server = KubeflowPipelines("RUNNING")
    with serve(server):
        done = submit(job, "--host", server.url)
    assert done.returncode == 0, done.stderr
    assert server.runs[0]["pipeline_spec"] == spec
    assert server.runs[0]["runtime_config"]["pipeline_root"] == "gs://b/root"


def test_an_experiment_that_is_there_is_used(compiled: Path) -> None:
    server = KubeflowPipelines("RUNNING")
    server.experiments = [{"display_name": "Default", "experiment_id": "the-default"}]
    with serve(server):
        done = submit(compiled, "--host", server.url, CAPTIONFLOW_KFP_COOKIES="authservice_session=x")
    assert done.returncode == 0, done.stderr
    assert len(server.experiments) == 1
    assert server.runs[0]["experiment_id"] == "the-default"
    assert server.runs[0]["display_name"].startswith("image-captioning 2")
    assert {headers["Cookie"] for headers in server.headers} == {"authservice_session=x"}


@pytest.mark.parametrize("state", ["FAILED", "CANCELED", "SKIPPED"])
def test_a_run_that_does_not_succeed_is_exit_code_1_and_names_the_failed_task(compiled: Path, state: str) -> None:
    server = KubeflowPipelines(state)
    server.tasks = [
        {"display_name": "root", "state": "FAILED"},
        {"display_name": "ingestion", "state": "SUCCEEDED"},
        {"display_name": "train", "state": "FAILED", "error": {"code": 2, "message": "out of memory"}},
    ]
    with serve(server):
        done = submit(compiled, "--host", server.url, "--wait")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"captionflow: the run ended as {state.lower()} (train: out of memory); see {server.url}/#/runs/details/run-0"
    )


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class OneResponse(Site):
    """A server that sends the same response to every request."""

    def __init__(self, status: int, content: bytes) -> None:
        super().__init__()
        self.status, self.content = status, content

    def reply(self, handler: BaseHTTPRequestHandler) -> None:
        body(handler)
        send(handler, self.content, self.status)


REFUSALS = {
    "unauthorized": (
        401,
        b'{"error": "no valid token", "code": 16, "message": "no valid token"}',
        "401 (no valid token)",
    ),
    "forbidden": (403, b"RBAC: access denied", "403"),
    "not found": (404, b"404 page not found", "no Kubeflow Pipelines API 2"),
    "a login page": (200, b"<html>Log in</html>", "is a login needed?"),
    "a server's error": (500, b'{"message": "database is gone"}', "500: database is gone"),
}


@pytest.mark.parametrize(("status", "content", "message"), REFUSALS.values(), ids=REFUSALS.keys())
def test_a_refusal_is_one_line_and_exit_code_2(status: int, content: bytes, message: str, compiled: Path) -> None:
    with serve(OneResponse(status, content)) as site:
        done = submit(compiled, "--host", site.url, CAPTIONFLOW_KFP_TOKEN=TOKEN)
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr
        assert site.url in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert TOKEN not in done.stderr


@pytest.mark.parametrize("host", ["http://127.0.0.1:{port}", "http://no-such-host.invalid", "https://127.0.0.1:{port}"])
def test_a_service_that_cannot_be_reached_is_one_line_and_exit_code_2(host: str, compiled: Path) -> None:
    host = host.format(port=free_port())
    done = submit(compiled, "--host", host)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"captionflow: --host: {host} cannot be reached: ")
    assert len(done.stderr.splitlines()) == 1


VERTEX = ("--vertex", "--project", "a-project", "--region", "europe-west4", "--pipeline-root", "gs://a-bucket/vertex")


@pytest.mark.slow
def test_the_same_file_goes_to_vertex(compiled: Path, google: tuple[VertexPipelines, dict[str, str]]) -> None:
    server, env = google
    done = submit(compiled, *VERTEX, "--api-endpoint", server.url, "--service-account", "runner@b", "--wait", **env)
    assert done.returncode == 0, done.stderr
    (job,) = server.jobs
    assert done.stdout == (
        "https://console.cloud.google.com/vertex-ai/locations/europe-west4/pipelines/runs/image-captioning-1"
        "?project=a-project\n"
    )
    assert job["pipelineSpec"] == yaml.safe_load(compiled.read_text())
    assert job["runtimeConfig"]["parameterValues"] == NEEDED
    assert job["runtimeConfig"]["gcsOutputDirectory"] == "gs://a-bucket/vertex"
    assert job["serviceAccount"] == "runner@b"


@pytest.mark.slow
def test_what_vertex_refuses_or_fails_is_one_line(
    compiled: Path, google: tuple[VertexPipelines, dict[str, str]]
) -> None:
    server, env = google
    server.states = ["PIPELINE_STATE_FAILED"]
    done = submit(compiled, *VERTEX, "--api-endpoint", server.url, "--wait", **env)
    assert done.returncode == 1
    assert "captionflow: the run ended as failed (train ran out of memory)" in done.stderr
    server.error = "Permission 'aiplatform.pipelineJobs.create' denied"
    done = submit(compiled, *VERTEX, "--api-endpoint", server.url, **env)
    assert done.returncode == 2
    assert "captionflow: --vertex: " in done.stderr.splitlines()[-1]
    assert "Permission 'aiplatform.pipelineJobs.create' denied" in done.stderr
