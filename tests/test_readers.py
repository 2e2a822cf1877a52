"""What the readers of other programs find in our shards."""

import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import webdataset
from PIL import Image

from captionflow.core.artifact import open_artifact
from captionflow.core.shards import SHARD_FORMATS
from tests.conftest import OTHER_FORMATS
from tests.test_preprocess import samples

SHARD = "train/00000-of-00001"


def expected(trainable: str) -> list[tuple[str, str, str]]:
    """Of each picture of train: its digest, its URL and its first caption."""
    return [
        (digest(decoded(sample.image)), sample.image_url, sample.captions[0].text)
        for sample in samples(open_artifact(trainable), "train")
    ]


def decoded(image: bytes) -> Image.Image:
    return Image.open(io.BytesIO(image))


def digest(picture: Image.Image) -> str:
    return hashlib.sha256(picture.convert("RGB").tobytes()).hexdigest()


def test_webdataset_reads_it(trainable_as: dict[str, str], trainable: str) -> None:
    pipeline = webdataset.WebDataset(
        f"{trainable_as['webdataset']}/train/{{00000..00000}}-of-00001.tar", shardshuffle=False
    ).decode("pil")
    assert [(digest(each["jpg"]), each["json"]["url"], each["txt"]) for each in pipeline] == expected(trainable)


def test_open_clip_reads_it_by_its_conventions(trainable_as: dict[str, str], trainable: str) -> None:
    """Its pipeline, of open_clip_train/data.py: samples by key, with a text and a picture of some ending."""
    pipeline = webdataset.DataPipeline(
        webdataset.SimpleShardList([f"{trainable_as['webdataset']}/{SHARD}.tar"]),
        webdataset.tarfile_to_samples(),
        webdataset.select(lambda each: "txt" in each and {"png", "jpg", "jpeg", "webp"} & each.keys()),
        webdataset.decode("pilrgb"),
        webdataset.rename(image="jpg;png;jpeg;webp", text="txt"),
        webdataset.to_tuple("image", "text"),
    )
    assert [(digest(image), text) for image, text in pipeline] == [(sha, text) for sha, _, text in expected(trainable)]


def test_pyarrow_reads_it(trainable_as: dict[str, str], trainable: str) -> None:
    rows = pq.read_table(f"{trainable_as['parquet']}/train").to_pylist()
    found = [(digest(decoded(row["image"]["bytes"])), row["url"], row["caption"]) for row in rows]
    assert found == expected(trainable)
    assert rows[0]["image"]["path"] == f"{rows[0]['key']}.jpg"
    assert rows[0]["captions"][0].keys() == {"id", "text", "raw"}


DATASETS = """
import hashlib, json, sys
from datasets import Image, load_dataset

COLUMNS = {
    "webdataset": ("jpg", "txt", lambda row: row["json"]),
    "parquet": ("image", "caption", lambda row: row),
}
found = {}
for name, (uri, suffix) in json.loads(sys.argv[1]).items():
    files = {split: f"{uri}/{split}/*{suffix}" for split in ("train", "val", "test")}
    loaded = load_dataset(name, data_files=files)
    picture, text, others = COLUMNS[name]
    assert isinstance(loaded["train"].features[picture], Image), loaded["train"].features
    rows = [
        (hashlib.sha256(row[picture].convert("RGB").tobytes()).hexdigest(), others(row)["url"], row[text],
         others(row)["captions"])
        for row in loaded["train"]
    ]
    found[name] = {"rows": rows, "counts": {split: len(loaded[split]) for split in loaded}}
print(json.dumps(found))
"""


def test_datasets_reads_it(trainable_as: dict[str, str], trainable: str, tmp_path: Path) -> None:
    artifacts = {name: (uri, SHARD_FORMATS[name].suffix) for name, uri in trainable_as.items()}
    done = subprocess.run(
        [sys.executable, "-c", DATASETS, json.dumps(artifacts)],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    artifact = open_artifact(trainable)
    captions = [sample.to_avro()["captions"] for sample in samples(artifact, "train")]
    for name, found in json.loads(done.stdout).items():
        assert name in OTHER_FORMATS
        assert [tuple(row[:3]) for row in found["rows"]] == expected(trainable)
        assert [row[3] for row in found["rows"]] == captions
        assert found["counts"] == artifact.manifest.counts["splits"]
