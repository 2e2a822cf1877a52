"""Take pictures from an earlier preprocessed artifact instead of fetching them again.

An index of the earlier artifact goes through the job's shuffle together with the captions. It holds the place of each
picture, never the picture itself.
"""

import hashlib
import json
import logging
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import IO, cast

from captionflow.core.artifact import Artifact, open_artifact
from captionflow.core.errors import InvalidInputError
from captionflow.core.manifest import FileInfo
from captionflow.core.records import REJECTS, Reject, Sample
from captionflow.core.shards import format_of, shards_of
from captionflow.core.steps import PREPROCESSED
from captionflow.core.terminal import one_line
from captionflow.core.uris import file_system
from captionflow.images.decode import StoredImage
from captionflow.images.filters import PICTURE_FILTERS, REASONS
from captionflow.preprocess.parameters import PreprocessParameters

_FILTER_PARAMETERS = tuple(each.parameter for each in PICTURE_FILTERS)
FORM_PARAMETERS = ("image_size", "resize", "downscaling", "image_format", "jpeg_quality")
# A reject is reused only if these are as they were.
_REJECT_PARAMETERS = (
    "allow_url_prefix",
    "allow_host",
    "x_robots_tag",
    "robots_txt",
    "user_agent",
    "max_image_megabytes",
    "max_image_megapixels",
    "decode_seconds",
    "decode_megabytes",
    *_FILTER_PARAMETERS,
)

# Parts of shards that are kept in memory, each of a megabyte or one picture at most, and those that are read at a time.
_PARTS_AT_HAND, _PARTS_AT_ONCE = 32, 64

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Earlier:
    """An image in an earlier run: the part of a shard that holds it, or the reason of its Reject."""

    image_id: int
    image_url: str
    path: str = ""
    offset: int = 0
    size: int = 0
    reason: str = ""
    detail: str = ""

    @classmethod
    def from_json(cls, line: bytes) -> "Earlier":
        """Read one line that `to_json_line` wrote."""
        return cls(**json.loads(line))


@dataclass(frozen=True)
class EarlierArtifact:
    """A preprocessed artifact, and those of its files that can be reused."""

    artifact: Artifact
    files: list[FileInfo]


def open_earlier(uri: str, parameters: PreprocessParameters) -> EarlierArtifact:
    """Open the artifact whose pictures are to be reused.

    Raises:
        InvalidInputError: it is no preprocessed artifact, its pictures are of another form, or they did not pass a
            filter that is on now: a stored picture does not tell what that one measures of the original.
    """
    artifact, wanted = open_artifact(uri, PREPROCESSED), parameters.to_json()
    # An older version had no filters.
    earlier = {**dict.fromkeys(_FILTER_PARAMETERS, 0), **artifact.manifest.parameters}
    for name in (*FORM_PARAMETERS, *(name for name in _FILTER_PARAMETERS if wanted[name])):
        if earlier.get(name) != wanted[name]:
            raise InvalidInputError(
                f"--reuse: {uri} was made with {name} {earlier.get(name)}, not {wanted[name]}; "
                "give the same, or no --reuse"
            )
    files = shards_of(artifact)
    if all(earlier.get(name) == wanted[name] for name in _REJECT_PARAMETERS):
        files += artifact.files(f"{REJECTS}/")
    return EarlierArtifact(artifact, files)


def index(file: FileInfo, uri: str) -> list[Earlier]:
    """Return the outcome of each image in one file, a shard or rejects, of the artifact at `uri`.

    A file that differs from its manifest yields none, so that its images are fetched.
    """
    fs, root = file_system(uri)
    # On a file that was changed, its parsers raise anything.
    with suppress(Exception), fs.open(f"{root}/{file.path}", "rb") as source:
        reader = _HashingReader(source)
        found = list(_earlier(reader, file.path))
        if reader.sha256 == file.sha256:
            return found
    _LOG.warning("%s/%s differs from its manifest; its images are fetched again", uri, file.path)
    return []


def _earlier(source: "_HashingReader", path: str) -> Iterator[Earlier]:
    if not path.startswith(f"{REJECTS}/"):
        for part in format_of(path).parts(cast(IO[bytes], source)):
            for sample in part.samples:
                yield Earlier(sample.image_id, sample.image_url, path, part.offset, part.size)
        return
    for reject in map(Reject.from_json, source.read().splitlines()):
        is_of_image = reject.stage == "images" or reject.reason in REASONS
        if is_of_image and not reject.retryable and reject.image_id is not None:
            yield Earlier(reject.image_id, reject.image_url or "", reason=reject.reason, detail=reject.detail)


class _HashingReader:
    """A binary file being read, forwards only."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._digest = file, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._digest.update(data)
        return data

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return False

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


class EarlierPictures:
    """Reads single pictures out of an artifact's shards; safe to share between threads."""

    def __init__(self, uri: str) -> None:
        self._fs, self._root = file_system(uri)
        self._header = lru_cache(maxsize=64)(self._read_header)
        # A part may hold many pictures, which are asked for one after the other, by threads that must not all read it.
        self._part = lru_cache(maxsize=_PARTS_AT_HAND)(self._read_part)
        self._locks = [threading.Lock() for _ in range(_PARTS_AT_ONCE)]

    def read(self, earlier: Earlier) -> StoredImage | None:
        """Return the picture, or None if it cannot be read."""
        place = earlier.path, earlier.offset, earlier.size
        try:
            with self._locks[hash(place) % len(self._locks)]:
                samples = self._part(*place)
            for sample in samples:
                if sample.image_id == earlier.image_id:
                    return StoredImage(
                        sample.image,
                        sample.height,
                        sample.width,
                        sample.original_height,
                        sample.original_width,
                        sample.perceptual_hash,
                    )
        except MemoryError:
            raise
        except Exception as error:  # Each object store's client has errors of its own.
            _LOG.warning(
                "%s/%s: image %d is fetched again: %s", self._root, earlier.path, earlier.image_id, one_line(str(error))
            )
        return None

    def _read_part(self, path: str, offset: int, size: int) -> list[Sample]:
        header = self._header(path)
        data = bytes(self._fs.cat_file(f"{self._root}/{path}", offset, offset + size))
        return list(format_of(path).read_part(header, data, offset))

    def _read_header(self, path: str) -> bytes:
        with self._fs.open(f"{self._root}/{path}", "rb") as file:
            return format_of(path).header(file)
