"""The rejects of a step: how many are too many, how they are told, and how they are read back."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from captionflow.core.artifact import Artifact, open_artifact
from captionflow.core.errors import InvalidInputError
from captionflow.core.manifest import MANIFEST, FileInfo, Manifest
from captionflow.core.records import REJECTS, Reject, to_json_line
from captionflow.core.terminal import printable
from captionflow.core.uris import file_system, resolve, store_errors

_SUFFIX = ".jsonl"


def format_counts(rejected: Counter[str]) -> str:
    """Return counts by reason as text, the most frequent first: `http_404 7, timeout 2`."""
    return ", ".join(f"{reason} {count}" for reason, count in rejected.most_common())


def are_too_many(rejected: int, total: int, max_ratio: float) -> bool:
    """Whether a larger share than `max_ratio` was rejected, or all of them."""
    return rejected > 0 and (rejected == total or rejected > max_ratio * total)


def too_many_rejected(rejected: Counter[str], total: int, max_ratio: float, what: str) -> str:
    """Return what is wrong if too many were rejected; "" if not.

    Args:
        rejected: their number by reason.
        total: of how many.
        what: the name of what is counted, in the plural.
    """
    if not are_too_many(rejected.total(), total, max_ratio):
        return ""
    return (
        f"{rejected.total()} of {total} {what} were rejected ({format_counts(rejected)}); "
        f"--max-reject-ratio allows {max_ratio:g}"
    )


@dataclass(frozen=True)
class Rejects:
    """The rejects in an artifact, to iterate over.

    Attributes:
        is_verified: whether they are compared with the manifest while they are read.
        not_written: how many more there were, for which the file had no room.
    """

    artifact: Artifact
    is_verified: bool
    not_written: int = 0

    def __iter__(self) -> Iterator[Reject]:
        """Yield them in their order.

        Raises:
            InvalidInputError: a file is missing, holds a line that is no Reject or, at its end, is not as the manifest
                says.
        """
        for file in self.artifact.files(REJECTS):
            with self.artifact.open(file.path, check=self.is_verified) as lines:
                for number, line in enumerate(lines, start=1):
                    yield _parsed(line, f"{self.artifact.uri}/{file.path}: line {number}")


def open_rejects(uri: str) -> Rejects:
    """Open the rejects of an artifact, or those that a step left which failed before its artifact was whole.

    Raises:
        InvalidInputError: neither is there, or artifacts of the kind have no rejects.
        StoreError: the object store that holds it cannot be reached, or refuses.
    """
    try:
        artifact = open_artifact(uri)
    except InvalidInputError:
        uri = resolve(uri)
        if not (files := _left_in(uri)):
            raise
        return Rejects(Artifact(uri, Manifest("", {}, (), "", files=files)), is_verified=False)
    if not artifact.files(REJECTS):
        raise InvalidInputError(
            f"{artifact.uri}: is an artifact of kind {artifact.manifest.kind}, which holds no rejects"
        )
    return Rejects(artifact, is_verified=True, not_written=artifact.count("rejects_not_written", default=0))


def printable_line(reject: Reject) -> str:
    """Return a Reject as one line of JSON, without effect on a terminal that shows it."""
    return printable(to_json_line(reject).decode().removesuffix("\n"))


def _left_in(uri: str) -> tuple[FileInfo, ...]:
    """Return the files of rejects in a folder without a manifest; their sizes and digests nobody has written down."""
    fs, root = file_system(uri)
    with store_errors(uri):
        if fs.exists(f"{root}/{MANIFEST}"):
            return ()
        found = {*fs.find(f"{root}/{REJECTS}"), *fs.find(f"{root}/{REJECTS}{_SUFFIX}")}
    names = sorted(path.removeprefix(f"{root}/") for path in found if path.endswith(_SUFFIX))
    try:
        return tuple(FileInfo(name, 0, "") for name in names)
    except ValueError as error:
        raise InvalidInputError(f"{uri}: {error}") from error


def _parsed(line: bytes, place: str) -> Reject:
    try:
        row = json.loads(line)
        if not isinstance(row["reason"], str) or any(isinstance(value, (dict, list)) for value in row.values()):
            raise TypeError("not a row of texts and numbers")
        return Reject(**row)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InvalidInputError(f"{place} holds no reject; make the artifact again") from error
