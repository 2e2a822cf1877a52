"""URIs: which ones are opened, in what form they are written down, and the file system that holds one.

A URI names a place and must do nothing else. Some of fsspec's file systems do more: `reference`, for one, runs
templates, others load pickles, and `::` chains one to another. So only the schemes below are opened, and never a chain.
`http` and `https` are not among them: `captionflow.images.fetch` and `captionflow.sources.download` fetch from the web,
within limits.
"""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

import fsspec
from fsspec.implementations.local import LocalFileSystem

from captionflow.core.errors import CaptionFlowError, InvalidInputError, StepFailedError, StoreError

SCHEMES = ("file", "gs", "s3", "abfs", "az")
"""The schemes that every deployment opens, beside plain paths."""

PATH_ERRORS = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
"""A store's errors about a path; its other errors are about the store, and may not occur again."""

SCHEMES_VARIABLE = "CAPTIONFLOW_URI_SCHEMES"
"""The environment variable by which a deployment opens more of fsspec's schemes, with commas between them."""

_CHAIN = "::"
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_local(uri: str) -> bool:
    """Whether the URI names a file of this machine: a plain path or `file://`."""
    return "://" not in uri or uri.startswith("file://")


def local_path(uri: str) -> str:
    """Return the path that a plain path or a `file://` URI names."""
    return unquote(uri.removeprefix("file://")) if uri.startswith("file://") else uri


def resolve(uri: str) -> str:
    """Return `uri` in the one form used in manifests: absolute if local, no trailing slash.

    Raises:
        InvalidInputError: it names no bucket, is no UTF-8, holds a null character, or its symbolic links form a
            loop.
    """
    try:
        uri.encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError(f"{uri!r}: holds a byte that is no UTF-8") from error
    try:
        if not is_local(uri):
            if uri.rstrip("/").endswith(":"):
                raise InvalidInputError(f"{uri!r}: names no bucket")
            return uri.rstrip("/")
        return str(Path(local_path(uri)).expanduser().resolve())
    except (OSError, RuntimeError, ValueError) as error:
        raise InvalidInputError(f"{uri!r}: is not a path: {error}") from error


def file_system(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return the file system that holds `uri` and the path within it.

    Raises:
        InvalidInputError: the URI's scheme is not open, it chains file systems, it holds a control character, or the
            scheme's package is not installed.
    """
    # URL parsers drop tabs and line feeds, and `.<tab>.` becomes `..`.
    if _CHAIN in uri or "\0" in uri or (not is_local(uri) and _CONTROL.search(uri)):
        raise InvalidInputError(f"{uri!r}: holds {_CHAIN!r} or a control character; give a plain path or URI")
    if is_local(uri):
        # Without fsspec's parsing, which takes some paths for URIs.
        return LocalFileSystem(), str(Path(local_path(uri)).expanduser().absolute())
    scheme = uri.partition("://")[0]
    if scheme not in _open_schemes():
        raise InvalidInputError(
            f"{uri!r}: {scheme}:// is not opened; use a path or one of {', '.join(_open_schemes())} "
            f"(a deployment opens more by {SCHEMES_VARIABLE})"
        )
    try:
        fs, path = fsspec.core.url_to_fs(uri)
    except (ValueError, ImportError) as error:
        raise InvalidInputError(f"{uri!r}: {error}") from error
    return fs, path


@contextmanager
def store_errors(uri: str) -> Iterator[None]:
    """Turn whatever an object store's client raises, each in classes of its own, into one line.

    Raises:
        StoreError: the store refused or could not be reached.
    """
    try:
        yield
    except (CaptionFlowError, MemoryError, RecursionError, *PATH_ERRORS):
        raise
    except Exception as error:
        if is_local(uri) and isinstance(error, OSError):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise StoreError(
            f"{uri}: cannot be reached: {reason}; check the address, the credentials and their rights"
        ) from error


@contextmanager
def full_disk_errors(uri: str) -> Iterator[None]:
    """Turn the error of a full disk into one line.

    Args:
        uri: the file that is written, for the message.

    Raises:
        StepFailedError: the disk is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise StepFailedError(f"{uri}: cannot be written: {error.strerror}; make room and run again") from error
        raise


def _open_schemes() -> tuple[str, ...]:
    more = os.environ.get(SCHEMES_VARIABLE, "")
    return (*SCHEMES, *(scheme.strip() for scheme in more.split(",") if scheme.strip()))
