"""The files of a preprocessed artifact, and how a shard is read."""

from collections.abc import Iterator
from typing import IO

import fastavro

from captionflow.core.records import Sample

SHARD_SUFFIX = ".avro"


def read_shard(file: IO[bytes]) -> Iterator[Sample]:
    """Yield the samples of an open shard, in the order of image_id."""
    for record in fastavro.reader(file, Sample.AVRO_SCHEMA):
        yield Sample.from_avro(record)
