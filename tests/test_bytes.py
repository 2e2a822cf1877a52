"""The bytes of ingested and preprocessed data are pinned: whoever changes them does so on purpose, and in CHANGELOG.md.

Pictures come as PNG and are stored as pixels, so that no codec's version matters.
"""

import json
from pathlib import Path

import pytest
from PIL import Image

from beam_jobs.preprocess import run
from captionflow.core.artifact import open_artifact
from captionflow.preprocess.parameters import PreprocessParameters
from captionflow.sources.ingest import ingest
from captionflow.sources.parameters import IngestParameters

# The first 16 digits of each file's sha256.
INGESTED = {"captions.jsonl": "74cbda7c36ce70d3", "rejects.jsonl": "45c46698246f0f9f"}
PREPROCESSED = {
    "rejects/test/00000-of-00001.jsonl": "e3b0c44298fc1c14",
    "rejects/train/00000-of-00001.jsonl": "633bb4c8cf58235e",
    "rejects/val/00000-of-00001.jsonl": "e7bf5e99cf478d5a",
    "test/00000-of-00001.avro": "c6fd308f8002ad54",
    "train/00000-of-00001.avro": "6a8e26594e8b55e3",
    "val/00000-of-00001.avro": "7a4de9324f426ebe",
}


def caption(number: int, **changes: object) -> dict[str, object]:
    image = number // 2
    return {
        "image_id": image, "id": number, "caption": f"A Dog\u2019s caf\u00e9, no. {number}!",
        "image_url": f"images/{image}.png", "image_name": f"{image}.png", "image_license": "Attribution License",
        **changes,
    }  # fmt: skip


def digests(uri: str) -> dict[str, str]:
    return {file.path: file.sha256[:16] for file in open_artifact(uri).manifest.files}


def test_the_same_input_gives_the_same_bytes_as_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # The records hold the URLs, which are paths below it.
    Path("images").mkdir()
    for image in range(12):
        pixels = bytes((image * 29 + i * 7) % 256 for i in range(3 * 48 * 40))
        Image.frombytes("RGB", (48, 40), pixels).save(f"images/{image}.png")
    rows = [caption(number) for number in range(24)]
    rows += [
        caption(24, image_url="images/none.png"),
        caption(26, image_license="unknown"),
        caption(28, caption="!!!"),
        caption(30, image_id="x"),
    ]
    Path("captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    ingested = ingest("ingested", IngestParameters(sources=("captions.jsonl",), max_reject_ratio=0.5))
    parameters = PreprocessParameters(
        allow_url_prefix=("images",), image_size=32, image_format="tensor", split="0.5,0.25,0.25"
    )
    preprocessed = run(ingested, "preprocessed", parameters, [])
    assert digests(ingested) == INGESTED
    assert digests(preprocessed) == PREPROCESSED
