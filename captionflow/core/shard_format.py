"""What a format of shards is: the ending of its files, and how they are written and read."""

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Protocol

from captionflow.core.records import Sample


class WriteParameters(Protocol):
    """The parameters of a preprocess job on which a shard's form depends."""

    @property
    def output_format(self) -> str:
        """The format, a key of `captionflow.core.shards.SHARD_FORMATS`."""

    @property
    def avro_codec(self) -> str:
        """Avro's compression of a block."""

    @property
    def image_format(self) -> str:
        """The form of the pictures in it."""


@dataclass(frozen=True)
class Part:
    """A piece of a shard that can be read alone: its place in the file, in bytes, and its samples in their order."""

    offset: int
    size: int
    samples: Iterable[Sample]


@dataclass(frozen=True)
class ShardFormat:
    """A format of shards. None of its functions needs more memory than a part has.

    Args:
        suffix: the ending of its files, by which a reader knows it.
        write: writes samples to a file that only goes forwards. The bytes depend on the shard's name within its
            artifact, without the ending, on the samples and on the parameters alone.
        read: yields the samples of a file, which it reads forwards and to its end.
        parts: as `read`, but yields them by parts.
        header: takes a file that can be sought in, and returns what `read_part` needs to know of it.
        read_part: yields the samples of a part. Its arguments are the file's header, and the part's bytes and offset.
    """

    suffix: str
    write: Callable[[io.RawIOBase, str, Iterable[Sample], WriteParameters], None]
    read: Callable[[IO[bytes]], Iterator[Sample]]
    parts: Callable[[IO[bytes]], Iterator[Part]]
    header: Callable[[IO[bytes]], bytes]
    read_part: Callable[[bytes, bytes, int], Iterable[Sample]]
