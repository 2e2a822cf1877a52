"""The metadata in Croissant's format, as its own reader takes them."""

import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlcroissant
import pytest
from PIL import Image

from captionflow.core.artifact import Artifact, open_artifact
from captionflow.core.manifest import FileInfo
from captionflow.core.records import SPLITS
from captionflow.preprocess.croissant import croissant
from captionflow.preprocess.page import Split
from captionflow.preprocess.parameters import PreprocessParameters
from captionflow.preprocess.statistics import Statistics
from tests.test_preprocess import samples

LEFT_TO_ITS_PUBLISHER = ("datePublished", "citeAs")


def validated(file: Path) -> mlcroissant.Dataset:
    """Open metadata without an error, and without a warning but for what only the publisher knows."""
    dataset = mlcroissant.Dataset(str(file))
    issues = dataset.metadata.ctx.issues
    assert not issues.errors
    assert len(issues.warnings) == len(LEFT_TO_ITS_PUBLISHER)
    assert all(any(name in warning for warning in issues.warnings) for name in LEFT_TO_ITS_PUBLISHER)
    return dataset


def records(dataset: mlcroissant.Dataset, name: str) -> Iterator[dict[str, Any]]:
    for record in dataset.records(name):
        yield {key.removeprefix(f"{name}/"): value for key, value in record.items()}


@pytest.fixture(scope="module")
def artifact(trainable: str) -> Artifact:
    return open_artifact(trainable)


def test_an_artifact_is_described_as_it_is(artifact: Artifact, caplog: pytest.LogCaptureFixture) -> None:
    dataset = validated(Path(artifact.uri, "croissant.json"))
    assert "@context" not in caplog.text
    metadata = dataset.metadata
    assert "60 images with 300 captions" in metadata.description
    assert {*metadata.license} == {sample.image_license for split in SPLITS for sample in samples(artifact, split)}
    described = {file.content_url: (file.content_size, file.sha256) for file in metadata.file_objects}
    shards = (file for file in artifact.manifest.files if file.path.endswith(".avro"))
    assert described == {file.path: (f"{file.bytes} B", file.sha256) for file in shards}
    told = {record["name"]: (record["images"], record["url"]) for record in records(dataset, "splits")}
    assert {name: number for name, (number, _) in told.items()} == artifact.manifest.counts["splits"]
    assert told["val"][1] == "cr:ValidationSplit"


def test_the_absolute_path_is_not_in_it(artifact: Artifact) -> None:
    assert Path(artifact.uri).parent.name not in artifact.read("croissant.json").decode()


def parts_of(counts: dict[str, int]) -> list[Split]:
    statistics = Statistics({"licenses": {"free": 1, "(others)": 2}})
    return [Split(name, Counter(images_out=number, captions_out=number), statistics) for name, number in counts.items()]


def test_the_records_of_parquet_are_read(artifact: Artifact, trainable_as: dict[str, str]) -> None:
    found = [*records(validated(Path(trainable_as["parquet"], "croissant.json")), "images")]
    by_id = {sample.image_id: (split, sample) for split in SPLITS for sample in samples(artifact, split)}
    assert sorted(record["image_id"] for record in found) == sorted(by_id)
    for record in found:
        split, sample = by_id[record["image_id"]]
        assert (record["split"].decode(), record["url"].decode()) == (split, sample.image_url)
        assert [caption.decode() for caption in record["captions"]] == [caption.raw for caption in sample.captions]
        assert [caption.decode() for caption in record["texts"]] == [caption.text for caption in sample.captions]
        assert record["license"].decode() == sample.image_license
        with Image.open(io.BytesIO(sample.image)) as picture:
            assert record["image"].tobytes() == picture.tobytes()


@pytest.mark.parametrize("suffix", [".avro", ".parquet", ".tar"])
def test_of_many_shards_it_describes_the_first_and_a_pattern_for_all(suffix: str, tmp_path: Path) -> None:
    files = [FileInfo(f"train/{i:05d}-of-20000{suffix}", i, f"{i:064x}") for i in range(20_000)]
    described = croissant(parts_of({"train": 7, "test": 2}), files, PreprocessParameters())
    (tmp_path / "croissant.json").write_text(json.dumps(described))
    assert (tmp_path / "croissant.json").stat().st_size < 500_000
    metadata = validated(tmp_path / "croissant.json").metadata
    assert [file.content_url for file in metadata.file_objects] == [file.path for file in files[:1000]]
    assert metadata.file_sets[0].includes == [f"train/*{suffix}", f"test/*{suffix}"]
    assert metadata.license == ["free", "others"]
    changed = [*files[:-1], FileInfo(files[-1].path, 1, "f" * 64)]
    assert croissant(parts_of({"train": 7}), changed, PreprocessParameters())["name"] != described["name"]
