"""A caption file that has been brought to this machine."""

import gzip
import hashlib
import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from captionflow.core.errors import InvalidInputError
from captionflow.sources.bounded import UnpackedReader

_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class CaptionFile:
    """A caption file on this machine.

    Args:
        uri: where it came from.
        path: where it is.
        member: the file within, if it is a .zip.
    """

    uri: str
    path: Path
    member: str | None

    @property
    def sha256(self) -> str:
        """Digest of the file's bytes, packed as they are."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @contextmanager
    def open(self) -> Iterator[io.BufferedReader]:
        """Open the file, unpacked, from its beginning."""
        size = self.path.stat().st_size
        if self.member is not None:
            try:
                with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as inner:
                    yield io.BufferedReader(UnpackedReader(inner, size))
            except (RuntimeError, NotImplementedError) as error:
                raise InvalidInputError(f"{self.uri}: {error}") from error
        elif _begins_with(self.path, _GZIP):
            with gzip.open(self.path, "rb") as inner:
                yield io.BufferedReader(UnpackedReader(inner, size))
        else:
            with self.path.open("rb") as file:
                yield file


def choose_member(uri: str, path: Path, wanted: str | None) -> str | None:
    """Return which file of a .zip to read, None if it is no .zip.

    Raises:
        InvalidInputError: several files may be meant, or none.
    """
    # Not what zipfile looks for at the end, which may stand in a caption.
    if not any(_begins_with(path, mark) for mark in _ZIP):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name and not name.endswith("/")]
    except NotImplementedError as error:
        raise InvalidInputError(f"{uri}: {error}") from error
    if wanted is None:
        found = names if len(names) == 1 else [name for name in names if Path(name).name.startswith("captions")]
    else:
        found = [name for name in names if name == wanted or Path(name).name == wanted]
    if len(found) != 1:
        raise InvalidInputError(
            f"{uri}: choose one of its files with --member: {', '.join(names[:20]) or 'it is empty'}"
        )
    return found[0]


def _begins_with(path: Path, mark: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(mark)) == mark
