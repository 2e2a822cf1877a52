"""A caption file on this machine, unpacked as it is read."""

import gzip
import hashlib
import io
import posixpath
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin

from captionflow.core.errors import InvalidInputError
from captionflow.sources.bounded import UnpackedReader
from captionflow.web.access import WEB_SCHEMES

_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class CaptionFile:
    """A caption file on this machine.

    Args:
        uri: the source, as the user named it.
        path: the local file.
        member: the file in it to read, if it is a .zip.
        split: the split of its images, as in `ImageCaption`; it goes before what the file says.
    """

    uri: str
    path: Path
    member: str | None
    split: str | None = None

    @property
    def sha256(self) -> str:
        """Digest of the file's bytes, not unpacked."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def beside(self, name: str) -> str:
        """Return a relative path as one of this file's folder; any other path or URL as it is."""
        if not name or name.startswith("/") or "://" in name:
            return name
        scheme, _, place = self.uri.rpartition("://")
        if scheme in WEB_SCHEMES:
            return urljoin(self.uri, name)
        bucket, _, path = place.partition("/") if scheme else ("", "", place)
        path = posixpath.normpath(posixpath.join("/", posixpath.dirname(path), name))
        return f"{scheme}://{bucket}{path}" if scheme else path

    @contextmanager
    def open(self) -> Iterator[io.BufferedReader]:
        """Open the file, unpacked, from its beginning."""
        size = self.path.stat().st_size
        if self.member is not None:
            try:
                with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as inner:
                    yield io.BufferedReader(UnpackedReader(inner, size))
            except (RuntimeError, NotImplementedError) as error:  # zipfile's, for a password or an unknown compression
                raise InvalidInputError(f"{self.uri}: {error}") from error
        elif _begins_with(self.path, _GZIP):
            with gzip.open(self.path, "rb") as inner:
                yield io.BufferedReader(UnpackedReader(inner, size))
        else:
            with self.path.open("rb") as file:
                yield file


def choose_member(uri: str, path: Path, chosen: str | None) -> str | None:
    """Return the file of a .zip to read, None if `path` is no .zip.

    Args:
        chosen: its name, with or without folders; by default the only file, or the only one called captions….

    Raises:
        InvalidInputError: no file fits, or more than one.
    """
    # Not zipfile.is_zipfile: it looks for a signature near the end, which a caption may hold.
    if not any(_begins_with(path, signature) for signature in _ZIP):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name and not name.endswith("/")]
    except NotImplementedError as error:
        raise InvalidInputError(f"{uri}: {error}") from error
    if chosen is None:
        matches = names if len(names) == 1 else [name for name in names if Path(name).name.startswith("captions")]
    else:
        matches = [name for name in names if chosen in (name, Path(name).name)]
    if len(matches) != 1:
        raise InvalidInputError(
            f"{uri}: choose one of its files with --member: {', '.join(names[:20]) or 'it is empty'}"
        )
    return matches[0]


def _begins_with(path: Path, signature: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(signature)) == signature
