"""What goes wrong late: good work is kept, and one line tells what happened."""

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path

import pytest

from beam_jobs.preprocess import run
from captionflow.captioner import train as training
from captionflow.captioner.generate import caption
from captionflow.captioner.parameters import TrainParameters
from captionflow.core.artifact import open_artifact
from captionflow.core.errors import InvalidInputError, StepFailedError
from captionflow.preprocess.parameters import PreprocessParameters
from captionflow.preprocess.shards import Layout
from tests.conftest import SMALL
from tests.ingesting import CAPTION, ingest_records
from tests.servers import Site

pytestmark = pytest.mark.security


def on_a_full_disk(folder: Path, kilobytes: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command whose folder is a disk of so many kB, in a mount namespace of its own."""
    folder.mkdir()
    script = f'mount -t tmpfs -o size={kilobytes}k none "$0" && exec "$@"'
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", script, str(folder)]
    command += [sys.executable, "-m", "captionflow", *arguments, f"--output={folder}/out"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("step", ["sample", "ingest", "csv", "validate", "preprocess", "export", "train", "evaluate"])
def test_a_full_disk_is_one_line(
    step: str, small_sample: Path, ingested: str, trainable: str, model: str, tmp_path: Path
) -> None:
    size, arguments = {
        "sample": (100, ["--images=60"]),
        "ingest": (20, [f"--sources={small_sample}/captions.json", f"--image-root={small_sample}/images"]),
        "csv": (20, [f"--ingested={ingested}"]),
        "validate": (8, [f"--ingested={ingested}"]),
        "preprocess": (200, [f"--ingested={ingested}", f"--allow-url-prefix={small_sample}", "--split=1,0,0"]),
        "export": (40, [trainable, "--output-format=parquet"]),
        "train": (40, [f"--preprocessed={trainable}", "--epochs=1", "--width=32", "--encoder-depth=0"]),
        "evaluate": (20, [f"--model={model}", f"--preprocessed={trainable}"]),
    }[step]
    done = on_a_full_disk(tmp_path / "disk", size, step, *arguments)
    assert done.returncode == 1, done.stderr
    assert "No space left on device; make room and run again" in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.fixture
def burst(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Make the validation loss no number after so many epochs: what bursts on one machine does not on another."""
    real = training._mean_loss

    def arrange(good_epochs: int) -> None:
        losses: Iterator[Callable[..., float]] = chain(repeat(real, good_epochs), repeat(lambda *_: math.nan))
        monkeypatch.setattr(training, "_mean_loss", lambda *arguments: next(losses)(*arguments))

    return arrange


def test_good_epochs_outlive_a_loss_that_is_no_number(
    burst: Callable[[int], None], trainable: str, model: str, tmp_path: Path
) -> None:
    burst(3)
    kept = open_artifact(training.train(trainable, str(tmp_path / "model"), TrainParameters(**SMALL, epochs=8)))
    kept.verify()
    whole = json.loads(open_artifact(model).read("history.json"))
    assert json.loads(kept.read("history.json"))[0]["train_loss"] == pytest.approx(whole[0]["train_loss"], rel=0.2)
    assert kept.manifest.counts["epochs"] == 3
    assert kept.manifest.counts["stopped_by"].startswith("the validation loss of epoch 4 is nan")
    assert list(caption([], kept.uri, 1)) == []


def test_without_a_good_epoch_there_is_no_model(burst: Callable[[int], None], trainable: str, tmp_path: Path) -> None:
    burst(0)
    with pytest.raises(StepFailedError, match="epoch 1 is nan: try a lower --learning-rate"):
        training.train(trainable, str(tmp_path / "model"), TrainParameters(**SMALL))
    assert not (tmp_path / "model" / "manifest.json").exists()


@pytest.mark.parametrize("how", ["by chance", "by licence"])
def test_a_split_that_will_be_empty_is_told_before_anything_is_fetched(how: str, site: Site, tmp_path: Path) -> None:
    count = 3 if how == "by chance" else 200
    free = replace(CAPTION, image_license="Attribution License")
    records = [replace(free, image_id=i, id=i, image_url=f"{site.url}/{i}.jpg") for i in range(count)]
    if how == "by licence":
        records[3:] = [replace(record, image_license="All rights reserved") for record in records[3:]]
    source = ingest_records(records, tmp_path)
    with pytest.raises(InvalidInputError, match=r"--split: no image falls into (val|test), whose share is 0\.05"):
        run(source, str(tmp_path / "out"), PreprocessParameters(allow_url_prefix=(site.url,)), [])
    assert not site.hits
    assert not (tmp_path / "out").exists()


def test_a_split_that_lost_all_its_images_is_no_success(site: Site, small_sample: Path, tmp_path: Path) -> None:
    pictures = sorted((small_sample / "images").iterdir())
    parameters = PreprocessParameters(allow_url_prefix=(site.url,), split="0.5,0.25,0.25", image_size=32)
    layout = Layout.plan({None: len(pictures)}, parameters)
    lost = {i for i in range(len(pictures)) if layout.assign(i).split == "test"}
    site.pages = {f"/{i}.jpg": path.read_bytes() for i, path in enumerate(pictures) if i not in lost}
    records = [replace(CAPTION, image_id=i, id=i, image_url=f"{site.url}/{i}.jpg") for i in range(len(pictures))]
    with pytest.raises(StepFailedError, match="no image is left in test"):
        run(ingest_records(records, tmp_path), str(tmp_path / "out"), parameters, [])
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_training_tells_that_there_will_be_nothing_to_evaluate_on(
    ingested: str, small_sample: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    parameters = PreprocessParameters(allow_url_prefix=(str(small_sample),), image_size=32, split="0.7,0.3,0")
    data = run(ingested, str(tmp_path / "data"), parameters, [])
    training.train(data, str(tmp_path / "model"), TrainParameters(**SMALL, epochs=1))
    assert "its test split is empty" in caplog.text


def test_a_loss_whose_perplexity_no_float_holds_costs_no_training(
    trainable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss is made up: no training of a few seconds gets there, whatever its learning rate."""
    monkeypatch.setattr(training, "_mean_loss", lambda *_: 800.0)
    uri = training.train(trainable, str(tmp_path / "model"), TrainParameters(**SMALL, epochs=1))
    metrics = open_artifact(uri).manifest.metrics
    assert metrics["val_loss"] == 800.0
    assert math.isfinite(metrics["val_perplexity"])
