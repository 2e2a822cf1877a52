"""Artifacts in every format: made by the job or exported, resumed, trained and evaluated on, shown."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from beam_jobs.preprocess import run
from captionflow.captioner.dataset import Samples
from captionflow.captioner.parameters import TrainParameters
from captionflow.captioner.train import train
from captionflow.core.artifact import Artifact, open_artifact
from captionflow.core.errors import InvalidInputError, StepFailedError
from captionflow.core.records import SPLITS
from captionflow.core.shards import SHARD_FORMATS
from captionflow.core.show import show
from captionflow.core.steps import PREPROCESSED
from captionflow.evaluation.evaluate import evaluate
from captionflow.evaluation.parameters import EvaluateParameters
from captionflow.preprocess.export import export
from captionflow.preprocess.parameters import FormatParameters, PreprocessParameters
from tests.conftest import OTHER_FORMATS, SMALL
from tests.processes import captionflow
from tests.recipes import ROOT, commands, recipe
from tests.recipes import run as run_commands
from tests.test_preprocess import assert_accounted, content, samples


def settings_of(small_sample: Path, **changes: object) -> PreprocessParameters:
    values = {"allow_url_prefix": (str(small_sample),), "image_size": 32, "split": "0.6,0.2,0.2", **changes}
    return PreprocessParameters(**values)


@pytest.fixture(scope="module")
def avro(ingested: str, small_sample: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An artifact with rejects, in Avro."""
    return run(ingested, str(tmp_path_factory.mktemp("avro") / "preprocessed"), settings_of(small_sample), [])


@pytest.fixture(scope="module", params=OTHER_FORMATS)
def other(request: pytest.FixtureRequest, avro: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same in another format, exported."""
    output = str(tmp_path_factory.mktemp("other") / request.param)
    return export(avro, output, FormatParameters(output_format=request.param))


def format_name(artifact: Artifact) -> str:
    return str(artifact.manifest.parameters["output_format"])


def test_an_export_holds_the_same_images_splits_and_rejects(avro: str, other: str) -> None:
    source, exported = open_artifact(avro, PREPROCESSED), open_artifact(other, PREPROCESSED)
    exported.verify()
    assert_accounted(exported)
    assert exported.manifest.parents == (source.parent,)
    assert exported.manifest.counts == source.manifest.counts
    for split in SPLITS:
        assert list(samples(exported, split)) == list(samples(source, split))
    assert {name: data for name, data in content(other).items() if name.startswith("rejects/")} == {
        name: data for name, data in content(avro).items() if name.startswith("rejects/")
    }
    suffix = SHARD_FORMATS[format_name(exported)].suffix
    assert {Path(file.path).suffix for file in exported.manifest.files} == {suffix, ".jsonl", ".html", ".json"}


def test_there_and_back_are_the_same_bytes(avro: str, other: str, tmp_path: Path) -> None:
    further = next(name for name in OTHER_FORMATS if name != format_name(open_artifact(other)))
    there = export(other, str(tmp_path / "further"), FormatParameters(output_format=further))
    back = export(there, str(tmp_path / "back"), FormatParameters())
    assert content(back) == content(avro)


def test_a_job_that_broke_off_goes_on_and_writes_what_is_exported(
    other: str, ingested: str, small_sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken_off(*_: object) -> str:
        raise StepFailedError("broken off")

    exported, out = open_artifact(other), tmp_path / "out"
    name = format_name(exported)
    parameters = settings_of(small_sample, output_format=name)
    with monkeypatch.context() as patch:
        patch.setattr("captionflow.preprocess.captions.commit", broken_off)
        with pytest.raises(StepFailedError, match="broken off"):
            run(ingested, str(out), parameters, [])
    damaged = out / f"train/00000-of-00001{SHARD_FORMATS[name].suffix}"
    damaged.write_bytes(damaged.read_bytes()[:-600])
    made = open_artifact(run(ingested, str(out), parameters, []))
    # The page of the export is that of the artifact it comes from, and tells its parameters.
    ours, theirs = ({**content(uri), "dataset.html": b""} for uri in (made.uri, other))
    assert ours == theirs
    assert (made.manifest.counts, made.manifest.parameters) == (exported.manifest.counts, exported.manifest.parameters)
    train_images, images = made.count("splits", "train"), made.count("images", "out")
    assert images - train_images <= made.manifest.run["images_resumed"] < made.count("images", "in")


@pytest.fixture(scope="module")
def trained_on_avro(trainable: str, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    output = str(tmp_path_factory.mktemp("trained") / "model")
    return open_artifact(train(trainable, output, TrainParameters(**SMALL, epochs=1, loader_workers=1)))


@pytest.mark.parametrize("output_format", OTHER_FORMATS)
def test_training_learns_the_same_from_every_format(
    output_format: str, trainable_as: dict[str, str], trained_on_avro: Artifact, tmp_path: Path
) -> None:
    trained = train(
        trainable_as[output_format], str(tmp_path / "model"), TrainParameters(**SMALL, epochs=1, loader_workers=1)
    )
    for name in ("model.safetensors", "vocabulary.json", "history.json"):
        assert open_artifact(trained).read(name) == trained_on_avro.read(name)


@pytest.fixture(scope="module")
def scores_on_avro(model: str, trainable: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    output = str(tmp_path_factory.mktemp("evaluated") / "evaluation")
    return open_artifact(evaluate(model, trainable, output, EvaluateParameters())).manifest.metrics


@pytest.mark.parametrize("output_format", OTHER_FORMATS)
def test_evaluation_gives_the_same_scores_on_every_format(
    output_format: str, trainable_as: dict[str, str], model: str, scores_on_avro: dict[str, float], tmp_path: Path
) -> None:
    evaluated = evaluate(model, trainable_as[output_format], str(tmp_path / "evaluation"), EvaluateParameters())
    assert open_artifact(evaluated).manifest.metrics == scores_on_avro


def test_show_tells_the_first_captions(avro: str, other: str) -> None:
    name = format_name(open_artifact(other))
    assert re.search(rf"parameters .*output_format={name}$|^ +output_format={name}$", show(other), re.M)
    assert re.findall(r"\d+ of image .*", show(other)) == re.findall(r"\d+ of image .*", show(avro))


def cut(data: bytes) -> bytes:
    return data[:-40]


def cut_at_a_sample(data: bytes) -> bytes:
    return data[:-1024]


def change(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.security
@pytest.mark.parametrize("harm", [cut, cut_at_a_sample, change, lambda data: b"", lambda data: data + b"\0"])
def test_no_shard_that_was_changed_is_read(harm: Callable[[bytes], bytes], other: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(other, copy)
    (shard,) = (copy / "train").iterdir()
    shard.write_bytes(harm(shard.read_bytes()))
    line = rf"^{copy}/train/{shard.name}: differs from its manifest; make the artifact again$"
    with pytest.raises(InvalidInputError, match=line):
        list(Samples(open_artifact(str(copy)), "train", check=True))
    with pytest.raises(InvalidInputError, match=line):
        export(str(copy), str(tmp_path / "out"), FormatParameters())
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_an_artifact_is_not_exported_onto_itself(avro: str) -> None:
    with pytest.raises(InvalidInputError, match=r"^--output: .*; choose another folder$"):
        export(avro, f"{avro}/../{Path(avro).name}", FormatParameters(output_format="parquet"))
    open_artifact(avro).verify()


def test_pixels_are_no_files_but_a_column(ingested: str, small_sample: Path, tmp_path: Path) -> None:
    tensors = run(ingested, str(tmp_path / "tensors"), settings_of(small_sample, image_format="tensor"), [])
    exported = export(tensors, str(tmp_path / "parquet"), FormatParameters(output_format="parquet"))
    assert list(samples(open_artifact(exported), "train")) == list(samples(open_artifact(tensors), "train"))
    done = captionflow("export", tensors, f"--output={tmp_path}/tar", "--output-format=webdataset")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "captionflow: --output-format: webdataset holds picture files, and --image-format tensor makes none; "
        "choose jpeg, png or another format of shards\n"
    )
    assert not (tmp_path / "tar").exists()


def test_the_commands_of_the_docs_work(trainable: str, tmp_path: Path) -> None:
    page = ROOT / "docs" / "data.md"
    shutil.copytree(trainable, tmp_path / "artifacts" / "hand" / "preprocessed")
    told = run_commands(commands("Formats of shards", page), tmp_path, ROOT)
    assert told.splitlines()[:2] == [f"{tmp_path}/artifacts/hand/{name}" for name in OTHER_FORMATS]
    (code,) = re.findall(r"^```python\n(.*?)^```$", recipe("Formats of shards", page), re.M | re.S)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first = next(samples(open_artifact(trainable), "train"))
    assert done.stdout.splitlines()[0] == f"(64, 64) {first.captions[0].text}"
