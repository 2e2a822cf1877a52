"""The shards of a preprocessed artifact: files that hold Samples, in one of the formats below.

A new format is a module beside this one and a row here. None imports its library before it is used.
"""

import io
from collections.abc import Iterable, Iterator
from typing import IO, TYPE_CHECKING

from captionflow.core.avro_shards import AVRO
from captionflow.core.errors import InvalidInputError
from captionflow.core.manifest import FileInfo
from captionflow.core.parquet_shards import PARQUET
from captionflow.core.records import SPLITS, Sample
from captionflow.core.shard_format import ShardFormat, WriteParameters
from captionflow.core.webdataset_shards import WEBDATASET

if TYPE_CHECKING:
    from captionflow.core.artifact import Artifact

SHARD_FORMATS = {"avro": AVRO, "webdataset": WEBDATASET, "parquet": PARQUET}
"""Value of `output_format` → format."""


def write_shard(file: io.RawIOBase, name: str, samples: Iterable[Sample], parameters: WriteParameters) -> None:
    """Write a shard to a file that only goes forwards. Equal names, samples and parameters give equal bytes.

    Args:
        name: path of the shard within its artifact, without the ending.
    """
    SHARD_FORMATS[parameters.output_format].write(file, name, samples, parameters)


def read_shard(file: IO[bytes], path: str) -> Iterator[Sample]:
    """Yield the samples of an open shard, in the order of image_id, and read the file to its end.

    Args:
        path: the shard's path, whose ending says what its format is.

    Raises:
        InvalidInputError: the path has the ending of no format.
    """
    return format_of(path).read(file)


def format_of(path: str) -> ShardFormat:
    """Return the format of a shard, by the ending of its path.

    Raises:
        InvalidInputError: no format has the ending.
    """
    for found in SHARD_FORMATS.values():
        if path.endswith(found.suffix):
            return found
    endings = ", ".join(each.suffix for each in SHARD_FORMATS.values())
    raise InvalidInputError(f"{path}: is no shard of a known format; expected one of {endings}")


def shards_of(artifact: "Artifact") -> list[FileInfo]:
    """Return the shards of a preprocessed artifact, split by split, in order."""
    return [file for split in SPLITS for file in artifact.files(f"{split}/")]
