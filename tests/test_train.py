"""Training and captioning on a tiny sample: reproducible, improving, and with few dependencies."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from beam_jobs.preprocess import run
from captionflow.captioner.dataset import Collate, Samples, loader
from captionflow.captioner.generate import caption, load_model
from captionflow.captioner.parameters import TrainParameters
from captionflow.captioner.train import train
from captionflow.captioner.vocabulary import PAD, Vocabulary, count_tokens
from captionflow.core.artifact import open_artifact
from captionflow.core.errors import InvalidInputError
from captionflow.preprocess.parameters import PreprocessParameters
from tests.conftest import SMALL


def test_training_improves_and_keeps_the_best_epoch(model: str) -> None:
    artifact = open_artifact(model, "model")
    history = json.loads(artifact.read("history.json"))
    losses = [row["val_loss"] for row in history]
    assert losses[-1] < losses[0]
    assert artifact.manifest.metrics["val_loss"] == min(losses)
    assert artifact.manifest.counts["best_epoch"] == losses.index(min(losses)) + 1


def test_two_cpu_runs_give_identical_artifacts(trainable: str, tmp_path: Path) -> None:
    parameters = TrainParameters(**SMALL, epochs=2, device="cpu")
    first, second = (open_artifact(train(trainable, str(tmp_path / name), parameters)) for name in "ab")
    assert first.manifest.sha256 == second.manifest.sha256
    other = TrainParameters(**SMALL, epochs=2, device="cpu", seed=1)
    third = open_artifact(train(trainable, str(tmp_path / "c"), other))
    assert third.read("model.safetensors") != first.read("model.safetensors")


def test_a_model_captions_files_with_its_own_words(model: str, small_sample: Path) -> None:
    images = [str(path) for path in sorted((small_sample / "images").iterdir())[:3]]
    words = set(Vocabulary.from_json(open_artifact(model).read("vocabulary.json")).tokens)
    for beam_size in (1, 3):
        captions = dict(caption(images, model, beam_size))
        assert list(captions) == images
        assert all(set(text.split()) <= words for text in captions.values())


@pytest.mark.parametrize("content", [None, b"<html>"], ids=["missing", "not an image"])
def test_a_picture_that_cannot_be_read_is_named(model: str, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.jpg"
    if content:
        path.write_bytes(content)
    with pytest.raises(InvalidInputError, match=r"x\.jpg"):
        list(caption([str(path)], model, 1))


def test_weights_hold_tensors_and_nothing_else(model: str) -> None:
    weights = load(open_artifact(model).read("model.safetensors"))
    trained = load_model(model).captioner.state_dict()
    assert weights.keys() == trained.keys()
    assert all(torch.equal(weights[name], trained[name].cpu()) for name in weights)


def test_training_stops_when_validation_no_longer_improves(trainable: str, tmp_path: Path) -> None:
    parameters = TrainParameters(**SMALL, epochs=50, patience=1, learning_rate=0.3, warmup_share=0.0)
    counts = open_artifact(train(trainable, str(tmp_path / "model"), parameters)).manifest.counts
    assert counts["best_epoch"] + 1 == counts["epochs"] < 50


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"heads": 5}, "heads"), ({"width": 42}, "width"), ({"device": "mps"}, "--device: this machine has no mps")],
)
def test_a_parameter_that_does_not_fit_is_named(
    trainable: str, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        train(trainable, str(tmp_path / "model"), TrainParameters(**{**SMALL, **changes}))


def test_an_empty_split_is_named(ingested: str, small_sample: Path, tmp_path: Path) -> None:
    parameters = PreprocessParameters(allow_url_prefix=(str(small_sample),), image_size=32, split="1,0,0")
    data = run(ingested, str(tmp_path / "data"), parameters, [])
    with pytest.raises(InvalidInputError, match="val split is empty"):
        train(data, str(tmp_path / "model"), TrainParameters(**SMALL))


def test_training_needs_only_the_stated_packages(trainable: str, tmp_path: Path) -> None:
    blocked = ["aiohttp", "airflow", "apache_beam", "gcsfs", "ijson", "jinja2", "matplotlib", "pandas", "pydantic"]
    blocked += ["pycocoevalcap", "requests", "rich", "s3fs", "scipy", "tensorflow", "typer", "urllib3"]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked!r}))\n"
        "from captionflow.captioner.parameters import TrainParameters\n"
        "from captionflow.captioner.train import train\n"
        f"train({trainable!r}, {str(tmp_path / 'model')!r}, TrainParameters(**{ {**SMALL, 'epochs': 1}!r}))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    open_artifact(str(tmp_path / "model"), "model").verify()


def test_every_image_comes_once_an_epoch_in_a_new_order(trainable: str) -> None:
    samples = Samples(open_artifact(trainable), "train", seed=1)
    orders = []
    for samples.epoch in (1, 2, 1):
        orders.append([sample.image_id for sample in samples])
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])
    assert len(set(orders[0])) == len(orders[0]) == samples.count


def test_loader_workers_share_the_images(trainable: str) -> None:
    artifact = open_artifact(trainable)
    vocabulary = Vocabulary.build({"a": 1})
    batches = loader(Samples(artifact, "train"), Collate(vocabulary, "jpeg", 10), 8, workers=2)
    ids = [sample.image_id for batch in batches for sample in batch.samples]
    assert len(ids) == len(set(ids)) == artifact.manifest.counts["splits"]["train"]


def test_pictures_with_fewer_captions_are_filled_up(trainable: str) -> None:
    first, second = list(Samples(open_artifact(trainable), "train"))[:2]
    short = type(first)(**{**{f: getattr(first, f) for f in first.__slots__}, "captions": first.captions[:1]})
    batch = Collate(Vocabulary.build(count_tokens(c.text for c in first.captions)), "jpeg", 40)([short, second])
    assert batch.images.shape == (2, 3, 64, 64)
    assert batch.tokens.shape[0] == 10
    assert (batch.tokens[1:5] == PAD).all()
    assert (batch.tokens[5:, 0] != PAD).all()
