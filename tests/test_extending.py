"""The recipes of docs/extending.md do what they promise, followed to the letter in a copy of the project."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from captionflow.captioner.generate import load_model
from captionflow.core.artifact import Artifact, open_artifact
from captionflow.core.errors import InvalidInputError
from captionflow.core.shards import read_shard
from captionflow.evaluation.evaluate import evaluate
from captionflow.evaluation.parameters import EvaluateParameters
from tests.recipes import PAGE, ROOT, Copy, commands, recipe, run

RECIPES = re.findall(r"^## (.+)$", PAGE.read_text(), re.M)
SCREEN = 85
"""Lines, of which code is the most."""


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the page's first commands were run."""
    folder = tmp_path_factory.mktemp("small-run")
    run(commands("How to extend CaptionFlow"), folder, ROOT)
    return folder


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path / "project")


@pytest.fixture(scope="module")
def toy(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Copy, str]:
    """A copy with the toy step, and what its commands printed."""
    copy = Copy(tmp_path_factory.mktemp("toy") / "project")
    copy.follow("A step")
    return copy, run(commands("A step"), small_run, copy.folder)


def made(small_run: Path, name: str, kind: str) -> Artifact:
    artifact = open_artifact(str(small_run / "artifacts" / "try" / name), kind)
    artifact.verify()
    return artifact


@pytest.mark.parametrize("title", RECIPES)
def test_a_recipe_fits_on_a_screen(title: str) -> None:
    assert len(recipe(title).splitlines()) <= SCREEN


def test_the_recipes_go_together_and_keep_the_style(copy: Copy) -> None:
    for title in RECIPES:
        copy.follow(title)
    run("ruff check --no-cache . && ruff format --no-cache --check .", copy.folder, copy.folder)


@pytest.mark.slow
def test_the_toy_step_is_a_command(toy: tuple[Copy, str], small_run: Path) -> None:
    _, printed = toy
    assert "Count the words of the captions." in printed
    assert "Letters of the shortest word that is counted." in printed
    artifact = made(small_run, "toy", "toy")
    words = json.loads(artifact.read("words.json"))
    assert words["square"] > 0
    assert "is" not in words
    assert artifact.manifest.counts == {"words": len(words)}
    assert artifact.manifest.parents == (made(small_run, "ingested", "ingested").parent,)


@pytest.mark.slow
def test_the_toy_step_is_a_component_of_the_pipeline(toy: tuple[Copy, str], small_run: Path) -> None:
    copy, _ = toy
    component = yaml.safe_load((copy.folder / "kfp_pipeline/components/toy/component.yaml").read_text())
    container = component["implementation"]["container"]
    assert container["command"] == ["captionflow", "toy"]
    assert container["image"].startswith("captionflow-ingestion:")
    assert {"name": "shortest_word", "default": "1"}.items() <= component["inputs"][-1].items()
    pipeline = yaml.safe_load((small_run / "artifacts/try/pipeline.yaml").read_text())
    assert pipeline["root"]["dag"]["tasks"]["toy"]["dependentTasks"] == ["ingestion"]
    assert "shortest_word" in pipeline["root"]["inputDefinitions"]["parameters"]


@pytest.mark.slow
def test_the_toy_step_is_in_the_docs(toy: tuple[Copy, str]) -> None:
    copy, _ = toy
    page = (copy.folder / "docs/architecture.md").read_text()
    assert "| `toy` | Count the words of the captions. | `ingested` | `toy` | `ingestion` |" in page


@pytest.mark.slow
def test_the_toy_step_is_in_the_summary_of_a_run(
    toy: tuple[Copy, str], small_run: Path, model: str, trainable: str, tmp_path: Path
) -> None:
    copy, _ = toy
    for name in ("ingested", "preprocessed", "toy"):
        shutil.copytree(small_run / "artifacts" / "try" / name, tmp_path / "run" / name)
    shutil.copytree(model, tmp_path / "run" / "model")
    evaluate(model, trainable, str(tmp_path / "run" / "evaluation"), EvaluateParameters())
    told = run(f"captionflow summary {tmp_path}/run", tmp_path, copy.folder)
    assert told.splitlines()[0].split() == ["state", "success"]
    assert re.search(rf"^toy +{tmp_path}/run/toy +\(\d+ words\)$", told, re.M)


@pytest.mark.slow
def test_the_toy_step_is_a_task_of_the_dag(toy: tuple[Copy, str], tmp_path: Path) -> None:
    copy, _ = toy
    ask = "from tests.dags import DAGS, load; task = load(DAGS / 'image_captioning.py')['image_captioning']"
    ask += ".get_task('toy'); print('upstream', *task.upstream_task_ids)"
    assert "upstream ingest" in run(f'python -c "{ask}"', tmp_path, copy.folder).splitlines()


@pytest.mark.slow
def test_a_source_format(copy: Copy, small_run: Path) -> None:
    copy.follow("A source format")
    run(commands("A source format"), small_run, copy.folder)
    counts = made(small_run, "conceptual", "ingested").manifest.counts
    assert counts == {
        "captions": {"in": 3, "out": 2, "rejected": 1}, "images": 1, "splits": {},
        "rejected": {"no_conceptual_line": 1},
    }  # fmt: skip


@pytest.mark.slow
def test_a_filter(copy: Copy, small_run: Path) -> None:
    copy.follow("A filter")
    run(commands("A filter"), small_run, copy.folder)
    before, after = (made(small_run, name, "preprocessed").manifest.counts for name in ("preprocessed", "shorter"))
    rejected = after["rejected"]["too_long_word"]
    assert rejected > 0
    assert after["captions"]["in"] == before["captions"]["in"]
    assert after["captions"]["out"] == before["captions"]["out"] - rejected
    component = (copy.folder / "kfp_pipeline/components/preprocessing/component.yaml").read_text()
    assert "max_word_characters" in component


@pytest.mark.slow
def test_an_image_format(copy: Copy, small_run: Path) -> None:
    copy.follow("An image format")
    run(commands("An image format"), small_run, copy.folder)
    artifact = made(small_run, "webp", "preprocessed")
    path = artifact.files("test/")[0].path
    with artifact.open(path) as shard:
        assert {sample.image[8:12] for sample in read_shard(shard, path)} == {b"WEBP"}
    assert made(small_run, "webp_model", "model").count("epochs") == 1


@pytest.mark.slow
def test_a_model(copy: Copy, small_run: Path) -> None:
    copy.follow("A model")
    run(commands("A model"), small_run, copy.folder)
    artifact = made(small_run, "model", "model")
    assert json.loads(artifact.read("config.json"))["captioner"] == "show_and_tell"
    assert made(small_run, "evaluation", "evaluation").manifest.metrics.keys() >= {"bleu_4", "cider"}
    # Where its row is missing nothing else is loaded in its place.
    with pytest.raises(InvalidInputError, match=r"config\.json: its captioner 'show_and_tell' is none of"):
        load_model(artifact.uri)
