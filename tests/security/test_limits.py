"""Captions that are far too many or far too long: Rejects, and bounded memory."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from beam_jobs.preprocess import run
from captionflow.captioner.parameters import TrainParameters
from captionflow.captioner.train import train
from captionflow.captioner.vocabulary import SPECIAL_TOKENS, Vocabulary
from captionflow.core.artifact import open_artifact
from captionflow.core.records import ImageCaption, Reject, to_json_line
from captionflow.preprocess.parameters import PreprocessParameters
from captionflow.sources.ingest import ingest
from captionflow.sources.parameters import IngestParameters
from tests.conftest import SMALL
from tests.ingesting import CAPTION

pytestmark = pytest.mark.security


def coco(path: Path, captions: list[str]) -> str:
    """A COCO file with one picture and these captions of it."""
    image = {"id": 1, "file_name": "1.jpg", "coco_url": "http://host/1.jpg", "license": 1}
    annotations = [{"id": i, "image_id": 1, "caption": text} for i, text in enumerate(captions)]
    content = {"licenses": [{"id": 1, "name": "x"}], "images": [image], "annotations": annotations}
    path.write_text(json.dumps(content))
    return str(path)


def test_an_endless_caption_is_a_reject(tmp_path: Path) -> None:
    words = " ".join(f"w{i}" for i in range(1_000_000))
    source = coco(tmp_path / "captions.json", ["a dog", words, "é" * 5_000, "é" * 5_001])
    artifact = open_artifact(ingest(str(tmp_path / "out"), IngestParameters(sources=(source,))))
    assert artifact.manifest.counts["captions"] == {"in": 4, "out": 2, "rejected": 2}
    assert artifact.manifest.counts["rejected"] == {"text_too_long": 2}
    lines = artifact.read("rejects.jsonl").splitlines()
    first = Reject.from_json(lines[0])
    assert (first.id, first.detail) == (1, "caption is longer than 10000 bytes (--max-text-bytes)")
    assert sum(map(len, lines)) < 1000


@pytest.mark.parametrize("field", ["image_url", "image_name", "image_license"])
def test_other_texts_have_an_end_too(field: str, tmp_path: Path) -> None:
    rows = [CAPTION, replace(CAPTION, id=1, **{field: "x" * 10_001})]
    source = tmp_path / "captions.jsonl"
    source.write_text("".join(json.dumps({f: getattr(row, f) for f in row.__slots__}) + "\n" for row in rows))
    counts = open_artifact(ingest(str(tmp_path / "out"), IngestParameters(sources=(str(source),)))).manifest.counts
    assert counts["rejected"] == {"text_too_long": 1}


def jsonl(path: Path, records: list[ImageCaption]) -> str:
    """A JSON Lines source of these rows."""
    path.write_bytes(b"".join(map(to_json_line, records)))
    return str(path)


def test_one_picture_has_a_bounded_number_of_captions(tmp_path: Path) -> None:
    """Its URL is repeated in each, so that a small source could fill disk and memory."""
    long = f"http://host/{'x' * 9000}"
    records = [replace(CAPTION, image_id=1, id=i, image_url=long) for i in range(20_000)]
    records += [replace(CAPTION, image_id=2 + i, id=20_000 + i) for i in range(20_000)]
    source = jsonl(tmp_path / "captions.jsonl", records)
    artifact = open_artifact(ingest(str(tmp_path / "out"), IngestParameters(sources=(source,))))
    assert artifact.manifest.counts["captions"] == {"in": 40_000, "out": 20_020, "rejected": 19_980}
    assert artifact.manifest.counts["rejected"] == {"too_many_captions": 19_980}
    assert Reject.from_json(artifact.read("rejects.jsonl").splitlines()[0]).id == 20
    assert sum(file.bytes for file in artifact.manifest.files) < 10e6


@pytest.mark.parametrize("field", ["coco_url", "license"])
def test_rejects_do_not_multiply_what_is_long(field: str, tmp_path: Path) -> None:
    image = {"id": 1, "file_name": "1.jpg", "coco_url": "http://host/1.jpg", "license": 1, field: "x" * 3_000_000}
    annotations = [{"id": i, "image_id": 1} for i in range(100)]
    good = [{"id": 100 + i, "image_id": 2 + i, "caption": "a dog"} for i in range(100)]
    images = [image, *({**image, field: "y", "id": 2 + i} for i in range(100))]
    licenses = [{"id": 1, "name": "x"}, {"id": "y", "name": "y"}]
    source = tmp_path / "captions.json"
    source.write_text(json.dumps({"licenses": licenses, "images": images, "annotations": [*annotations, *good]}))
    artifact = open_artifact(ingest(str(tmp_path / "out"), IngestParameters(sources=(str(source),))))
    assert artifact.manifest.counts["captions"]["rejected"] == 100
    assert sum(file.bytes for file in artifact.manifest.files) < 1e6


def test_ids_with_equal_hashes_are_no_ids(tmp_path: Path) -> None:
    """Python's integers hash modulo 2^61 - 1: a dictionary of such would take a time by the square of their number."""
    ids = [7 + k * (2**61 - 1) for k in range(5, 3000)]
    images = [{"id": i, "file_name": "x", "coco_url": "http://host/x", "license": 1} for i in ids]
    annotations = [{"id": n, "image_id": i, "caption": "a dog"} for n, i in enumerate(ids)]
    row = {"id": 7, "file_name": "x", "coco_url": "http://host/x", "license": 1}
    good = [{"id": 5000 + i, "image_id": 7, "caption": "a dog"} for i in range(3)]
    source = tmp_path / "captions.json"
    content = {"licenses": [{"id": 1, "name": "x"}], "images": [row, *images], "annotations": [*good, *annotations]}
    source.write_text(json.dumps(content))
    counts = open_artifact(
        ingest(str(tmp_path / "out"), IngestParameters(sources=(str(source),), max_reject_ratio=1.0))
    ).manifest.counts
    assert counts["captions"]["out"] == 3
    assert counts["rejected"] == {"ill_typed_field": len(ids)}


def test_the_most_frequent_words_are_learnt(trainable: str, tmp_path: Path) -> None:
    parameters = TrainParameters(**SMALL, epochs=1, max_vocabulary=5)
    artifact = open_artifact(train(trainable, str(tmp_path / "model"), parameters))
    learnt = Vocabulary.from_json(artifact.read("vocabulary.json")).tokens
    assert len(learnt) == artifact.manifest.counts["vocabulary"] == 5 + len(SPECIAL_TOKENS)
    assert artifact.manifest.counts["words_left_out"] > 5
    assert "a" in learnt


@pytest.mark.slow
def test_hostile_captions_do_not_swell_training(small_sample: Path, tmp_path: Path) -> None:
    """Of 20,000 captions of one picture and a million words, training sees what the limits let through."""
    picture = next((small_sample / "images").iterdir())
    captions = [replace(CAPTION, image_id=10**6, id=10**6 + i, image_url=str(picture)) for i in range(20_000)]
    texts = [
        replace(CAPTION, image_id=10**7 + i // 20, id=10**7 + i, image_url=str(picture), caption=words)
        for i, words in enumerate(" ".join(f"w{i}x{n}" for n in range(900)) for i in range(1200))
    ]
    rows = jsonl(tmp_path / "captions.jsonl", [*captions, *texts])
    source = ingest(str(tmp_path / "ingested"), IngestParameters(sources=(rows,), max_reject_ratio=1.0))
    parameters = PreprocessParameters(allow_url_prefix=(str(small_sample),), image_size=32, split="0.8,0.1,0.1")
    data = run(source, str(tmp_path / "data"), parameters, [])
    code = (
        "import resource, sys\n"
        "from captionflow.captioner.parameters import TrainParameters\n"
        "from captionflow.captioner.train import train\n"
        "train(sys.argv[1], sys.argv[2], TrainParameters(epochs=1, device='cpu', width=32, encoder_depth=0))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    command = [sys.executable, "-c", code, data, str(tmp_path / "model")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) / 1e6 < 5, "gigabytes"
