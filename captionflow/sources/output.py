"""What ingest writes, as a whole or of one file: captions, Rejects within bounds, and the counts of both."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from captionflow.core.draft import Draft, HashingWriter
from captionflow.core.errors import InvalidInputError, StepFailedError
from captionflow.core.manifest import FileInfo
from captionflow.core.records import REJECTS, ImageCaption, Reject, to_json_line
from captionflow.core.rejects import too_many_rejected
from captionflow.core.uris import resolve
from captionflow.sources.expansion import SourceFile

REJECTS_FILE = f"{REJECTS}.jsonl"
_FREE_REJECT_BYTES = 64 << 20
_REJECT_BYTES_PER_BYTE = 20


@dataclass
class Counts:
    """The number of rows that were read, those that were rejected by reason, and the Rejects that had no room."""

    read: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    rejects_not_written: int = 0

    def add(self, other: "Counts") -> None:
        """Add those of another file."""
        self.read += other.read
        self.rejected.update(other.rejected)
        self.rejects_not_written += other.rejects_not_written

    def to_json(self) -> dict[str, Any]:
        """Return them as a manifest holds them."""
        rejected = self.rejected.total()
        counts: dict[str, Any] = {
            "captions": {"in": self.read, "out": self.read - rejected, "rejected": rejected},
            "rejected": dict(sorted(self.rejected.items())),
        }
        return counts | ({"rejects_not_written": self.rejects_not_written} if self.rejects_not_written else {})


def check_output(files: Iterable[SourceFile], output: str) -> None:
    """Raise InvalidInputError if a source lies in the folder that is to be written."""
    folder = resolve(output)
    for uri in (resolve(file.uri) for file in files):
        if uri == folder or uri.startswith(f"{folder}/"):
            raise InvalidInputError(f"--output: {folder} holds the source {uri}; choose another folder")


def max_reject_bytes(file_bytes: int, files: int) -> int:
    """Return the largest size of the Rejects of a file; without it a tiny archive of many rows could fill the disk.

    Args:
        file_bytes: the file's size, not unpacked.
        files: how many files there are in all.
    """
    return _FREE_REJECT_BYTES // files + _REJECT_BYTES_PER_BYTE * file_bytes


def write(
    rows: Iterable[ImageCaption | Reject],
    captions_file: HashingWriter,
    rejects_file: HashingWriter,
    max_reject_bytes: int,
) -> Counts:
    """Write captions and Rejects to their files; a Reject that no longer fits is only counted."""
    counts = Counts()
    for record in rows:
        counts.read += 1
        line = to_json_line(record)
        if isinstance(record, ImageCaption):
            captions_file.write(line)
            continue
        counts.rejected[record.reason] += 1
        if len(line) > max_reject_bytes:
            counts.rejects_not_written += 1
        else:
            max_reject_bytes -= rejects_file.write(line)
    return counts


def commit(
    draft: Draft,
    files: Iterable[FileInfo],
    counts: Counts,
    images: Mapping[str | None, int],
    max_reject_ratio: float,
) -> None:
    """Write the manifest of the ingested artifact.

    Args:
        images: number of images by the split that their sources give, None if they give none.

    Raises:
        StepFailedError: the sources hold no captions, or too many were rejected; the Rejects stay in the draft.
    """
    if counts.read == 0:
        raise StepFailedError("the sources hold no captions")
    if problem := too_many_rejected(counts.rejected, counts.read, max_reject_ratio, "rows"):
        raise StepFailedError(f"{problem}; see {draft.uri}/{REJECTS_FILE}")
    splits = {split: images[split] for split in sorted(filter(None, images))}
    draft.commit(files, counts=counts.to_json() | {"images": sum(images.values()), "splits": splits})
