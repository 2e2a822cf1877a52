"""The files of a preprocessed artifact, and how a shard is written and read."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import IO

import fastavro

from captionflow.core.records import Sample

SHARD_SUFFIX = ".avro"


def read_shard(file: IO[bytes]) -> Iterator[Sample]:
    """Yield the samples of an open shard, in the order of image_id."""
    for record in fastavro.reader(file, Sample.AVRO_SCHEMA):
        yield Sample.from_avro(record)


def write_shard(file: IO[bytes], name: str, samples: Iterable[Sample], codec: str) -> None:
    """Write a shard forwards; its bytes depend on name, samples and codec alone.

    Args:
        name: path of the shard within its artifact, without the ending.
        codec: of the Avro blocks, null or deflate.
    """
    fastavro.writer(
        file,
        Sample.AVRO_SCHEMA,
        (sample.to_avro() for sample in samples),
        codec=codec,
        sync_marker=hashlib.blake2b(name.encode(), digest_size=16).digest(),
    )
