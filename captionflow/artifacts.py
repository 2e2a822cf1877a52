"""Artifacts: a folder of files made real by a manifest, at any URI that fsspec opens.

A step calls `begin`, writes through the `Draft`, and ends with `Draft.commit`, which sweeps away
whatever an earlier attempt left and writes `manifest.json` last. Until then readers refuse the
folder. The manifest's `run` section holds what differs between two equal runs (times, speed); its
`sha256` covers everything else, so equal work has equal digests.
"""

import hashlib
import io
import json
import os
import subprocess
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote

import fsspec

from captionflow.errors import InvalidInputError

CODE_VERSION_VARIABLE = "CAPTIONFLOW_CODE_VERSION"
"""What names the code's version where there is no git checkout to ask, as in an image."""

MANIFEST = "manifest.json"
_DRAFT = "manifest.partial.json"
_CHUNK = 1 << 20


@dataclass(frozen=True)
class FileInfo:
    """A file of an artifact: its path within, its size in bytes, its sha256 in hex."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Parent:
    """What an artifact was made from: another artifact (digest of its manifest) or a source file."""

    kind: str
    uri: str
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` says."""

    kind: str
    parameters: dict[str, Any]
    parents: tuple[Parent, ...]
    code_version: str
    counts: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    files: tuple[FileInfo, ...] = ()
    run: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, data: bytes) -> "Manifest":
        """Read what `to_json` wrote; raises KeyError, TypeError or ValueError on anything else."""
        values = json.loads(data)
        values["parents"] = tuple(Parent(**parent) for parent in values["parents"])
        values["files"] = tuple(FileInfo(**file) for file in values["files"])
        return cls(**values)

    def to_json(self) -> bytes:
        """Return the manifest as indented JSON."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False).encode()

    @property
    def sha256(self) -> str:
        """Digest of everything but the `run` section."""
        values = {name: value for name, value in asdict(self).items() if name != "run"}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def resolve(uri: str) -> str:
    """Return `uri` in the one form used in manifests: absolute if local, no trailing slash."""
    if is_local(uri):
        return str(Path(local_path(uri)).expanduser().resolve())
    return uri.rstrip("/")


def local_path(uri: str) -> str:
    """Return the path that a plain path or a `file://` URI names."""
    return unquote(uri.removeprefix("file://")) if uri.startswith("file://") else uri


def is_local(uri: str) -> bool:
    """Whether the URI names a file of this machine: a plain path or `file://`."""
    return "://" not in uri or uri.startswith("file://")


def file_system(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return the file system that holds `uri` and the path within it.

    Raises:
        InvalidInputError: no file system is known for the URI's scheme.
    """
    try:
        fs, path = fsspec.core.url_to_fs(uri)
    except (ValueError, ImportError) as error:
        raise InvalidInputError(f"{uri}: {error}") from error
    return fs, path


@cache
def code_version() -> str:
    """Return the package's version, with the git commit when it runs from its own checkout or an image of it.

    Uncommitted changes add a digest of themselves, so that no two states of the code look alike.
    """
    released, root = version("captionflow"), Path(__file__).resolve().parents[1]
    if built_from := os.environ.get(CODE_VERSION_VARIABLE):
        return f"{released}+g{built_from}"
    try:
        if Path(_git(root, "rev-parse", "--show-toplevel")) != root:
            return released
        commit, changes = _git(root, "rev-parse", "--short=12", "HEAD"), _git(root, "diff", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        return released
    dirty = f".dirty.{hashlib.sha256(changes.encode()).hexdigest()[:8]}" if changes else ""
    return f"{released}+g{commit}{dirty}"


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, errors="replace").stdout.strip()


def now() -> str:
    """Return the time in UTC, to the second, for a manifest's `run` section."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class HashingWriter(io.RawIOBase):
    """A binary file being written, forwards only; `info` describes it."""

    def __init__(self, name: str, file: IO[bytes]) -> None:
        super().__init__()
        self._name, self._file = name, file
        self._digest, self._bytes = hashlib.sha256(), 0

    def writable(self) -> bool:
        """True: writing is all it does."""
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        """Append `data`."""
        self._digest.update(data)
        self._bytes += len(data)
        return self._file.write(data)

    @property
    def info(self) -> FileInfo:
        """Path, size and sha256 of what has been written so far."""
        return FileInfo(self._name, self._bytes, self._digest.hexdigest())


@dataclass(frozen=True)
class Draft:
    """An artifact being made. Holds no open file, so that it travels to Beam workers."""

    uri: str
    kind: str
    parameters: dict[str, Any]
    parents: tuple[Parent, ...]
    code_version: str
    started_at: str

    @contextmanager
    def output(self, name: str) -> Iterator[HashingWriter]:
        """Write the file `name` under another name and move it into place when the block ends well."""
        fs, root = file_system(self.uri)
        path, scratch = f"{root}/{name}", f"{root}/{name}.{uuid.uuid4().hex}.tmp"
        fs.makedirs(fs._parent(path), exist_ok=True)
        try:
            with fs.open(scratch, "wb") as file:
                writer = HashingWriter(name, file)
                yield writer
            fs.mv(scratch, path)
        except BaseException:
            if fs.exists(scratch):
                fs.rm(scratch)
            raise

    def put(self, name: str, data: bytes) -> FileInfo:
        """Write the whole file `name` at once."""
        with self.output(name) as out:
            out.write(data)
        return out.info

    def read(self, name: str) -> bytes | None:
        """Return the content of the file `name`, or None if it is not there (yet)."""
        fs, root = file_system(self.uri)
        try:
            return bytes(fs.cat_file(f"{root}/{name}"))
        except FileNotFoundError:
            return None

    def remove(self, name: str) -> None:
        """Remove a file or a folder of the draft, if it is there."""
        fs, root = file_system(self.uri)
        if fs.exists(f"{root}/{name}"):
            fs.rm(f"{root}/{name}", recursive=True)

    def commit(
        self,
        files: Iterable[FileInfo],
        *,
        counts: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
        run: Mapping[str, Any] | None = None,
    ) -> Manifest:
        """Remove what is not among `files`, then write the manifest: the artifact is real."""
        manifest = Manifest(
            self.kind,
            self.parameters,
            self.parents,
            self.code_version,
            dict(counts),
            dict(metrics or {}),
            tuple(sorted(files, key=lambda file: file.path)),
            {"started_at": self.started_at, "committed_at": now(), **(run or {})},
        )
        _sweep(self.uri, keep={_DRAFT, *(file.path for file in manifest.files)})
        self.put(MANIFEST, manifest.to_json())
        _sweep(self.uri, keep={MANIFEST, *(file.path for file in manifest.files)})
        return manifest


def begin(
    uri: str, kind: str, parameters: Mapping[str, Any], parents: Iterable[Parent], *, resume: bool = False
) -> Draft:
    """Start to make the artifact at `uri`, replacing an earlier one or a half-made one of the same kind.

    Args:
        resume: keep the files of an unfinished attempt that had the same parameters, parents and code.

    Raises:
        InvalidInputError: the folder holds something that is not an artifact of this kind.
    """
    draft = Draft(resolve(uri), kind, dict(parameters), tuple(parents), code_version(), now())
    try:
        _prepare(draft, resume)
    except OSError as error:
        raise InvalidInputError(f"{uri}: cannot be written: {error}") from error
    return draft


def _prepare(draft: Draft, resume: bool) -> None:
    identity = _identity(draft)
    fs, root = file_system(draft.uri)
    previous = draft.read(_DRAFT) or draft.read(MANIFEST)
    names = {path.rpartition("/")[2] for path in fs.ls(root, detail=False)} if fs.isdir(root) else set()
    # A start that was killed may leave the mark's scratch file and nothing else.
    foreign = {name for name in names if not name.startswith(f"{_DRAFT}.")}
    if (foreign and _kind(previous) != draft.kind) or (fs.exists(root) and not fs.isdir(root)):
        raise InvalidInputError(f"{draft.uri}: holds something that is not {draft.kind} data; choose an empty folder")
    if resume and draft.read(_DRAFT) == identity:
        draft.remove(MANIFEST)
        return
    # First the mark that this is ours and unfinished: killed at any point below, the next attempt knows it.
    draft.put(_DRAFT, json.dumps({"kind": draft.kind}).encode())
    draft.remove(MANIFEST)
    _sweep(draft.uri, keep={_DRAFT})
    draft.put(_DRAFT, identity)


def _kind(manifest: bytes | None) -> Any:
    try:
        return json.loads(manifest or b"").get("kind")
    except (ValueError, AttributeError):
        return None  # A manifest.json, but none of ours.


def _identity(draft: Draft) -> bytes:
    parents = [asdict(parent) for parent in draft.parents]
    values = {"kind": draft.kind, "code": draft.code_version, "parameters": draft.parameters, "parents": parents}
    return json.dumps(values, sort_keys=True).encode()


def _sweep(uri: str, keep: set[str]) -> None:
    fs, root = file_system(uri)
    kept = {f"{root}/{name}" for name in keep}
    for path in fs.find(root, withdirs=True):
        inside = any(name == path or name.startswith(f"{path}/") for name in kept)
        if path != root and not inside and fs.exists(path):
            fs.rm(path, recursive=True)


@dataclass(frozen=True)
class Artifact:
    """A committed artifact."""

    uri: str
    manifest: Manifest

    @property
    def parent(self) -> Parent:
        """This artifact as the parent of another."""
        return Parent(self.manifest.kind, self.uri, self.manifest.sha256)

    def files(self, prefix: str) -> list[FileInfo]:
        """Return the files whose path starts with `prefix`, in order."""
        return [file for file in self.manifest.files if file.path.startswith(prefix)]

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """Open a file of the artifact for reading."""
        fs, root = file_system(self.uri)
        with fs.open(f"{root}/{name}", "rb") as file:
            yield file

    def read(self, name: str) -> bytes:
        """Return the whole content of a file."""
        with self.open(name) as file:
            return file.read()

    def verify(self) -> None:
        """Read every file and compare its size and sha256 with the manifest.

        Raises:
            InvalidInputError: a file is missing or has been changed; the message names it.
        """
        for expected in self.manifest.files:
            digest, size = hashlib.sha256(), 0
            try:
                with self.open(expected.path) as file:
                    while chunk := file.read(_CHUNK):
                        digest.update(chunk)
                        size += len(chunk)
            except FileNotFoundError as error:
                raise InvalidInputError(f"{self.uri}/{expected.path}: is missing") from error
            if (size, digest.hexdigest()) != (expected.bytes, expected.sha256):
                raise InvalidInputError(f"{self.uri}/{expected.path}: differs from its manifest; make it again")


def open_artifact(uri: str, kind: str | None = None) -> Artifact:
    """Open the artifact at `uri`.

    Raises:
        InvalidInputError: there is no manifest, it cannot be read, or the artifact is of another kind.
    """
    uri = resolve(uri)
    fs, root = file_system(uri)
    try:
        data = fs.cat_file(f"{root}/{MANIFEST}")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InvalidInputError(f"{uri}: has no {MANIFEST}, so the step that makes it has not finished") from error
    except OSError as error:
        raise InvalidInputError(f"{uri}: cannot be read: {error}") from error
    try:
        manifest = Manifest.from_json(data)
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInputError(f"{uri}/{MANIFEST}: is not a manifest of CaptionFlow") from error
    if kind is not None and manifest.kind != kind:
        raise InvalidInputError(f"{uri}: is an artifact of kind {manifest.kind}; expected {kind}")
    return Artifact(uri, manifest)
