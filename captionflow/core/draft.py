"""Artifacts being made: `begin`, the `Draft` that a step writes through, and `Draft.commit`, which makes them real.

`commit` removes whatever an earlier attempt left and writes `manifest.json` last; until then readers refuse the folder.
The draft that began last owns the folder: `manifest.partial.json` holds its token, and an earlier writer that finds
another token than its own ends.
"""

import fcntl
import hashlib
import io
import json
import os
import posixpath
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import IO, Any

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from captionflow.core.code_version import code_version
from captionflow.core.errors import InvalidInputError, StepFailedError
from captionflow.core.manifest import MANIFEST, FileInfo, Manifest, Parent
from captionflow.core.uris import file_system, full_disk_errors, resolve, store_errors

_DRAFT_RECORD = "manifest.partial.json"
# Seconds.
_LOCK_SECONDS, _LOCK_PAUSE = 60.0, 0.02


def now() -> str:
    """Return the time in UTC, to the second, for a manifest's `run` section."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class HashingWriter(io.RawIOBase):
    """A binary file that is written forwards; `info` describes it."""

    def __init__(self, name: str, file: IO[bytes]) -> None:
        super().__init__()
        self._name, self._file = name, file
        self._digest, self._bytes = hashlib.sha256(), 0

    def writable(self) -> bool:
        """Return True."""
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


def _new_token() -> str:
    return uuid.uuid4().hex


@dataclass(frozen=True)
class Draft:
    """An artifact being made. It holds no open file, so that it can be pickled for Beam's workers.

    Every method that writes raises StepFailedError if the disk is full, or if another draft of the artifact has begun
    since. `token` identifies the draft.
    """

    uri: str
    kind: str
    parameters: dict[str, Any]
    parents: tuple[Parent, ...]
    code_version: str
    started_at: str
    token: str = field(default_factory=_new_token)

    @contextmanager
    def output(self, name: str) -> Iterator[HashingWriter]:
        """Write the file `name`; it appears, whole, when the block ends without an error."""
        with self._new_file(name, self._owned) as writer:
            yield writer

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

    def holds(self, file: FileInfo) -> bool:
        """Whether the draft holds a file of the path, size and sha256 of `file`."""
        fs, root = file_system(self.uri)
        try:
            with fs.open(f"{root}/{file.path}", "rb") as content:
                size: int = fs.size(f"{root}/{file.path}")
                return size == file.bytes and hashlib.file_digest(content, "sha256").hexdigest() == file.sha256
        except OSError:
            return False

    def remove(self, name: str) -> None:
        """Remove a file or a folder of the draft, if it is there."""
        with self._owned():
            self._remove(name)

    def commit(
        self,
        files: Iterable[FileInfo],
        *,
        counts: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
        run: Mapping[str, Any] | None = None,
    ) -> Manifest:
        """Remove what is not among `files`, then write the manifest: the artifact is real.

        Raises:
            StepFailedError: as every method that writes, and when a file is missing or not of its size.
        """
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
        content = manifest.to_json()
        with self._owned():
            self._check_sizes(manifest.files)
            _sweep(self.uri, keep={_DRAFT_RECORD, *(file.path for file in manifest.files)})
            self._write(MANIFEST, content)
            self._withdraw_if_lost(content)
            _sweep(self.uri, keep={MANIFEST, *(file.path for file in manifest.files)})
        return manifest

    @contextmanager
    def _new_file(self, name: str, guard: Callable[[], AbstractContextManager[None]]) -> Iterator[HashingWriter]:
        """As `output`; `guard` is held while the file appears."""
        fs, root = file_system(self.uri)
        path = f"{root}/{name}"
        is_local = isinstance(fs, LocalFileSystem)
        with full_disk_errors(path if is_local else gettempdir()), _scratch(fs, path) as scratch:
            with scratch.open("wb") as file:
                writer = HashingWriter(name, file)
                yield writer
            with guard():
                if is_local:
                    scratch.replace(path)
                else:
                    fs.put_file(str(scratch), path)

    def _write(self, name: str, data: bytes) -> None:
        """Write a whole file, without asking who owns the folder."""
        with self._new_file(name, nullcontext) as out:
            out.write(data)

    def _remove(self, name: str) -> None:
        fs, root = file_system(self.uri)
        if fs.exists(f"{root}/{name}"):
            fs.rm(f"{root}/{name}", recursive=True)

    @contextmanager
    def _owned(self) -> Iterator[None]:
        """Lock the folder during the block, if this draft still owns it."""
        with _locked(self.uri):
            if not self._is_owned():
                raise self._lost_ownership()
            yield

    def _is_owned(self) -> bool:
        return _parsed(self.read(_DRAFT_RECORD)).get("token") == self.token

    def _lost_ownership(self) -> StepFailedError:
        return StepFailedError(f"{self.uri}: another run has begun to write here, so this one ends without a result")

    def _check_sizes(self, files: tuple[FileInfo, ...]) -> None:
        fs, root = file_system(self.uri)
        sizes = {path.removeprefix(f"{root}/"): info["size"] for path, info in fs.find(root, detail=True).items()}
        for file in files:
            if sizes.get(file.path) != file.bytes:
                raise StepFailedError(f"{self.uri}/{file.path}: was removed or changed before the artifact was whole")

    def _withdraw_if_lost(self, manifest: bytes) -> None:
        # An object store has no locks: another draft may have begun just before the manifest was written.
        if not self._is_owned():
            if self.read(MANIFEST) == manifest:
                self._remove(MANIFEST)
            raise self._lost_ownership()


def begin(
    uri: str, kind: str, parameters: Mapping[str, Any], parents: Iterable[Parent], *, resume: bool = False
) -> Draft:
    """Start to make the artifact at `uri`, replacing an earlier one or a half-made one of the same kind.

    A draft that another process still writes there can no longer be committed.

    Args:
        resume: keep the files of an unfinished attempt that had the same parameters, parents and code.

    Raises:
        InvalidInputError: the folder holds something that is not an artifact of this kind, or cannot be written.
        StepFailedError: the disk is full.
        StoreError: the object store cannot be reached, or refuses.
    """
    draft = Draft(resolve(uri), kind, dict(parameters), tuple(parents), code_version(), now())
    fs, root = file_system(draft.uri)
    try:
        with store_errors(draft.uri):
            if fs.isfile(root):
                raise _not_ours(draft)
            fs.makedirs(root, exist_ok=True)
            with _locked(draft.uri):
                _prepare(draft, resume)
    except (OSError, RecursionError) as error:
        raise InvalidInputError(f"{uri}: cannot be written: {error}") from error
    return draft


def _prepare(draft: Draft, resume: bool) -> None:
    fs, root = file_system(draft.uri)
    unfinished, record = draft.read(_DRAFT_RECORD), _draft_record(draft)
    names = {path.rpartition("/")[2] for path in fs.ls(root, detail=False)} if fs.isdir(root) else set()
    # A start that was killed may leave the record's scratch file and nothing else.
    foreign = {name for name in names if not name.startswith(f"{_DRAFT_RECORD}.")}
    if foreign and _parsed(unfinished or draft.read(MANIFEST)).get("kind") != draft.kind:
        raise _not_ours(draft)
    if resume and _identity(_parsed(unfinished)) == _identity(record):
        draft._write(_DRAFT_RECORD, json.dumps(record).encode())
        draft._remove(MANIFEST)
        _unlink_links(draft.uri, keep=set())
        return
    # The kind comes first: if this start is killed below, the next one knows that the folder is ours.
    draft._write(_DRAFT_RECORD, json.dumps({"kind": draft.kind, "token": draft.token}).encode())
    draft._remove(MANIFEST)
    _sweep(draft.uri, keep={_DRAFT_RECORD})
    draft._write(_DRAFT_RECORD, json.dumps(record).encode())


def _not_ours(draft: Draft) -> InvalidInputError:
    return InvalidInputError(f"{draft.uri}: holds something that is not {draft.kind} data; choose an empty folder")


def _draft_record(draft: Draft) -> dict[str, Any]:
    parents = [asdict(parent) for parent in draft.parents]
    values = {"kind": draft.kind, "code": draft.code_version, "parameters": draft.parameters, "parents": parents}
    return {**values, "token": draft.token}


def _identity(record: dict[str, Any]) -> str:
    """Return what two drafts with the same inputs have in common."""
    return json.dumps({name: value for name, value in record.items() if name != "token"}, sort_keys=True)


def _parsed(content: bytes | None) -> dict[str, Any]:
    """Return the JSON object in a record or a manifest; {} if there is none."""
    try:
        values = json.loads(content or b"")
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


@contextmanager
def _scratch(fs: AbstractFileSystem, path: str) -> Iterator[Path]:
    """Return where a file is written before it appears at `path`: beside it, or on this machine if that is a store.

    Amazon's, Google's and Azure's stores show an uploaded file whole or not at all. fsspec's own way,
    `open(autocommit=False)`, is none for every store: Azure's and the memory's show what is half-written, and local
    files would move between disks.
    """
    if isinstance(fs, LocalFileSystem):
        scratch = Path(f"{path}.{uuid.uuid4().hex}.tmp")
        scratch.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield scratch
        finally:
            with suppress(OSError):
                scratch.unlink()
    else:
        with TemporaryDirectory() as folder:
            yield Path(folder, posixpath.basename(path))  # stores take a file's content type from its name


@contextmanager
def _locked(uri: str) -> Iterator[None]:
    """Lock a local folder during the block, against other writers of this machine."""
    fs, root = file_system(uri)
    if not isinstance(fs, LocalFileSystem) or not fs.isdir(root):
        yield
        return
    folder = os.open(root, os.O_RDONLY)
    try:
        _lock(folder, uri)
        yield
    finally:
        os.close(folder)


def _lock(folder: int, uri: str) -> None:
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            return fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            # We hold it for moments; but any process that may read the folder may hold it for ever.
            if time.monotonic() > deadline:
                raise StepFailedError(f"{uri}: another process keeps it locked; end that one or wait for it") from error
            time.sleep(_LOCK_PAUSE)
        except OSError:  # Some network file systems have no locks.
            return None


def _unlink_links(uri: str, keep: set[str]) -> None:
    """Remove symbolic links: they lead out of the artifact."""
    fs, root = file_system(uri)
    if isinstance(fs, LocalFileSystem):
        for path in Path(root).rglob("*"):
            if path.is_symlink() and str(path.relative_to(root)) not in keep:
                path.unlink()


def _sweep(uri: str, keep: set[str]) -> None:
    _unlink_links(uri, keep)
    fs, root = file_system(uri)
    kept = {f"{root}/{name}" for name in keep}
    for path in fs.find(root, withdirs=True):
        inside = any(name == path or name.startswith(f"{path}/") for name in kept)
        if path != root and not inside and fs.exists(path):
            fs.rm(path, recursive=True)
