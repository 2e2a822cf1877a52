"""The bytes of ingested and preprocessed data are pinned: whoever changes them does so on purpose, and in CHANGELOG.md.

Pictures come as PNG and are stored as pixels, so that no codec's version matters.
"""

import hashlib
import json
from pathlib import Path

import pytest
from PIL import Image

from beam_jobs.preprocess import run
from captionflow.core.artifact import open_artifact
from captionflow.core.steps import DATASET_PAGE
from captionflow.preprocess.croissant import CROISSANT
from captionflow.preprocess.parameters import PreprocessParameters
from captionflow.sources.ingest import ingest
from captionflow.sources.parameters import IngestParameters

LENGTH_OF_PATH = 200  # Longer than pytest's folders; Avro stores the length of each text.

# The first 16 digits of each file's sha256.
INGESTED = {"captions.jsonl": "ad319f5c45d713a5", "rejects.jsonl": "62f162f54a15e0a2"}
PREPROCESSED = {
    "rejects/test/00000-of-00001.jsonl": "e3b0c44298fc1c14",
    "rejects/train/00000-of-00001.jsonl": "a4b1755c4a8ebf2b",
    "rejects/val/00000-of-00001.jsonl": "c2a0f03ac13e0dd8",
    "test/00000-of-00001.avro": "5db58ea4ea56be6d",
    "train/00000-of-00001.avro": "0861958264fff182",
    "val/00000-of-00001.avro": "0f370423cb9dbbc8",
}


def caption(number: int, **changes: object) -> dict[str, object]:
    image = number // 2
    return {
        "image_id": image, "id": number, "caption": f"A Dog\u2019s caf\u00e9, no. {number}!",
        "image_url": f"images/{image}.png", "image_name": f"{image}.png", "image_license": "Attribution License",
        **changes,
    }  # fmt: skip


def digests(uri: str, folder: Path) -> dict[str, str]:
    """Return path → digest of an artifact's files, in which the records' URLs lie in another folder of equal length."""
    artifact, name = open_artifact(uri), str(folder).encode()
    # JPEGs are in the one, and in the other digests of files with paths; that runs agree on both, other tests tell.
    files = [file for file in artifact.manifest.files if file.path not in (DATASET_PAGE, CROISSANT)]
    contents = {file.path: (folder / uri / file.path).read_bytes() for file in files}
    return {
        path: hashlib.sha256(content.replace(name, b"/" * len(name))).hexdigest()[:16]
        for path, content in contents.items()
    }


def test_the_same_input_gives_the_same_bytes_as_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / ("f" * (LENGTH_OF_PATH - len(f"{tmp_path}/")))
    (folder / "images").mkdir(parents=True)
    monkeypatch.chdir(folder)
    for image in range(12):
        pixels = bytes((image * 29 + i * 7) % 256 for i in range(3 * 48 * 40))
        Image.frombytes("RGB", (48, 40), pixels).save(f"images/{image}.png")
    rows = [caption(number) for number in range(24)]
    rows += [
        caption(24, image_url="images/none.png"),
        caption(26, image_license="unknown"),
        caption(28, caption="!!!"),
        caption(30, image_id=1.5),
    ]
    Path("captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    ingested = ingest("ingested", IngestParameters(sources=("captions.jsonl",), max_reject_ratio=0.5))
    parameters = PreprocessParameters(
        allow_url_prefix=("images",), image_size=32, image_format="tensor", split="0.5,0.25,0.25"
    )
    preprocessed = run(ingested, "preprocessed", parameters, [])
    assert digests(ingested, folder) == INGESTED
    assert digests(preprocessed, folder) == PREPROCESSED
