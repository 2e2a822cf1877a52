"""The TFX pipeline without running it: its graph on each orchestrator, its features, what it refuses."""

import itertools
import json
import subprocess
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captionflow.captions import BOS, EOS, PAD, UNK, clean_caption
from captionflow.csv_export import FILE, export_csv
from captionflow.errors import InvalidInputError
from captionflow.records import ImageCaption, to_json_line
from captionflow.sources import COLUMNS
from tests.conftest import compile_tfx
from tests.processes import captionflow
from tests.test_preprocess import CAPTION, ingest_records
from tfx_pipeline.beam_args import beam_args
from tfx_pipeline.parameters import TfxParameters, TfxSettings
from tfx_pipeline.topology import topology, topology_of_pipeline

ROOT = Path(__file__).parents[1]
GOOD_ROW = "318556,255,An angled view.,http://a.example/1.jpg,1.jpg,Attribution License\n"
HEADER = ",".join(COLUMNS) + "\n"
HEAVY = {"tfx", "tensorflow", "apache_beam", "ml_metadata", "torch", "kfp"}


@pytest.fixture(scope="module")
def compiled(compiled_tfx: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same pipeline compiled twice, in two processes."""
    return [compiled_tfx, compile_tfx(tmp_path_factory.mktemp("compiled") / "two.json")]


def test_the_description_is_in_step_with_the_pipeline() -> None:
    """If it is not: python -m tfx_pipeline.topology."""
    assert topology() == topology_of_pipeline()


def test_the_documented_chain_is_in_it() -> None:
    upstream = topology()
    assert next(iter(upstream)) == "CsvExampleGen"
    chain = ["CsvExampleGen", "StatisticsGen", "SchemaGen", "Transform", "Trainer", "Evaluator", "Pusher"]
    for before, after in itertools.pairwise(chain):
        assert before in upstream[after]
    assert {"StatisticsGen", "SchemaGen"} == set(upstream["ExampleValidator"])
    assert "LatestBlessedModel" in upstream["Evaluator"]


def test_airflow_has_the_same_graph() -> None:
    from airflow.models.dagbag import DagBag

    bag = DagBag(ROOT / "dags", include_examples=False)
    assert bag.import_errors == {}
    dag = bag.dags["image_captioning_tfx"]
    assert {task.task_id: sorted(task.upstream_task_ids) for task in dag.tasks} == topology()
    form = {name: dag.params.get_param(name) for name in dag.params}
    schema = TfxParameters.json_schema()
    assert form.keys() == schema.keys() - TfxSettings.json_schema().keys()
    assert all(form[name].description == schema[name]["description"] for name in form)


def test_a_dag_file_imports_nothing_heavy() -> None:
    code = f"""
import runpy, sys
sys.path.insert(0, {str(ROOT / "dags")!r})
runpy.run_path({str(ROOT / "dags" / "image_captioning_tfx.py")!r})
import tfx_pipeline.cli
print(*sorted({{name.partition(".")[0] for name in sys.modules}} & {HEAVY!r}))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_kubeflow_has_the_same_graph(compiled: list[Path]) -> None:
    spec = json.loads(compiled[0].read_bytes())["pipelineSpec"]
    resolver = "LatestBlessedModel-model-resolver"
    tasks: dict[str, Any] = spec["root"]["dag"]["tasks"]
    # Kubeflow finds a blessed model by its blessing, in two tasks.
    assert "LatestBlessedModel-model-blessing-resolver" in tasks
    graph = {
        name.replace(resolver, "LatestBlessedModel"): sorted(
            upstream.replace(resolver, "LatestBlessedModel") for upstream in task.get("dependentTasks", [])
        )
        for name, task in tasks.items()
        if "blessing-resolver" not in name
    }
    assert graph == {name: sorted(upstream) for name, upstream in topology().items()}
    images = {
        executor["container"]["image"]
        for executor in spec["deploymentSpec"]["executors"].values()
        if "container" in executor
    }
    assert images == {"registry.example/captionflow:1"}
    values = tasks["Trainer"]["inputs"]["parameters"]["custom_config"]
    assert '"epochs": 3' in json.dumps(values).replace("\\", "")


def test_kubeflow_reads_what_is_compiled_and_it_is_stable(compiled: list[Path]) -> None:
    from kfp import components

    one, two = (file.read_bytes() for file in compiled)
    assert one == two
    loaded = components.load_component_from_text(json.dumps(json.loads(one)["pipelineSpec"]))
    assert loaded.name == "image-captioning-tfx"
    assert set(loaded.pipeline_spec.root.dag.tasks) >= set(topology()) - {"LatestBlessedModel"}


@settings(deadline=None, max_examples=30)
@given(st.lists(st.text(st.characters(max_codepoint=0x24F, exclude_categories=["Cs", "Cn", "Co"])), min_size=1))
def test_the_graph_cleans_as_the_main_job_does(texts: list[str]) -> None:
    from tfx_pipeline.features import clean

    texts = [unicodedata.normalize("NFC", text) for text in texts]
    assert [text.decode() for text in clean(texts).numpy()] == [clean_caption(text) for text in texts]


@pytest.mark.parametrize(
    "text", ["It’s a DOG, see https://a.example/x?y=1!", "ΟΔΟΣ ÉCOLE", "soft\u00adhyphen", "一只 猫。", "a  b\t\nc"]
)
def test_the_graph_cleans_what_captions_hold(text: str) -> None:
    from tfx_pipeline.features import clean

    assert clean([text]).numpy()[0].decode() == clean_caption(text)


def test_features_of_a_few_captions() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tfx_pipeline.features", "A dog.", "a dog sees a CAT", "a"],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert lines[0::3] == ["A dog.", "a dog sees a CAT", "a"]
    tokens = [json.loads(line.removeprefix("  tokens")) for line in lines[1::3]]
    assert {len(row) for row in tokens} == {TfxParameters().max_caption_length}
    first, second, third = ([token for token in row if token != PAD] for row in tokens)
    assert (first[0], first[-1]) == (BOS, EOS)
    assert second[1:3] == first[1:3]
    assert third[1] == first[1]
    assert UNK not in {*first, *second, *third}
    assert [line.split()[1] for line in lines[2::3]] == ["short", "long", "short"]


def test_the_csv_holds_what_was_ingested(tmp_path: Path) -> None:
    texts = ['He said "hi", twice', "two\nlines \t and  blanks", "ünï"]
    records = [replace(CAPTION, id=i, caption=text) for i, text in enumerate(texts)]
    uri = export_csv(ingest_records(records, tmp_path), str(tmp_path / "csv"))
    lines = Path(uri, FILE).read_text().splitlines()
    assert lines[0] == ",".join(COLUMNS)
    assert len(lines) == 4
    from captionflow.ingest import ingest
    from captionflow.parameters import IngestParameters

    again = Path(ingest(str(tmp_path / "again"), IngestParameters(sources=(f"{uri}/{FILE}",))), "captions.jsonl")
    expected = [replace(record, caption=" ".join(record.caption.split())) for record in records]
    assert again.read_bytes() == b"".join(map(to_json_line, expected))
    assert ImageCaption.from_json(again.read_bytes().splitlines()[0]).caption == texts[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", "lacks the column image_id"),
        (HEADER.encode(), "holds no captions"),
        ((HEADER + GOOD_ROW).replace("caption,", "text,").encode(), "lacks the column caption"),
        (HEADER.encode() + GOOD_ROW.encode().replace(b"angled", b"\xff\xfe"), "is not UTF-8 (near byte"),
    ],
)
def test_a_csv_that_cannot_be_used_is_one_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "captions.csv"
    if content is not None:
        file.write_bytes(content)
    done = captionflow("tfx", "run", "--csv", str(file), "--pipeline-root", str(tmp_path / "root"))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("captionflow: --csv:")
    assert message in line
    assert "captions.csv" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--module-file", "{tmp}/none.py"], "--module-file: {tmp}/none.py: cannot be read"),
        (["--module-file", "{tmp}/broken.py"], "is not Python"),
        (["--module-file", "{tmp}/half.py"], "defines no run_fn"),
        (["--pipeline-root", "/proc/here"], "--pipeline-root: /proc/here: cannot be written"),
        (["--beam-runner", "DataflowRunner"], "--gcp-project-id: DataflowRunner needs it"),
        (["--beam-runner", "FlinkRunner"], "--beam-args: FlinkRunner needs --flink_master"),
        (["--epochs", "0"], "--epochs"),
        (["--beam-runner", "NoSuchRunner"], "NoSuchRunner"),
    ],
)
def test_an_argument_that_cannot_be_used_is_said(tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "captions.csv").write_text(HEADER + GOOD_ROW)
    (tmp_path / "half.py").write_text("def preprocessing_fn(inputs):\n    return inputs\n")
    (tmp_path / "broken.py").write_text("def (")
    given_ = [argument.format(tmp=tmp_path) for argument in arguments]
    done = captionflow("tfx", "run", "--csv", str(tmp_path), "--pipeline-root", str(tmp_path / "root"), *given_)
    assert done.returncode == 2
    assert message.format(tmp=tmp_path) in done.stderr
    assert "Traceback" not in done.stderr


def test_beam_arguments_of_each_runner() -> None:
    parameters = TfxParameters(csv="a.csv", pipeline_root="gs://b/root", direct_num_workers=2)
    assert beam_args(parameters) == [
        "--runner=DirectRunner", "--direct_num_workers=2", "--direct_running_mode=multi_processing"
    ]  # fmt: skip
    dataflow = replace(parameters, beam_runner="DataflowRunner", gcp_project_id="p", region="r", beam_args=("--x=1",))
    assert beam_args(dataflow) == [
        "--runner=DataflowRunner", "--project=p", "--region=r", "--temp_location=gs://b/root/.temp", "--x=1"
    ]  # fmt: skip
    flink = replace(parameters, beam_runner="FlinkRunner", beam_args=("--flink_master=h:1",))
    assert beam_args(flink) == ["--runner=FlinkRunner", "--flink_master=h:1"]


def test_where_metadata_may_be_kept(tmp_path: Path) -> None:
    from tfx_pipeline.metadata import connection_config

    assert connection_config(str(tmp_path / "a" / "m.db")).sqlite.filename_uri == str(tmp_path / "a" / "m.db")
    mysql = connection_config("mysql://me:p%40ss@db.example/mlmd").mysql
    assert (mysql.host, mysql.port, mysql.database, mysql.user, mysql.password) == (
        "db.example", 3306, "mlmd", "me", "p@ss"
    )  # fmt: skip
    postgres = connection_config("postgresql://me:secret@db.example:5433/mlmd").postgresql
    assert (postgres.host, postgres.port, postgres.dbname) == ("db.example", "5433", "mlmd")
    for wrong in ("oracle://me:secret@h/d", "mysql://me:secret@h", "mysql:///d"):
        with pytest.raises(InvalidInputError) as caught:
            connection_config(wrong)
        assert "secret" not in str(caught.value)


def test_google_clients_of_tfx_and_of_airflow_fit_one_version() -> None:
    """TFX asks for google-api-python-client 1 and Airflow's provider for 2; both work with 2."""
    code = """
import tfx.extensions.google_cloud_ai_platform.runner
from airflow.providers.google.common.hooks.discovery_api import GoogleDiscoveryApiHook
from googleapiclient.discovery import build_from_document
document = {"name": "s", "version": "v1", "rootUrl": "http://localhost/", "servicePath": "", "resources": {}}
build_from_document(document, developerKey="none")
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True)
