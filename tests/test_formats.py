"""Formats of shards: what is written is read, in pieces, and what is hostile is one line."""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captionflow.captioner.dataset import Samples
from captionflow.core.artifact import Artifact, open_artifact
from captionflow.core.draft import HashingWriter, begin
from captionflow.core.errors import InvalidInputError
from captionflow.core.records import Caption, Sample
from captionflow.core.shards import SHARD_FORMATS, format_of, read_shard, write_shard
from captionflow.core.steps import PREPROCESSED
from captionflow.preprocess.export import export
from captionflow.preprocess.parameters import FormatParameters, PreprocessParameters
from tests.tables import parquet

NAME = "train/00000-of-00001"
SAMPLE = Sample(
    139, (Caption(1, "a dog", "A dog!"), Caption(2, "", "")), b"\xff\xd8\xff", 4, 3, "http://x/139.jpg", "unknown"
)


def values(avro: Any) -> st.SearchStrategy[Any]:
    """Any value of a type in an Avro schema."""
    if isinstance(avro, str):
        integers = {bits: st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (32, 64)}
        return {
            "long": integers[64], "int": integers[32], "string": st.text(), "bytes": st.binary(),
            "double": st.floats(allow_nan=False),
        }[avro]  # fmt: skip
    if avro["type"] == "array":
        return st.lists(values(avro["items"]), max_size=3)
    if avro["type"] == "map":
        return st.dictionaries(st.text(), values(avro["values"]), max_size=3)
    return st.fixed_dictionaries({field["name"]: values(field["type"]) for field in avro["fields"]})


MANY = st.lists(values(Sample.AVRO_SCHEMA).map(Sample.from_avro), max_size=4, unique_by=lambda sample: sample.image_id)


class Forwards(io.BytesIO):
    """A file that is read forwards, as one that is checked meanwhile."""

    def seekable(self) -> bool:
        return False

    def seek(self, *_: object) -> int:
        raise io.UnsupportedOperation("seek")


def written(many: list[Sample], output_format: str, image_format: str = "jpeg", name: str = NAME) -> bytes:
    file = io.BytesIO()
    parameters = PreprocessParameters(output_format=output_format, image_format=image_format)
    write_shard(HashingWriter(name, file), name, iter(many), parameters)
    return file.getvalue()


def read(data: bytes, output_format: str, file: type[io.BytesIO] = Forwards) -> list[Sample]:
    opened = file(data)
    found = list(read_shard(opened, f"{NAME}{SHARD_FORMATS[output_format].suffix}"))
    assert file is io.BytesIO or not opened.read(), "the file is compared with its manifest at its end"
    return found


@pytest.mark.parametrize("output_format", SHARD_FORMATS)
@given(many=MANY)
@settings(max_examples=40, deadline=None)
def test_what_is_written_is_read(output_format: str, many: list[Sample]) -> None:
    data = written(many, output_format)
    assert read(data, output_format) == read(data, output_format, io.BytesIO) == many
    assert written(many, output_format) == data


@pytest.mark.parametrize("output_format", SHARD_FORMATS)
@given(many=MANY)
@settings(max_examples=20, deadline=None)
def test_a_part_is_read_alone(output_format: str, many: list[Sample]) -> None:
    shard_format = SHARD_FORMATS[output_format]
    data = written([replace(sample, image=sample.image + bytes(700_000)) for sample in many], output_format)
    header = shard_format.header(io.BytesIO(data)) if many else b""
    for part in shard_format.parts(io.BytesIO(data)):
        piece = data[part.offset : part.offset + part.size]
        assert list(shard_format.read_part(header, piece, part.offset)) == list(part.samples)


@pytest.mark.parametrize("output_format", SHARD_FORMATS)
def test_a_shard_is_written_and_kept_in_pieces(output_format: str) -> None:
    file, most_waiting, given_bytes = io.BytesIO(), 0, 0

    def many() -> Iterator[Sample]:
        nonlocal most_waiting, given_bytes
        for i in range(100):
            picture = hashlib.shake_128(bytes([i])).digest(100_000)
            most_waiting = max(most_waiting, given_bytes - file.tell())
            given_bytes += len(picture)
            yield replace(SAMPLE, image_id=i, image=picture)

    write_shard(HashingWriter(NAME, file), NAME, many(), PreprocessParameters(output_format=output_format))
    assert most_waiting < 1_500_000 < given_bytes
    parts = list(SHARD_FORMATS[output_format].parts(io.BytesIO(file.getvalue())))
    assert max(part.size for part in parts) < 1_500_000
    assert [sample.image_id for part in parts for sample in part.samples] == list(range(100))


def test_a_tar_tells_no_time_and_no_owner() -> None:
    data = written([SAMPLE], "webdataset")
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        owners = {
            (file.type, file.mode, file.mtime, file.uid, file.gid, file.uname, file.gname)
            for file in archive.getmembers()
        }
    assert owners == {(tarfile.REGTYPE, 0o644, 0, 0, 0, "", "")}
    assert len(data) % 512 == 0
    assert data.endswith(bytes(1024))


def test_a_tar_has_the_files_of_img2dataset() -> None:
    with tarfile.open(fileobj=io.BytesIO(written([SAMPLE, replace(SAMPLE, image_id=-1)], "webdataset"))) as tar:
        names = tar.getnames()
        content = {name: tar.extractfile(name).read() for name in names}
    assert names == [f"{key}.{ending}" for key in ("000000000139", f"{2**64 - 1}") for ending in ("jpg", "json", "txt")]
    assert (content["000000000139.jpg"], content["000000000139.txt"]) == (SAMPLE.image, b"a dog")
    row = json.loads(content["000000000139.json"])
    assert row["captions"] == [{"id": 1, "text": "a dog", "raw": "A dog!"}, {"id": 2, "text": "", "raw": ""}]
    assert {"key": "000000000139", "caption": "a dog", "url": "http://x/139.jpg", "width": 3}.items() <= row.items()
    assert {*row} >= {"url" if field.name == "image_url" else field.name for field in fields(Sample)} - {"image"}


@pytest.mark.parametrize(("image_format", "ending"), [("jpeg", "jpg"), ("png", "png"), ("webp", "webp")])
def test_a_tar_names_pictures_by_their_form(image_format: str, ending: str) -> None:
    class Parameters:
        output_format = "webdataset"

    Parameters.image_format = image_format
    file = io.BytesIO()
    write_shard(HashingWriter(NAME, file), NAME, [SAMPLE], Parameters())
    with tarfile.open(fileobj=io.BytesIO(file.getvalue())) as written_tar:
        assert f"000000000139.{ending}" in written_tar.getnames()
    assert read(file.getvalue(), "webdataset") == [SAMPLE]


def test_a_field_that_is_younger_than_a_shard_has_its_default() -> None:
    caption = {"id": 1, "text": "a dog"}
    row = {
        "image_id": 7, "captions": [caption], "height": 4, "width": 3, "url": "http://x/7", "image_license": "unknown"
    }  # fmt: skip
    old = Sample(7, (Caption(1, "a dog"),), b"\xff\xd8\xff", 4, 3, "http://x/7", "unknown")
    assert read(tar(**{"7.jpg": old.image, "7.json": json.dumps(row).encode(), "7.txt": b""}), "webdataset") == [old]
    image = {"bytes": old.image, "path": None}
    assert read(parquet({name: [value] for name, value in {**row, "image": image}.items()}), "parquet") == [old]


def tar(**files: bytes) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, file in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(file)
            archive.addfile(member, io.BytesIO(file))
    return data.getvalue()


ROW = {
    "image_id": 7, "captions": [{"id": 1, "text": "a dog", "raw": "A dog."}], "height": 4, "width": 3,
    "url": "http://x/7.jpg", "image_license": "unknown",
}  # fmt: skip


def row(**changes: object) -> bytes:
    return json.dumps({**ROW, **changes}).encode()


def negative(data: bytes) -> bytes:
    """A tar whose first file has the size -1."""
    header = bytearray(data[:512])
    header[124:136] = b"\xff" * 12
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * 32 + sum(header[156:]))
    return bytes(header) + data[512:]


TABLE = {name: [value] for name, value in {**ROW, "image": {"bytes": b"\xff\xd8\xff", "path": None}}.items()}
PICTURE = {"7.jpg": b"\xff\xd8\xff", "7.txt": b""}
HOSTILE = {
    "text in place of an id": (".tar", tar(**PICTURE, **{"7.json": row(image_id="7")})),
    "a caption that is a list": (".tar", tar(**PICTURE, **{"7.json": row(captions=[{"id": 1, "text": []}])})),
    "a caption with one field more": (".tar", tar(**PICTURE, **{"7.json": row(captions=[{"id": 1, "texts": "a"}])})),
    "too large a number": (".tar", tar(**PICTURE, **{"7.json": row(height=2**31)})),
    "JSON that is no object": (".tar", tar(**PICTURE, **{"7.json": b"[]"})),
    "deep JSON": (".tar", tar(**PICTURE, **{"7.json": b"[" * 100_000})),
    "no JSON": (".tar", tar(**PICTURE)),
    "no picture": (".tar", tar(**{"7.json": row(), "7.txt": b""})),
    "two pictures": (".tar", tar(**PICTURE, **{"7.png": b"", "7.json": row()})),
    "a negative size": (".tar", negative(tar(**PICTURE, **{"7.json": row()}))),
    "no tar": (".tar", b"PAR1" * 1000),
    "a null": (".parquet", parquet({**TABLE, "url": pa.array([None], pa.string())})),
    "a null picture": (".parquet", parquet({**TABLE, "image": pa.array([None], pa.struct({"bytes": pa.binary()}))})),
    "text in place of a number": (".parquet", parquet({**TABLE, "height": ["4"]})),
    "a column too few": (".parquet", parquet({name: TABLE[name] for name in TABLE if name != "width"})),
    "no Parquet": (".parquet", b"PAR1" * 1000),
}  # fmt: skip


@pytest.mark.security
@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_shard_is_one_line_although_its_manifest_agrees(what: str, tmp_path: Path) -> None:
    suffix, data = HOSTILE[what]
    artifact = forged(f"{NAME}{suffix}", data, tmp_path)
    with pytest.raises(InvalidInputError, match=r"differs from its manifest; make the artifact again$"):
        list(Samples(artifact, "train", check=True))


def forged(path: str, data: bytes, folder: Path) -> Artifact:
    draft = begin(str(folder / "forged"), PREPROCESSED, PreprocessParameters().to_json(), [])
    draft.commit([draft.put(path, data)], counts={"splits": {"train": 1}, "captions": {"in": 1, "out": 1}})
    return open_artifact(draft.uri)


def test_a_shard_of_no_known_format_is_one_line(tmp_path: Path) -> None:
    artifact = forged(f"{NAME}.tfrecord", b"", tmp_path)
    with pytest.raises(InvalidInputError, match=r"^train/00000-of-00001\.tfrecord: is no shard of a known format"):
        list(Samples(artifact, "train", check=True))
    with pytest.raises(InvalidInputError, match=r"expected one of \.avro, \.tar, \.parquet$"):
        format_of("x")


def test_an_artifact_with_fewer_images_than_it_says_is_not_exported(tmp_path: Path) -> None:
    artifact = forged(f"{NAME}.tar", written([], "webdataset"), tmp_path)
    with pytest.raises(InvalidInputError, match="its shards hold 0 for train, its manifest says 1"):
        export(artifact.uri, str(tmp_path / "out"), FormatParameters())
