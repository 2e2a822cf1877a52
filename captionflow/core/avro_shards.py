"""Shards in Avro: a record for each Sample, by `Sample.AVRO_SCHEMA`."""

import hashlib
import io
from collections.abc import Iterable, Iterator
from typing import IO

from captionflow.core.records import Sample
from captionflow.core.shard_format import Part, ShardFormat, WriteParameters


def _write(file: io.RawIOBase, name: str, samples: Iterable[Sample], parameters: WriteParameters) -> None:
    import fastavro

    fastavro.writer(
        file,  # type: ignore[arg-type]  # its stubs ask for a file to seek in; it only writes forwards
        Sample.AVRO_SCHEMA,
        (sample.to_avro() for sample in samples),
        codec=parameters.avro_codec,
        sync_marker=hashlib.blake2b(name.encode(), digest_size=16).digest(),  # random by default
    )


def _read(file: IO[bytes]) -> Iterator[Sample]:
    import fastavro

    yield from map(Sample.from_avro, fastavro.reader(file, Sample.AVRO_SCHEMA))


def _parts(file: IO[bytes]) -> Iterator[Part]:
    """Yield the blocks."""
    import fastavro

    for block in fastavro.block_reader(file, Sample.AVRO_SCHEMA):
        yield Part(block.offset, block.size, map(Sample.from_avro, block))


def _header(file: IO[bytes]) -> bytes:
    """Return what stands before the first block; together with any block it is an Avro file of its own."""
    first = next(_parts(file))
    file.seek(0)
    return file.read(first.offset)


def _read_part(header: bytes, data: bytes, offset: int) -> Iterator[Sample]:
    return _read(io.BytesIO(header + data))


AVRO = ShardFormat(".avro", _write, _read, _parts, _header, _read_part)
