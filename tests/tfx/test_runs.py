"""Real runs of the TFX pipeline on this machine: again, on other captions, and what is left behind."""

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from captionflow.core.records import ImageCaption
from captionflow.sources.csv_export import COLUMNS, FILE
from tests.processes import captionflow
from tests.tfx.conftest import QUICK, latest, pushed, run
from tfx_pipeline.parameters import METADATA_FILE, TfxParameters

pytestmark = pytest.mark.slow

MAIN = Path(__file__).parents[2] / ".venv" / "bin" / "captionflow"
WORDS = ["gravel", "willow", "harbour", "engine", "lantern", "copper", "meadow", "anchor", "velvet", "thunder"]


@pytest.fixture(scope="module")
def other_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Captions about other things, in the form of the documentation's CSV."""
    rng = random.Random(0)
    file = tmp_path_factory.mktemp("other") / "other.csv"
    rows = (
        f'{i // 5},{i},"A {" ".join(rng.choices(WORDS, k=6))}.",http://a.example/{i}.jpg,{i}.jpg,Attribution License\n'
        for i in range(300)
    )
    file.write_text(",".join(COLUMNS) + "\n" + "".join(rows))
    return file


@pytest.fixture(scope="module")
def root(csv_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline's root after a first run."""
    folder = tmp_path_factory.mktemp("tfx") / "root"
    done = run(f"{csv_uri}/{FILE}", folder)
    assert done.returncode == 0, done.stderr
    (folder / "stdout").write_text(done.stdout)
    (folder / "stderr").write_text(done.stderr)
    return folder


def test_a_run_logs_its_progress_and_prints_its_results(root: Path) -> None:
    progress = (root / "stderr").read_text().splitlines()
    assert progress[0].startswith("[1/10] CsvExampleGen: done in ")
    assert progress[-1].startswith("[10/10] Pusher: done in ")
    assert sum(line.startswith("epoch ") for line in progress) <= QUICK["epochs"]
    summary = dict(line.split(None, 1) for line in (root / "stdout").read_text().splitlines())
    assert summary["blessed"] == "yes"
    assert summary["pushed"] == str(pushed(root))


def test_the_model_knows_more_than_which_words_are_frequent(root: Path) -> None:
    training = json.loads((pushed(root) / "assets.extra" / "training.json").read_bytes())
    assert training["perplexity"] <= training["unigram_perplexity"] / 2


def test_metrics_are_there_for_each_length(root: Path) -> None:
    from tfx_pipeline.results import metrics

    values = metrics(str(latest(root, "Evaluator/evaluation/*")))
    assert values.keys() == {"all", "length short", "length medium", "length long"}
    training = json.loads((pushed(root) / "assets.extra" / "training.json").read_bytes())
    assert values["all"]["perplexity"] == pytest.approx(training["perplexity"], rel=1e-4)
    assert 0 < values["all"]["accuracy"] < 1


def test_training_left_logs_for_tensorboard(root: Path) -> None:
    assert list(root.glob("Trainer/model_run/*/**/events.out.tfevents.*"))


def test_the_pushed_model_continues_a_caption(root: Path, ingested: str) -> None:
    """In a new process that knows nothing of this project."""
    code = """
import sys
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
example = lambda text: tf.train.Example(features=tf.train.Features(
    feature={"caption": tf.train.Feature(bytes_list=tf.train.BytesList(value=[text.encode()]))})).SerializeToString()
answer = model.signatures["serving_default"](tf.constant([example("A LARGE"), example("")]))
print(answer["caption"].numpy()[0].decode())
print(*(word.decode() for word in answer["next_words"].numpy()[0]))
print(*answer["probabilities"].numpy()[0])
print(answer["caption"].numpy()[1].decode())
tokens = model.signatures["transform_features"](tf.constant([example("A LARGE")]))["tokens"].numpy()
print(*tokens[0])
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(pushed(root))], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    caption, words, probabilities, from_nothing, tokens = done.stdout.splitlines()
    known = {
        word.strip(".").lower()
        for line in Path(ingested, "captions.jsonl").read_bytes().splitlines()
        for word in ImageCaption.from_json(line).caption.split()
    }
    assert caption.startswith("a large ")
    assert len(caption.split()) > 3
    assert {*caption.split(), *from_nothing.split()} <= known
    assert words.split()[0] == caption.split()[2]
    likely = [float(probability) for probability in probabilities.split()]
    assert likely == sorted(likely, reverse=True)
    assert 0 < sum(likely) <= 1.0001
    # BOS, two words, EOS, padding.
    assert [token != "0" for token in tokens.split()[:5]] == [True, True, True, True, False]


def test_lineage_of_the_pushed_model_goes_back_to_the_source(root: Path, csv_uri: str, ingested: str) -> None:
    # From the main environment, which has no TFX.
    done = subprocess.run([MAIN, "lineage", str(pushed(root)), "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    node = json.loads(done.stdout)
    assert node["made_by"]["component"] == "Pusher"
    nodes: dict[str, Any] = {}

    def collect(node: dict[str, Any]) -> None:
        nodes[node["made_by"]["component"] if node["made_by"] else "none"] = node
        for parent in node["parents"]:
            collect(parent)

    collect(node)
    assert nodes.keys() == {
        "Pusher", "Evaluator", "Trainer", "Transform", "SchemaGen", "StatisticsGen", "CsvExampleGen"
    }  # fmt: skip
    assert nodes["Evaluator"]["metrics"]["all"]["perplexity"] > 1
    assert nodes["Evaluator"]["artifact"]["properties"]["blessed"] == 1
    assert json.loads(nodes["Trainer"]["made_by"]["properties"]["custom_config"])["epochs"] == QUICK["epochs"]
    assert nodes["CsvExampleGen"]["made_by"]["properties"]["span"] in (0, "0")
    source = nodes["CsvExampleGen"]["source"]
    assert (source["uri"], source["parents"][0]["uri"]) == (csv_uri, ingested)
    text = captionflow("lineage", str(pushed(root)))
    assert text.stdout.startswith("PushedModel  ")
    assert "captions.json" in text.stdout


def test_what_was_never_made_has_no_lineage(root: Path, tmp_path: Path) -> None:
    done = captionflow("lineage", str(tmp_path), "--metadata", str(root / METADATA_FILE))
    assert done.returncode == 2
    assert done.stderr.strip() == f"captionflow: {tmp_path}: the metadata store knows of no artifact there"


@pytest.fixture(scope="module")
def other_run(root: Path, other_csv: Path, csv_uri: str) -> Iterator[subprocess.CompletedProcess[str]]:
    """A run on other captions in the same root."""
    before = pushed(root)
    done = run(str(other_csv), root)
    assert before.exists()
    return done


def test_other_captions_are_an_anomaly_by_name(other_run: subprocess.CompletedProcess[str]) -> None:
    assert other_run.returncode == 0, other_run.stderr
    (anomaly,) = [line for line in other_run.stdout.splitlines() if line.startswith("anomaly")]
    assert "train/words: " in anomaly
    assert "between current and previous" in anomaly


def test_a_model_is_compared_with_the_last_blessed_one(other_run: subprocess.CompletedProcess[str]) -> None:
    assert "perplexity_diff" in other_run.stdout


def test_only_what_changed_runs_again_and_a_model_that_is_not_good_enough_is_not_pushed(
    root: Path, csv_uri: str, other_run: subprocess.CompletedProcess[str]
) -> None:
    models, served = len(list(root.glob("Trainer/model/*"))), pushed(root)
    done = run(f"{csv_uri}/{FILE}", root, "--max-perplexity", "1")
    assert done.returncode == 0, done.stderr
    assert "blessed       no: perplexity is " in done.stdout
    assert pushed(root) == served
    assert len(list(root.glob("Trainer/model/*"))) == models
    assert "epoch " not in done.stderr


DOCUMENTED = """image_id,id,caption,image_url,image_name,image_license
318556,255,"An angled view of a beautifully decorated bathroom.","http://a.example/1.jpg","1.jpg","Attribution License"
476220,14,"An empty kitchen with white and black appliances.","http://a.example/2.jpg","2.jpg","Attribution License"
"""


def test_the_two_rows_of_the_documentation_run_with_a_module_file_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "two.csv").write_text(DOCUMENTED)
    module = tmp_path / "my_module.py"
    module.write_text("from tfx_pipeline.module import preprocessing_fn, run_fn\n")
    done = run(str(tmp_path / "two.csv"), tmp_path / "root", "--module-file", str(module))
    assert done.returncode == 0, done.stderr
    # TFX packages it for its workers.
    assert list((tmp_path / "root" / "_wheels").iterdir())
    assert "[10/10] Pusher" in done.stderr
    assert "anomaly       train/words: " in done.stdout


def test_too_few_images_for_two_splits_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text("".join(DOCUMENTED.splitlines(keepends=True)[:2]))
    done = run(str(tmp_path / "one.csv"), tmp_path / "root")
    assert done.returncode == 2
    assert "a split holds no captions" in done.stderr.splitlines()[-1]


def test_a_metadata_store_that_does_not_answer_is_one_line_without_its_password(csv_uri: str, tmp_path: Path) -> None:
    store = "mysql://somebody:hidden-word@127.0.0.1:9/mlmd"
    done = captionflow("tfx", "run", "--csv", csv_uri, "--pipeline-root", str(tmp_path), "--metadata", store)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("captionflow: CsvExampleGen: Failed to establish connection")
    assert "Traceback" not in done.stderr
    assert "hidden-word" not in done.stderr + (tmp_path / "tfx.log").read_text()


def test_a_task_can_be_run_again(csv_uri: str, tmp_path: Path) -> None:
    """TFX's launcher alone fails on what an earlier attempt of the same run left in the metadata store."""
    from tfx_pipeline.component_run import run_component

    parameters = TfxParameters(csv=f"{csv_uri}/{FILE}", pipeline_root=str(tmp_path / "root"), enable_cache=False)
    for component in ("CsvExampleGen", "CsvExampleGen", "StatisticsGen", "StatisticsGen", "SchemaGen"):
        made = run_component(component, parameters, "one")
    assert made == {"schema": [str(next((tmp_path / "root" / "SchemaGen" / "schema").iterdir()))]}
    assert len(list((tmp_path / "root" / "StatisticsGen" / "statistics").iterdir())) == 2
    assert len(list((tmp_path / "root" / "SchemaGen" / "schema").iterdir())) == 1
