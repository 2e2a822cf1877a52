"""Shards in Parquet: a row for each Sample, by the columns of `captionflow.core.sample_rows`.

`image` is a struct of `bytes` and `path`, as Hugging Face's `datasets` has it; the file's metadata tell it that these
are pictures. What is read forwards is copied to a temporary file first, since Parquet is read from its end.
"""

import io
import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from tempfile import TemporaryFile, gettempdir
from typing import IO, TYPE_CHECKING, Any

from captionflow.core.records import Sample
from captionflow.core.sample_rows import CAPTION, IMAGE, KEY, column_of, ending_of, from_row, to_row
from captionflow.core.shard_format import Part, ShardFormat, WriteParameters

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

# `datasets` knows no maps.
_MAPS = [column_of(field["name"]) for field in Sample.AVRO_SCHEMA["fields"] if "values" in field["type"]]
# Of pictures and captions in a row group, which is the least that can be read. It may have one picture more.
_GROUP_BYTES = 1 << 20
_CHUNK = 1 << 20
# The length of the footer, and the signature.
_END_BYTES = 8


def _write(file: io.RawIOBase, name: str, samples: Iterable[Sample], parameters: WriteParameters) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    ending = ending_of(parameters.image_format)
    schema = _schema(bool(ending))
    # Dictionaries and statistics would hold whole pictures and captions a second time.
    options = {"compression": "zstd", "use_dictionary": False, "write_statistics": [column_of("image_id")]}
    with pq.ParquetWriter(file, schema, **options) as writer:
        for group in _groups(samples):
            writer.write_table(pa.Table.from_pylist([_row(sample, ending) for sample in group], schema))


def _groups(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    group: list[Sample] = []
    size = 0
    for sample in samples:
        group.append(sample)
        size += len(sample.image) + sum(len(caption.text) + len(caption.raw) for caption in sample.captions)
        if size >= _GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _row(sample: Sample, ending: str) -> dict[str, Any]:
    row = to_row(sample)
    row |= {name: [{"key": key, "value": value} for key, value in row[name].items()] for name in _MAPS}
    return {**row, IMAGE: {"bytes": sample.image, "path": f"{row[KEY]}.{ending}" if ending else None}}


def _schema(has_pictures: bool) -> "pa.Schema":
    import pyarrow as pa

    fields = {column_of(field["name"]): _arrow_type(field["type"]) for field in Sample.AVRO_SCHEMA["fields"]}
    # `datasets` decodes a struct of this type as a picture if its metadata call it one.
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    features = {"info": {"features": {IMAGE: {"_type": "Image"}}}}
    return pa.schema(
        {KEY: pa.string(), CAPTION: pa.string(), **fields, IMAGE: image},
        metadata={"huggingface": json.dumps(features)} if has_pictures else None,
    )


def _arrow_type(avro: Any) -> "pa.DataType":
    """Return the Arrow type of a type in an Avro schema."""
    import pyarrow as pa

    if isinstance(avro, str):
        names = {"long": "int64", "int": "int32", "bytes": "binary"}
        return pa.type_for_alias(names.get(avro, avro))
    if avro["type"] == "array":
        return pa.list_(_arrow_type(avro["items"]))
    if avro["type"] == "map":
        return pa.list_(pa.struct({"key": pa.string(), "value": _arrow_type(avro["values"])}))
    if avro["type"] == "record":
        return pa.struct({field["name"]: _arrow_type(field["type"]) for field in avro["fields"]})
    return _arrow_type(avro["type"])


def _read(file: IO[bytes]) -> Iterator[Sample]:
    for part in _parts(file):
        yield from part.samples


def _parts(file: IO[bytes]) -> Iterator[Part]:
    """Yield the row groups."""
    import pyarrow.parquet as pq

    with _seekable(file) as source:
        parquet = pq.ParquetFile(source)
        for number in range(parquet.num_row_groups):
            yield Part(*_place(parquet.metadata, number), _samples(parquet, number))


@contextmanager
def _seekable(file: IO[bytes]) -> Iterator[IO[bytes]]:
    """Yield the file or, if it only goes forwards, a temporary copy of it."""
    if file.seekable():
        yield file
        return
    from captionflow.core.uris import full_disk_errors  # parameters are declared with the table of formats

    with full_disk_errors(gettempdir()), TemporaryFile() as copy:
        shutil.copyfileobj(file, copy, _CHUNK)
        yield copy


def _place(metadata: "pq.FileMetaData", number: int) -> tuple[int, int]:
    """Return offset and size of a row group. Its columns lie one after another, without dictionaries."""
    group = metadata.row_group(number)
    columns = [group.column(column) for column in range(group.num_columns)]
    return columns[0].data_page_offset, sum(column.total_compressed_size for column in columns)


def _samples(parquet: "pq.ParquetFile", number: int) -> list[Sample]:
    rows = parquet.read_row_group(number, use_threads=False).to_pylist()
    return [from_row({**row, **_maps(row)}, row[IMAGE]["bytes"]) for row in rows]


def _maps(row: dict[str, Any]) -> dict[str, Any]:
    return {name: {item["key"]: item["value"] for item in row[name]} for name in _MAPS if name in row}


def _header(file: IO[bytes]) -> bytes:
    """Return the footer, with its length and the signature."""
    file.seek(-_END_BYTES, io.SEEK_END)
    length = int.from_bytes(file.read(4), "little")
    file.seek(-length - _END_BYTES, io.SEEK_END)
    return file.read()


def _read_part(header: bytes, data: bytes, offset: int) -> list[Sample]:
    import pyarrow.parquet as pq

    metadata = pq.read_metadata(io.BytesIO(header))
    starts = [metadata.row_group(number).column(0).data_page_offset for number in range(metadata.num_row_groups)]
    return _samples(pq.ParquetFile(_Window(data, offset), metadata=metadata), starts.index(offset))


class _Window(io.RawIOBase):
    """A file of which only the end is here, from an offset on."""

    def __init__(self, data: bytes, offset: int) -> None:
        super().__init__()
        self._data, self._offset, self._position = data, offset, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        starts = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._offset + len(self._data)}
        self._position = starts[whence] + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        start = self._position - self._offset
        if start < 0:
            raise ValueError("only a part of the file is here")
        found = self._data[start : start + len(buffer)]
        buffer[: len(found)] = found
        self._position += len(found)
        return len(found)


PARQUET = ShardFormat(".parquet", _write, _read, _parts, _header, _read_part)
