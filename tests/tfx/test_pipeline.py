"""The TFX pipeline without running it: its graph, its compiled form for Kubeflow, its features, its metadata store."""

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

from captionflow.captioner.vocabulary import BOS, EOS, PAD, UNK
from captionflow.core.errors import InvalidInputError
from captionflow.preprocess.cleaning import clean_caption
from captionflow.sources.csv_export import FILE, export_csv
from tests.ingesting import CAPTION, ingest_records
from tests.processes import captionflow
from tests.spreadsheets import ATTACKS
from tfx_pipeline.beam_args import beam_args
from tfx_pipeline.parameters import TfxParameters
from tfx_pipeline.topology import topology, topology_of_pipeline

ROOT = Path(__file__).parents[2]


def compile_to(file: Path) -> Path:
    """Compile the pipeline in a process of its own."""
    done = captionflow(
        "tfx", "compile", "--csv", "gs://bucket/captions.csv", "--pipeline-root", "gs://bucket/root",
        "--image", "registry.example/captionflow:1", "--epochs", "3", "--output", str(file),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(file)
    return file


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same pipeline compiled twice, in two processes."""
    return [compile_to(tmp_path_factory.mktemp("compiled") / name) for name in ("one.json", "two.json")]


def test_the_description_agrees_with_the_pipeline() -> None:
    """If it does not: python -m tfx_pipeline.topology."""
    assert topology() == topology_of_pipeline()


def test_the_documented_chain_is_in_it() -> None:
    upstream = topology()
    assert next(iter(upstream)) == "CsvExampleGen"
    chain = ["CsvExampleGen", "StatisticsGen", "SchemaGen", "Transform", "Trainer", "Evaluator", "Pusher"]
    for before, after in itertools.pairwise(chain):
        assert before in upstream[after]
    assert {"StatisticsGen", "SchemaGen"} == set(upstream["ExampleValidator"])
    assert "LatestBlessedModel" in upstream["Evaluator"]


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


def test_beam_arguments_of_each_runner() -> None:
    parameters = TfxParameters(csv="a.csv", pipeline_root="gs://b/root", direct_num_workers=2)
    assert beam_args(parameters) == [
        "--runner=FnApiRunner", "--direct_num_workers=2", "--direct_running_mode=multi_processing"
    ]  # fmt: skip
    dataflow = replace(parameters, runner="DataflowRunner", gcp_project="p", region="r", beam_options=("--x=1",))
    assert beam_args(dataflow) == [
        "--runner=DataflowRunner", "--project=p", "--region=r", "--temp_location=gs://b/root/.temp", "--x=1"
    ]  # fmt: skip
    flink = replace(parameters, runner="FlinkRunner", beam_options=("--flink_master=h:1",))
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


def test_tfx_reads_the_same_words_of_cells_that_were_made_safe_for_spreadsheets(tmp_path: Path) -> None:
    from tfx_bsl.coders.csv_decoder import ParseCSVLine

    from tfx_pipeline.features import clean

    records = [replace(CAPTION, id=i, image_id=i, caption=attack) for i, attack in enumerate(ATTACKS)]
    uri = export_csv(ingest_records(records, tmp_path), str(tmp_path / "csv"))
    lines = Path(uri, FILE).read_text().splitlines()
    parser = ParseCSVLine(",")
    parser.setup()
    cells = [cells for line in lines[1:] for cells, _ in parser.process(line)]
    assert [int(row[1]) for row in cells] == list(range(len(ATTACKS)))
    assert [text.decode() for text in clean([row[2] for row in cells]).numpy()] == list(map(clean_caption, ATTACKS))
