"""Whoever may trigger a run gets no further than the run's data: not to code, other people's places, or secrets."""

import json
import re
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from beam_jobs.parameters import BeamParameters, IngestRunnerParameters
from captionflow.airflow.beam_options import VARIABLE, options_for
from captionflow.airflow.form import SAMPLE_IMAGES, no_retry_in_vain
from captionflow.airflow.reach import check_reach
from captionflow.airflow.run_checks import check_run
from captionflow.airflow.tfx_component import parameters_of
from captionflow.captioner.parameters import TrainParameters
from captionflow.core.errors import InvalidInputError, StoreError
from captionflow.core.runs import artifact_uri
from captionflow.preprocess.parameters import PreprocessParameters
from captionflow.sources.parameters import IngestParameters
from captionflow.validation.parameters import ValidateParameters
from kfp_pipeline.names import input_of
from kfp_pipeline.parameters import CompileParameters
from kfp_pipeline.pipeline import compile_pipeline
from tests.dags import DAGS, load
from tests.pipeline_services import VertexPipelines
from tests.processes import captionflow
from tests.test_dag import RUN_AT, Airflow, conf_for
from tests.test_dag_training import ON_VERTEX, airflow, cluster, in_pods
from tests.training_services import Cluster
from tfx_pipeline.topology import topology

pytestmark = pytest.mark.security
__all__ = ["airflow", "cluster"]  # fixtures

MAIN, TFX, VERTEX = "image_captioning", "image_captioning_tfx", "image_captioning_vertex"
ON_GOOGLE = {"project": "a-project", "region": "europe-west4", "pipeline_root": "gs://a-bucket/vertex"}
TEMPLATE = "{{ 6 * 7 }}{{ var.value.plain }}{{ conf.get('core','sql_alchemy_conn') }}"
SHOWN = "what-the-variable-holds"  # of a name that Airflow does not mask in logs


@pytest.fixture(scope="module")
def dags(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """All DAGs, the one for Vertex AI with CaptionFlow's own pipeline, which has most fields."""
    spec = tmp_path_factory.mktemp("spec") / "pipeline.json"
    compile_pipeline(CompileParameters(), str(spec))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CAPTIONFLOW_TRIGGER_PREFIXES")
        patch.setenv("CAPTIONFLOW_VERTEX_SPEC", str(spec))
        for name, value in ON_GOOGLE.items():
            patch.setenv(f"CAPTIONFLOW_VERTEX_{name.upper()}", value)
        yield load()


def context_of(dag: Any, run_id: str = "manual__1", **conf: Any) -> dict[str, Any]:
    """What Airflow hands to a task: the form's defaults with the run's conf over them, known or not."""
    return {
        "dag": dag, "run_id": run_id, "params": {**dag.params.dump(), **conf},
        "ti": SimpleNamespace(xcom_push=lambda **_: None),
    }  # fmt: skip


def refusal(dag: Any, run_id: str = "manual__1", **conf: Any) -> str | None:
    """What the first task of a run says of its form; None if it would go on."""
    checks = {MAIN: check_run, TFX: parameters_of, VERTEX: check_vertex}
    try:
        checks[dag.dag_id](context_of(dag, run_id, **conf))
    except InvalidInputError as error:
        return str(error)
    return None


def check_vertex(context: dict[str, Any]) -> None:
    context["dag"].get_task("run_pipeline").checked(context)


# Beam's options. ----------------------------------------------------------------------------------------------------

BEAM_ATTACKS = {
    "environment_type": "PROCESS", "environment_config": '{"command": "/tmp/evil.sh"}', "job_endpoint": "evil:8099",
    "artifact_endpoint": "evil:1", "flink_job_server_jar": "/tmp/evil.jar", "spark_job_server_jar": "http://e/e.jar",
    "flink_master": "evil:1", "prism_location": "http://evil/prism", "setup_file": "/tmp/setup.py",
    "requirements_file": "gs://evil/requirements.txt", "extra_package": "evil.whl", "extra_packages": ["evil.whl"],
    "sdk_container_image": "evil", "worker_harness_container_image": "evil", "beam_plugins": ["evil"],
    "beam_plugin": "evil", "runner": "PrismRunner", "experiments": "x", "service_account_email": "boss@x",
    "impersonate_service_account": "boss@x", "temp_location": "gs://evil", "sdk_location": "/tmp/evil",
    "streaming": True, "files_to_stage": ["/etc/passwd"], "job_server_java_launcher": "/tmp/evil", "network": "evil",
    "project": "other",
    "pickle_library": "dill", "save_main_session": True, "labels": {"a": "b"},
    # No abbreviation of what is allowed or not, no second name, no smuggling in a name.
    "environment_t": "PROCESS", "direct_num": 2, "worker_machine_type": "m", "parallelism=1 --setup_file": "x",
    "--parallelism": 1, "Parallelism": 1, "": 1, "environment-type": "PROCESS", "environmentType": "PROCESS",
}  # fmt: skip


@pytest.mark.parametrize("name", BEAM_ATTACKS)
def test_a_run_gives_beam_no_option_that_chooses_code_or_places(dags: dict[str, Any], name: str) -> None:
    for dag_id, field in ((MAIN, "beam_options"), (TFX, "beam_options"), (VERTEX, "beam_args")):
        message = refusal(dags[dag_id], **{field: [f"--{name}={BEAM_ATTACKS[name]}"]})
        assert message
        assert message.startswith(f"{field}: ")
        if name and "=" not in name:
            assert f"{field}: {name}: a run may give only " in message
            assert "CAPTIONFLOW_BEAM_OPTIONS" in message


@pytest.mark.parametrize("value", ["/tmp/x", "a b", "--setup_file=x", "", "a\n", "{{ 1 }}", "é", "-1", "1" * 99])
def test_the_value_of_an_option_is_a_number_or_a_plain_word(dags: dict[str, Any], value: Any) -> None:
    message = refusal(dags[MAIN], beam_options=[f"--direct_running_mode={value}"])
    assert message
    assert message.startswith("beam_options: direct_running_mode: ")


@pytest.mark.parametrize("word", ["2", "parallelism=2", "--", "--=1", "-parallelism=2"])
def test_an_argument_of_beam_is_one_option(word: str) -> None:
    with pytest.raises(InvalidInputError, match="beam_args"):
        options_for("DirectRunner", [word], "beam_args")


def test_what_tunes_is_a_runs_and_what_the_deployment_says_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    deployment = {"FlinkRunner": {"flink-master": "flink:8081", "parallelism": 2, "environment_type": "EXTERNAL"}}
    monkeypatch.setenv("CAPTIONFLOW_BEAM_OPTIONS", json.dumps(deployment))
    given = ["--parallelism=100", "--max-parallelism=7", "--machine_type=n2-standard-4"]
    assert options_for("FlinkRunner", given) == {
        "parallelism": 2, "max_parallelism": "7", "machine_type": "n2-standard-4", "flink_master": "flink:8081",
        "environment_type": "EXTERNAL",
    }  # fmt: skip
    assert options_for("DirectRunner", []) == {}


def test_ingest_takes_what_the_deployment_says_of_its_runner(dags: dict[str, Any]) -> None:
    message = refusal(dags[MAIN], ingest_runner="DataflowRunner")
    assert message == "CAPTIONFLOW_REGION: DataflowRunner needs it; the deployment must set it"
    message = refusal(dags[VERTEX], ingest_runner="DataflowRunner")
    assert message
    assert message.startswith("ingest_runner: DataflowRunner is not beam_runner's DirectRunner; ")


@pytest.mark.parametrize("text", ["{", "[]", '{"FlinkRunner": 1}', '{"FlinkRunner": ["--a"]}'])
def test_a_deployment_whose_options_are_none_is_told_the_variable(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("CAPTIONFLOW_BEAM_OPTIONS", text)
    with pytest.raises(InvalidInputError, match=r"^CAPTIONFLOW_BEAM_OPTIONS: is not JSON like"):
        options_for("FlinkRunner", [])


def test_tfx_takes_the_deployments_options_and_code(dags: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPTIONFLOW_BEAM_OPTIONS", '{"FlinkRunner": {"flink_master": "flink:8081"}}')
    monkeypatch.setenv("CAPTIONFLOW_MODULE_FILE", "/deployed/module.py")
    monkeypatch.setenv("CAPTIONFLOW_TRIGGER_PREFIXES", "*")
    context = context_of(dags[TFX], runner="FlinkRunner", beam_options=['["--parallelism=3"]'])
    found = parameters_of(context)
    assert found.beam_options == ("--parallelism=3", "--flink_master=flink:8081")
    assert found.module_file == "/deployed/module.py"


@pytest.mark.slow
def test_a_form_starts_no_command_in_the_worker(airflow: Airflow, small_sample: Path, tmp_path: Path) -> None:
    evil = tmp_path / "evil.sh"
    evil.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    evil.chmod(0o755)
    # Beam's own runner in the worker's process, which starts its workers by a command line.
    options = [
        "--runner=PortableRunner", "--job_endpoint=embed", f"--environment_config={evil}",
        "--environment_type=beam:env:harness_subprocess_python:v1",
    ]  # fmt: skip
    done = airflow.set(trigger_prefixes="*").run_dag(conf_for(small_sample, beam_options=options))
    assert not (tmp_path / "ran").exists()
    assert done.returncode != 0
    assert "beam_options: runner: a run may give only " in done.stdout
    assert airflow.retried() == []


# Settings of the deployment. ----------------------------------------------------------------------------------------

SETTINGS = {
    MAIN: (
        "train_on", "train_image", "train_gpus", "train_cpu", "train_memory", "pod_namespace", "pod_config_file",
        "pod_service_account", "pod_secret", "pod_gpu", "pod_node_labels", "vertex_project", "vertex_region",
        "vertex_staging_bucket", "vertex_machine_type", "vertex_accelerator", "vertex_service_account",
        "gcp_project", "region", "dataflow_staging_root", "dataflow_service_account", "dataflow_worker_image",
    ),
    TFX: ("module_file", "pipeline_root", "serving_dir", "gcp_project", "region"),
    VERTEX: (
        "project", "pipeline_root", "service_account", "spec", "vertex_project", "vertex_region", "gcp_project_id",
        "dataflow_staging_root", "dataflow_service_account", "dataflow_worker_image",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("dag_id", "name"), [(dag_id, name) for dag_id, names in SETTINGS.items() for name in names])
def test_who_runs_what_is_refused_in_a_form_by_the_name_of_its_variable(
    dags: dict[str, Any], dag_id: str, name: str
) -> None:
    assert name not in dags[dag_id].params
    of_vertex = dag_id == VERTEX and name in ("project", "pipeline_root", "service_account", "spec")
    variable = f"CAPTIONFLOW_{'VERTEX_' if of_vertex else ''}{name.removesuffix('_id').upper()}"
    assert refusal(dags[dag_id], **{name: "x"}) == (
        f"{name}: is no field of this form; the deployment sets it, by {variable}"
    )


@pytest.mark.parametrize("task_id", ["validate", "preprocess", "train", "evaluate"])
def test_a_task_that_is_cleared_alone_looks_at_the_conf_too(dags: dict[str, Any], task_id: str) -> None:
    from airflow.providers.common.compat.sdk import AirflowFailException

    task = dags[MAIN].get_task(task_id).prepare_for_execution()
    context = {**context_of(dags[MAIN], train_on="vertex"), "task": task}
    with pytest.raises(AirflowFailException, match="CAPTIONFLOW_TRAIN_ON"):
        task.execute.__wrapped__(task, context)


# Places. ------------------------------------------------------------------------------------------------------------

# Text that leads nowhere. A new field of text belongs here, or its declaration says what it reaches.
HARMLESS = {
    "member", "licenses", "split", "user_agent", "pipeline_name", "beam_args", "beam_options",
    "url_col", "caption_col", "id_col", "license_col", "split_col", "languages", "scorers", "score_bounds",
}  # fmt: skip


def text_fields(dag: Any) -> list[str]:
    """Names of the fields that take text, whether one or several."""
    schemas = {name: dag.params.get_param(name).schema for name in dag.params}
    return [
        name
        for name, schema in schemas.items()
        if {"string", "array"} & {*([schema["type"]] if isinstance(schema["type"], str) else schema["type"])}
        and "enum" not in {**schema, **CHOICES.get(name, {})}
    ]


# A compiled pipeline does not tell the choices of its parameters.
CHOICES = {
    name: schema
    for cls in (
        IngestParameters,
        IngestRunnerParameters,
        ValidateParameters,
        PreprocessParameters,
        TrainParameters,
        BeamParameters,
    )
    for ours, schema in cls.json_schema().items()
    for name in (ours, input_of(ours))
}


@pytest.mark.parametrize("dag_id", [MAIN, TFX, VERTEX])
@pytest.mark.parametrize("as_json", [False, True])
def test_every_field_that_leads_somewhere_leads_only_to_what_is_opened(
    dags: dict[str, Any], dag_id: str, as_json: bool
) -> None:
    dag = dags[dag_id]
    fields = [name for name in text_fields(dag) if name not in HARMLESS]
    assert fields
    for name in fields:
        value = "metadata.internal" if name == "allow_host" else "/etc/somebody"
        is_list = "array" in dag.params.get_param(name).schema["type"]
        # A list may come as a JSON array in one of its texts.
        given = [json.dumps([value]) if as_json else value] if is_list else value
        said = refusal(dag, **{name: given})
        assert said, name
        assert said.startswith(f"{name}: {value!r} is not below what this deployment opens to runs")
        assert said.endswith("CAPTIONFLOW_TRIGGER_PREFIXES")


@pytest.fixture
def opened(tmp_path: Path) -> Path:
    """A folder that is open to runs, beside one that is not and has the same beginning."""
    for name in ("open", "open2"):
        (tmp_path / name).mkdir()
    (tmp_path / "open" / "link").symlink_to(tmp_path / "open2")
    (tmp_path / "open" / "within").symlink_to(tmp_path / "open")
    return tmp_path / "open"


def reaches(prefixes: list[str], name: str, value: str) -> bool:
    schemas = {**PreprocessParameters.json_schema(), **IngestParameters.json_schema()}
    try:
        check_reach({name: (value,)}, schemas, prefixes)
    except InvalidInputError:
        return False
    return True


@pytest.mark.parametrize("below", ["", "/", "/a/b", "/a/../b", "/within/x", "/{{ 1 }}"])
def test_what_is_below_an_opened_folder_is_open(opened: Path, below: str) -> None:
    assert reaches([str(opened)], "allow_url_prefix", f"{opened}{below}")
    assert reaches([f"file://{opened}"], "allow_url_prefix", f"file://{opened}{below}")


@pytest.mark.parametrize("beside", ["2", "/..", "/../open2", "/link", "/link/a", "/within/../../x", "%2f..%2f.."])
def test_what_is_beside_it_is_not(opened: Path, beside: str) -> None:
    assert not reaches([str(opened)], "allow_url_prefix", f"{opened}{beside}")
    assert not reaches([str(opened)], "allow_url_prefix", f"file://{opened}{beside}")


def test_a_home_folder_is_where_it_is_opened_from(
    opened: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "open2"))
    monkeypatch.chdir(opened)
    assert reaches([str(opened)], "allow_url_prefix", "x")
    assert not reaches([str(opened)], "allow_url_prefix", "~/x")


@pytest.mark.parametrize(
    ("value", "is_open"),
    [
        ("gs://bucket/ours", True), ("gs://bucket/ours/a", True), ("gs://bucket/ours2", False), ("gs://bucket", False),
        ("gs://bucket/ours/../theirs", False), ("gs://other/ours", False), ("s3://bucket/ours", False),
        ("/bucket/ours", False), ("http://images:8000/a", True), ("http://images:8001/a", False), ("http://", False),
        ("http://images:8000@evil/a", False), ("https://images:8000/a", False), ("FILE:///etc/passwd", False),
        ("http://[", False),
    ],
)  # fmt: skip
def test_a_uri_is_open_by_scheme_host_port_and_whole_parts(value: str, is_open: bool) -> None:
    prefixes = ["gs://bucket/ours", "http://images:8000"]
    assert reaches(prefixes, "allow_url_prefix", value) == is_open
    assert reaches(["*"], "allow_url_prefix", value)


@pytest.mark.parametrize("value", ["images", "IMAGES", "[::1]", "169.254.169.254"])
def test_a_host_with_all_its_ports_is_open_only_where_everything_is(value: str) -> None:
    assert not reaches(["http://images", "https://[::1]"], "allow_host", value)
    assert reaches(["*"], "allow_host", value)


@pytest.mark.parametrize(
    "value",
    ["gs://bucket/other/../ours/x", "gs://bucket/other%2F..%2Fours/x", "gs://bucket/ours?/z", "gs://bucket/ours#/z"],
)
def test_an_object_store_takes_a_key_as_it_is_written(value: str) -> None:
    assert not reaches(["gs://bucket/ours"], "allow_url_prefix", value)


def test_files_that_a_pattern_or_a_folder_stands_for_are_checked_each(opened: Path) -> None:
    for folder in (opened, opened.parent / "open2"):
        (folder / "a.parquet").touch()
    for source in (str(opened), f"train={opened}", f"{opened}/*.parquet", f"val=file://{opened}/a*", str(opened / "x")):
        assert reaches([str(opened)], "sources", source), source
    for outside in (f"{opened}/../open2/*", f"{opened.parent}/*/a.parquet", f"{opened.parent}/open*", "/*"):
        assert not reaches([str(opened)], "sources", outside), outside
    assert reaches(["gs://bucket/ours"], "sources", "gs://bucket/ours/*.parquet")
    for outside in ("gs://bucket/*/a.parquet", "gs://bucket/ours*/a.parquet", "gs://bucket/ours/*/../../x"):
        assert not reaches(["gs://bucket/ours"], "sources", outside), outside
    (opened / "b.parquet").symlink_to(opened.parent / "open2" / "a.parquet")
    for source in (f"{opened}", f"{opened}/*.parquet", f"{opened}/**"):
        assert not reaches([str(opened)], "sources", source), source
    assert not reaches([str(opened)], "sources", f"{opened}/link/*.parquet")


def test_a_list_within_a_list_does_not_come_apart_after_the_check(small_sample: Path) -> None:
    nested = json.dumps(["/outside", "http:\\/\\/127.0.0.1\\/", f"/../../..{small_sample}/x"])
    with pytest.raises(InvalidInputError, match="holds a list within a list"):
        PreprocessParameters.from_mapping({"allow_url_prefix": [json.dumps([nested])]})
    once = PreprocessParameters.from_mapping({"allow_url_prefix": [json.dumps(["/a", "/b"])]})
    assert PreprocessParameters.from_mapping(once.to_json()) == once


@pytest.mark.parametrize(
    "option",
    [
        "--direct_num_workers=257",
        "--direct_num_workers=" + "9" * 5000,
        "--num_workers=9_999_999",
        "--direct_num_workers=9_999",
    ],
)
def test_figures_of_beam_have_bounds(option: str) -> None:
    with pytest.raises(InvalidInputError, match="is no number from 0 to"):
        options_for("DirectRunner", [option])


@pytest.mark.parametrize("said", ['{"direct_num_workers": 2}', '{"FlinkRuner": {}}'])
def test_a_setting_for_no_runner_is_told(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, said)
    with pytest.raises(InvalidInputError, match="is no runner; name one of DirectRunner"):
        options_for("DirectRunner", [])


def test_the_public_web_needs_no_opening_where_it_is_fetched() -> None:
    for name in ("sources", "image_root"):
        assert reaches([], name, "https://example.org/captions.json")
        for other in ("gs://bucket/captions.json", "/etc/passwd", "ftp://a/b", "HTTP:x"):
            assert not reaches([], name, other)
    assert not reaches([], "allow_url_prefix", "https://example.org")


@pytest.mark.parametrize("split", ["train", "val+test"])
def test_a_split_before_a_source_opens_nothing(opened: Path, split: str) -> None:
    assert reaches([str(opened)], "sources", f"{split}={opened}/captions.json")
    assert reaches([], "sources", f"{split}=https://example.org/captions.json")
    assert not reaches([str(opened)], "sources", f"{split}=/etc/passwd")
    assert not reaches([str(opened)], "sources", f"{split}={split}={opened}/captions.json")
    assert not reaches([], "image_root", f"{split}=https://example.org/images")


def test_by_default_the_artifact_root_and_the_samples_images_are_open(dags: dict[str, Any]) -> None:
    for dag_id in (MAIN, TFX):
        assert refusal(dags[dag_id]) is None
    root = dags[MAIN].params["artifact_root"]
    assert refusal(dags[MAIN], reuse=f"{root}/image_captioning/a/preprocessed") is None
    assert refusal(dags[MAIN], reuse="/tmp/elsewhere")


def prefixes(dag: Any, **conf: Any) -> tuple[str, ...]:
    """What the preprocess job of a run may fetch beside the public web."""
    return tuple(dag.get_task("preprocess").parameters(context_of(dag, **conf)).allow_url_prefix)


def test_a_folder_of_images_is_open_to_the_preprocess_job(
    dags: dict[str, Any], opened: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert prefixes(dags[MAIN]) == (SAMPLE_IMAGES,)
    monkeypatch.setenv("CAPTIONFLOW_TRIGGER_PREFIXES", f"{opened} http://images:8000 gs://bucket/ours")
    roots = [f"{opened}/a", f"{opened}/within/b/", "http://images:8000/c", "gs://bucket/ours/d", f"{opened}/a"]
    expected = (f"{opened}/a", f"{opened}/b", "http://images:8000/c", "gs://bucket/ours/d")
    assert prefixes(dags[MAIN], image_root=roots) == expected
    given = [f"{opened}/other", "gs://bucket/ours/d"]
    assert prefixes(dags[MAIN], image_root=roots, allow_url_prefix=given) == (*given, *expected[:3])


def test_a_folder_of_images_opens_nothing_that_the_deployment_does_not(
    dags: dict[str, Any], opened: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAPTIONFLOW_TRIGGER_PREFIXES", f"{opened} http://images:8000/open")
    for root in ("/etc", f"{opened}2", f"{opened}/link", f"{opened}/..", "gs://bucket", "file:///etc"):
        with pytest.raises(InvalidInputError, match=r"^image_root: .* is not below what this deployment opens to runs"):
            prefixes(dags[MAIN], image_root=[root])
    # Fetched, if they are public.
    web = ["https://example.org/a", "http://169.254.169.254/a", "http://images:8000", "http://images/open", "http://["]
    assert prefixes(dags[MAIN], image_root=web) == ()


# Run ids, and what fails later. -------------------------------------------------------------------------------------


@pytest.mark.parametrize("run_id", ["a::b", "..", ".", "", "a/../b", "a/./b", "a//b", "/a", "a/", "a\0b", "gs://b"])
def test_a_run_id_is_the_name_of_a_folder(dags: dict[str, Any], run_id: str) -> None:
    with pytest.raises(InvalidInputError, match="cannot be a folder's name"):
        artifact_uri("/root", "pipeline", run_id, "model")
    assert "cannot be a folder's name" in str(refusal(dags[MAIN], run_id))


def test_a_run_id_may_have_parts_and_a_root_may_not_be_empty() -> None:
    assert artifact_uri("gs://b/", "p", f"nightly/manual__{RUN_AT}", "k") == f"gs://b/p/nightly/manual__{RUN_AT}/k"
    with pytest.raises(InvalidInputError, match="the artifact root '' is empty"):
        artifact_uri("", "p", "r", "k")


@pytest.mark.parametrize("run_id", ["a::b", "../a"])
def test_the_command_line_refuses_such_an_id_in_one_line(small_sample: Path, tmp_path: Path, run_id: str) -> None:
    done = captionflow(
        "ingest", "--sources", str(small_sample / "captions.json"), "--output", str(tmp_path), "--run-id", run_id
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"captionflow: the run's id '{run_id}' cannot be a folder's name")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ({"split": "0.9,0.1,0"}, "--split: 0.9,0.1,0 leaves a part empty"),
        ({"split": "0.9,0,0.1"}, "--split: 0.9,0,0.1 leaves a part empty"),
        ({"heads": 5}, "--width: 96 is not a multiple of 4 and of --heads, 5"),
        ({"epochs": 0}, "--epochs: 0 is not within"),
        ({"beam_size": 99}, "--beam-size: 99 is not within"),
        ({"beam_options": ["--direct_num_workers=many"]}, "Beam: "),
        ({"runner": "DataflowRunner"}, "CAPTIONFLOW_REGION: DataflowRunner needs it; the deployment must set it"),
        ({"epoch": 3}, "epoch: is no field of this form; leave it out"),
    ],
)
def test_the_first_task_tells_what_a_later_one_would_fail_on(
    dags: dict[str, Any], conf: dict[str, Any], message: str
) -> None:
    assert message in str(refusal(dags[MAIN], **conf))


# Templates. ---------------------------------------------------------------------------------------------------------


def test_no_task_has_a_template_of_the_form(dags: dict[str, Any]) -> None:
    for dag in dags.values():
        for task in dag.tasks:
            fields = {name: getattr(task, name) for name in task.template_fields}
            assert "{{" not in str(fields), task.task_id


@pytest.mark.parametrize("place", ["airflow", "kubernetes", "vertex"])
@pytest.mark.parametrize("task_id", ["preprocess", "train", "evaluate"])
def test_what_a_field_holds_by_the_time_a_task_goes_on_is_no_template(
    monkeypatch: pytest.MonkeyPatch, task_id: str, place: str
) -> None:
    for name, value in {**ON_VERTEX, "train_on": place}.items():
        monkeypatch.setenv(f"CAPTIONFLOW_{name.upper()}", value)
    dag = load(DAGS / f"{MAIN}.py")[MAIN]
    task = dag.get_task(task_id).prepare_for_execution()
    assert task.template_fields
    for name in task.template_fields:
        setattr(task, name, {"a": [TEMPLATE, "x.json", {"b": (TEMPLATE,)}]})
    task.render_template_fields(context_of(dag))
    for name in task.template_fields:
        assert getattr(task, name) == {"a": [TEMPLATE, "x.json", {"b": (TEMPLATE,)}]}


def with_variable(airflow: Airflow, **environment: str) -> Airflow:
    """Return an Airflow that has what TEMPLATE asks for, and says it when TEMPLATE is rendered."""
    found = airflow.set(trigger_prefixes="*")
    found.env |= {"AIRFLOW_VAR_PLAIN": SHOWN, **environment}
    return found


def assert_nothing_was_rendered(airflow: Airflow, said: str, folder: Path) -> None:
    assert TEMPLATE in said
    assert SHOWN not in said
    with sqlite3.connect(airflow.home / "airflow.db") as database:
        rows = database.execute("SELECT rendered_fields FROM rendered_task_instance_fields").fetchall()
    assert SHOWN not in str(rows)
    assert [path for path in folder.rglob("*") if path.is_file() and SHOWN.encode() in path.read_bytes()] == []
    assert not [path for path in folder.rglob("*") if re.match(f"42|{SHOWN}", path.name)]


@pytest.mark.slow
def test_text_of_the_form_is_text_in_every_task_in_the_worker_and_in_a_pod(
    airflow: Airflow, cluster: Cluster, small_sample: Path, tmp_path: Path
) -> None:
    folder = tmp_path / TEMPLATE
    shutil.copytree(small_sample, folder / "sample")
    conf = conf_for(
        folder / "sample",
        artifact_root=str(folder),
        user_agent=TEMPLATE,
        licenses=["*", TEMPLATE],
        device="cpu",
    )
    conf["allow_url_prefix"].append(f"http://{TEMPLATE}")
    conf["sources"][0] = f"file://{conf['sources'][0]}"
    done = with_variable(in_pods(airflow, cluster)).run_dag(conf)
    assert done.returncode == 0, done.stdout[-5000:]
    assert airflow.query("SELECT * FROM rendered_task_instance_fields")
    assert_nothing_was_rendered(airflow, done.stdout, tmp_path)
    assert (folder / "image_captioning" / f"manual__{RUN_AT}" / "evaluation" / "report.html").is_file()
    assert airflow.xcoms()["evaluate"].startswith(f"{folder}/")


@pytest.mark.slow
def test_tfx_renders_nothing_of_the_form(airflow: Airflow, small_sample: Path, tmp_path: Path) -> None:
    folder = tmp_path / TEMPLATE
    folder.mkdir()
    columns = "image_id,id,caption,image_url,image_name,image_license"
    (folder / "captions.csv").write_text(
        f"{columns}\n1,1,A dog.,http://a/1.jpg,1.jpg,x\n2,2,A cat.,http://a/2.jpg,2.jpg,x\n"
    )
    conf = {"csv": str(folder / "captions.csv")}
    others = "|".join(topology().keys() - {"CsvExampleGen"})
    done = with_variable(airflow, CAPTIONFLOW_PIPELINE_ROOT=str(folder / "root")).run(
        "dags", "test", TFX, RUN_AT, "--conf", json.dumps(conf), "--mark-success-pattern", f"^({others})$"
    )
    assert done.returncode == 0, done.stdout[-5000:]
    assert airflow.query("SELECT * FROM rendered_task_instance_fields WHERE dag_id = 'image_captioning_tfx'") == []
    assert_nothing_was_rendered(airflow, done.stdout + done.stderr, tmp_path)
    assert list((folder / "root" / "CsvExampleGen").rglob("*.gz"))


def test_vertex_is_sent_the_form_as_it_is(
    dags: dict[str, Any], google: tuple[VertexPipelines, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.providers.common.compat.sdk import TaskDeferred
    from google.cloud import aiplatform

    server, environment = google
    for name, value in {
        **environment, "AIRFLOW_CONN_GOOGLE_CLOUD_DEFAULT": "google-cloud-platform://", "AIRFLOW_VAR_PLAIN": SHOWN,
        "CAPTIONFLOW_TRIGGER_PREFIXES": "*",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    aiplatform.init(api_endpoint=server.url, api_transport="rest")
    dag = dags[VERTEX]
    given = {
        name: [TEMPLATE] if "array" in dag.params.get_param(name).schema["type"] else TEMPLATE
        for name in ("component_artifact_root", "sources", "member", "image_root", "licenses", "allow_url_prefix",
                     "user_agent", "reuse")
    }  # fmt: skip
    task = dag.get_task("run_pipeline").prepare_for_execution()
    context = {**context_of(dag, **given), "task": task}
    task.render_template_fields(context)
    with pytest.raises(TaskDeferred):
        task.execute(context)
    (job,) = server.jobs
    sent = job["runtimeConfig"]["parameterValues"]
    assert {name: sent[name] for name in given} == given
    assert SHOWN not in json.dumps(job)


def test_a_link_below_the_artifact_root_leads_no_run_elsewhere(dags: dict[str, Any], opened: Path) -> None:
    """Whoever may write to an opened folder could else have a run replace artifacts that are not there."""
    run = opened / MAIN / "manual__1"
    run.mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAPTIONFLOW_TRIGGER_PREFIXES", str(opened))
        assert refusal(dags[MAIN], artifact_root=str(opened)) is None
        (run / "evaluation").symlink_to(opened.with_name("open2"))
        assert "is not below what this deployment opens" in str(refusal(dags[MAIN], artifact_root=str(opened)))


@pytest.mark.parametrize(
    ("conf", "flag"),
    [({"member": "\udcff"}, "--member"), ({"user_agent": "→"}, "--user-agent"),
     ({"user_agent": "x\n"}, "--user-agent"), ({"learning_rate": 10**400}, "--learning-rate"),
     ({"beam_options": ["--direct_num_workers=1000000"]}, "beam_options")],
)  # fmt: skip
def test_what_no_step_can_use_is_told_by_the_first(dags: dict[str, Any], conf: dict[str, Any], flag: str) -> None:
    assert str(refusal(dags[MAIN], **conf)).startswith(f"{flag}: ")


@pytest.mark.parametrize("error", [InvalidInputError, StoreError])
def test_a_message_with_line_feeds_is_one_line_of_the_log(dags: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(Exception, match="a member") as caught, no_retry_in_vain():
        raise error("a member\n[2026-01-01T00:00:00] INFO - Marking task as SUCCESS\x1b[2J")
    assert str(caught.value) == "a member\\u000a[2026-01-01T00:00:00] INFO - Marking task as SUCCESS\\u001b[2J"
