"""The files that a source stands for: those of a folder, or those that match a pattern."""

import posixpath
import re
from dataclasses import dataclass

import fsspec
from fsspec.implementations.local import LocalFileSystem

from captionflow.core.errors import InvalidInputError
from captionflow.core.records import part_source
from captionflow.core.uris import PATH_ERRORS, file_system, is_local, resolve, store_errors
from captionflow.sources.parameters import IngestParameters
from captionflow.web.access import WEB_SCHEMES

_PATTERN = re.compile(r"[*?\[]")
_METADATA, _TABLE = "metadata.jsonl", ".parquet"


@dataclass(frozen=True)
class SourceFile:
    """A file of a source, wherever it is.

    Args:
        uri: as the user gave it, or as it was found.
        split: the split of its images, as in `ImageCaption`, if the user gave one.
        image_root: URI of the folder that holds its images by name, if the user gave one.
    """

    uri: str
    split: str | None
    image_root: str | None


def list_files(parameters: IngestParameters) -> list[SourceFile]:
    """Return the files of all sources, in the order in which they are read.

    Raises:
        InvalidInputError: no source is given, there are not as many image roots, or as `files_of`.
        StoreError: as `files_of`.
    """
    sources, roots = parameters.sources, parameters.image_root
    if not sources:
        raise InvalidInputError("--sources: give at least one caption file (`captionflow sample` makes one)")
    if len(roots) not in (0, 1, len(sources)):
        raise InvalidInputError(
            f"--image-root: {len(roots)} given for {len(sources)} sources; give one, or one for each"
        )
    resolved: list[str | None] = [*map(resolve, roots)] or [None]
    if len(resolved) == 1:
        resolved *= len(sources)
    found = []
    for given, root in zip(sources, resolved, strict=True):
        split, uri = part_source(given)
        found += [SourceFile(file, split, root) for file in files_of(uri)]
    return found


def files_of(uri: str) -> list[str]:
    """Return the URIs of the files that a source's URI stands for, in the order of their names.

    A pattern has `*`, `?`, `[…]` or, for folders at any depth, `**`. A folder stands for its `metadata.jsonl`, or
    otherwise for every `*.parquet` in it. Any other URI, and whatever is on the web, stands for itself, be there a file
    or not.

    Raises:
        InvalidInputError: no file matches a pattern, or a folder has none of those files.
        StoreError: the object store cannot be reached, or refuses.
    """
    scheme = uri.partition("://")[0]
    if scheme.lower() in WEB_SCHEMES:
        return [uri]
    fs, path = (LocalFileSystem(), resolve(uri)) if is_local(uri) else file_system(uri)
    try:
        with store_errors(uri):
            fs.invalidate_cache()  # files may have come since this process listed them
            found = _find(fs, path)
    except (*PATH_ERRORS, ValueError) as error:
        raise InvalidInputError(f"{uri}: cannot be listed: {error}") from error
    if found is None:
        return [uri]
    if not found:
        raise InvalidInputError(
            f"{uri}: no file matches; give files, a pattern, or a folder with {_METADATA} or *{_TABLE}"
        )
    if odd := next((file for file in found if ".." in file.split("/")), None):
        raise InvalidInputError(f"{uri}: {odd!r} may be read as a file elsewhere; rename it")
    return [file if is_local(uri) else f"{scheme}://{file}" for file in sorted(found)]


def _find(fs: fsspec.AbstractFileSystem, path: str) -> list[str] | None:
    """Return the files that a path stands for; None if it is neither a folder nor a pattern."""
    if _PATTERN.search(path) and not fs.isfile(path):
        return [name for name, info in fs.glob(path, detail=True).items() if info["type"] != "directory"]
    if not fs.isdir(path):
        return None
    found = {info["name"]: info for info in fs.ls(path, detail=True)}
    files = {posixpath.basename(name): name for name, info in found.items() if info["type"] != "directory"}
    if _METADATA in files:
        return [files[_METADATA]]
    # Spark and others write files of their own beside the tables.
    return [path for name, path in files.items() if name.endswith(_TABLE) and name[0] not in "._"]
