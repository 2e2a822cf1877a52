"""Committed artifacts: a folder of files and a manifest, at any URI that `captionflow.core.uris` opens.

`captionflow.core.draft` makes them. What is read here is checked against the manifest.
"""

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import IO, Any

from fsspec import AbstractFileSystem

from captionflow.core.errors import CaptionFlowError, InvalidInputError
from captionflow.core.manifest import MANIFEST, FileInfo, Manifest, Parent
from captionflow.core.uris import file_system, resolve, store_errors

_CHUNK = 1 << 20
_LARGEST_MANIFEST = 64 << 20


class _CheckingReader(io.RawIOBase):
    """Reads a file of an artifact forwards, and at its end checks what was read against the manifest."""

    def __init__(self, uri: str, expected: FileInfo, file: Any) -> None:
        super().__init__()
        self._uri, self._expected, self._file = uri, expected, file
        self._digest, self._bytes = hashlib.sha256(), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size: int = self._file.readinto(buffer)
        if not size and (self._bytes, self._digest.hexdigest()) != (self._expected.bytes, self._expected.sha256):
            raise _changed_file_error(self._uri, self._expected.path)
        self._digest.update(memoryview(buffer)[:size])
        self._bytes += size
        if self._bytes > self._expected.bytes:  # A device, for one, has no end.
            raise _changed_file_error(self._uri, self._expected.path)
        return size


def _changed_file_error(uri: str, name: str) -> InvalidInputError:
    return InvalidInputError(f"{uri}/{name}: differs from its manifest; make the artifact again")


@dataclass(frozen=True)
class Artifact:
    """A committed artifact."""

    uri: str
    manifest: Manifest

    @property
    def parent(self) -> Parent:
        """This artifact as the parent of another."""
        return Parent(self.manifest.kind, self.uri, self.manifest.sha256)

    def count(self, *names: str, default: int | None = None) -> int:
        """Return a number of the manifest's counts; `names` are the keys that lead to it.

        Args:
            default: the number if the last key is missing.

        Raises:
            InvalidInputError: there is no number.
        """
        found: Any = self.manifest.counts
        for name in names:
            found = found.get(name, default) if isinstance(found, dict) else None
        if type(found) is not int or found < 0:
            raise InvalidInputError(
                f"{self.uri}/{MANIFEST}: its counts hold no number for {' '.join(names)}; make the artifact again"
            )
        return found

    def files(self, prefix: str) -> list[FileInfo]:
        """Return the files whose path starts with `prefix`, in order."""
        return [file for file in self.manifest.files if file.path.startswith(prefix)]

    @contextmanager
    def open(self, name: str, *, check: bool = True) -> Iterator[IO[bytes]]:
        """Open a file of the artifact for reading, forwards and to its end.

        Args:
            check: compare what was read with the manifest at the end; not needed for a second reading.

        Raises:
            InvalidInputError: the file is missing, not in the manifest, or (while reading) not as the manifest says.
        """
        expected = self._files.get(name)
        if expected is None:
            raise InvalidInputError(f"{self.uri}: its manifest lists no {name}")
        fs, root = file_system(self.uri)
        try:
            with store_errors(self.uri):
                # Opening a pipe, for one, would wait for ever.
                if fs.info(f"{root}/{name}")["type"] != "file":
                    raise _changed_file_error(self.uri, name)
                file = fs.open(f"{root}/{name}", "rb")
        except FileNotFoundError as error:
            raise InvalidInputError(f"{self.uri}/{name}: is missing; make the artifact again") from error
        except OSError as error:
            raise InvalidInputError(f"{self.uri}/{name}: cannot be read: {error}") from error
        with file:
            yield io.BufferedReader(_CheckingReader(self.uri, expected, file), _CHUNK) if check else file

    @contextmanager
    def parse(self, name: str, *, check: bool = True) -> Iterator[IO[bytes]]:
        """As `open`, for a block that only reads and parses: whatever it raises means that the file was changed.

        Raises:
            InvalidInputError: as `open`, and when the block fails.
        """
        try:
            with self.open(name, check=check) as file:
                yield file
        except (CaptionFlowError, MemoryError):
            raise
        except Exception as error:  # Parsers raise anything on a changed file.
            raise _changed_file_error(self.uri, name) from error

    def read(self, name: str) -> bytes:
        """Return the whole content of a file; raises as `open`."""
        with self.open(name) as file:
            return file.read()

    def verify(self, prefix: str = "") -> None:
        """Read the files whose path starts with `prefix` and check each against the manifest.

        Raises:
            InvalidInputError: a file is missing or has been changed; the message names it.
        """
        for expected in self.files(prefix):
            with self.open(expected.path) as file:
                while file.read(_CHUNK):
                    pass

    @cached_property
    def _files(self) -> dict[str, FileInfo]:
        return {file.path: file for file in self.manifest.files}


def open_artifact(uri: str, kind: str | None = None) -> Artifact:
    """Open the artifact at `uri`.

    Raises:
        InvalidInputError: there is no manifest, it cannot be read, or the artifact is of another kind.
        StoreError: the object store that holds it cannot be reached, or refuses.
    """
    uri = resolve(uri)
    try:
        with store_errors(uri):
            data = _read_manifest(uri)
    except OSError as error:
        raise InvalidInputError(f"{uri}: cannot be read: {error}") from error
    try:
        manifest = Manifest.from_json(data)
    except ValueError as error:
        raise InvalidInputError(f"{uri}/{MANIFEST}: is not a manifest of CaptionFlow") from error
    if kind is not None and manifest.kind != kind:
        raise InvalidInputError(f"{uri}: is an artifact of kind {manifest.kind}; expected {kind}")
    return Artifact(uri, manifest)


def _read_manifest(uri: str) -> bytes:
    fs, root = file_system(uri)
    found = _info(fs, f"{root}/{MANIFEST}")
    # Reading a pipe, for one, would wait for ever.
    if found.get("type") == "file":
        if found["size"] > _LARGEST_MANIFEST:
            raise InvalidInputError(
                f"{uri}/{MANIFEST}: is larger than {_LARGEST_MANIFEST >> 20} MiB, so it is no manifest"
            )
        return bytes(fs.cat_file(f"{root}/{MANIFEST}"))
    if _info(fs, root).get("type") == "directory":
        raise InvalidInputError(f"{uri}: has no {MANIFEST}, so the step that makes it has not finished")
    raise InvalidInputError(f"{uri}: there is no such artifact; check the path")


def _info(fs: AbstractFileSystem, path: str) -> dict[str, Any]:
    """Return fsspec's `info` of a path, {} if nothing is there; unlike `isfile` it hides no other error."""
    try:
        return dict(fs.info(path))
    except (FileNotFoundError, NotADirectoryError):
        return {}
