"""Ingest in parts, one for each file of the sources: what a worker does of it.

A file is read twice: first for what `captionflow.sources.rules` must know of each row, then to write what the rules
leave. So no row travels from one worker to another, and none need be held. `beam_jobs.ingest_transforms` wires these
functions into a pipeline.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from captionflow.core.draft import Draft, HashingWriter
from captionflow.core.errors import StepFailedError
from captionflow.core.manifest import FileInfo, Parent
from captionflow.core.records import CAPTIONS, ImageCaption
from captionflow.core.uris import file_system
from captionflow.sources.expansion import SourceFile
from captionflow.sources.opening import Source, open_file
from captionflow.sources.output import REJECTS_FILE, Counts, commit, max_reject_bytes, write
from captionflow.sources.parameters import IngestParameters
from captionflow.sources.rows import Rows
from captionflow.sources.rules import REASONS, Caption, rejection, seen

PARTS = "parts"
"""The folder of the draft that holds the parts until they are joined."""

# A row's place in the order is its file's number above its own within the file.
_ROW_BITS = 40
_REASON_BITS = 2
_PIECE = 1 << 20


@dataclass(frozen=True)
class FilePart:
    """A file of the sources.

    Args:
        number: its place among all.
        of: how many there are.
    """

    number: int
    of: int
    file: SourceFile


@dataclass(frozen=True)
class WrittenPart:
    """What was written of a file.

    Args:
        parent: the file, as it was read.
    """

    number: int
    parent: Parent
    captions: FileInfo
    rejects: FileInfo
    counts: Counts


def rows_of(part: FilePart, source: Source, parameters: IngestParameters) -> Iterator[tuple[int, tuple[int, Caption]]]:
    """Yield what the rules look at in each caption: its id, the image's id, and the rest."""
    first = part.number << _ROW_BITS
    for place, record in enumerate(source.read(parameters), first):
        if isinstance(record, ImageCaption):
            yield record.id, (record.image_id, seen(record, place))


def verdict(place: int, reason: str) -> tuple[int, int]:
    """Return the number of the file of a row that a rule refuses, and row and reason as one integer."""
    row = place & ((1 << _ROW_BITS) - 1)
    return place >> _ROW_BITS, row << _REASON_BITS | REASONS.index(reason)


def write_part(
    part: FilePart, parent: Parent, verdicts: Iterable[int], draft: Draft, parameters: IngestParameters
) -> WrittenPart:
    """Read a file again, and write its captions and Rejects.

    Args:
        parent: the file as it was when the rules were applied.
        verdicts: those on its rows, in any order.

    Raises:
        InvalidInputError: the file can no longer be read.
        StepFailedError: it has changed, or the disk is full.
    """
    name = f"{PARTS}/{part.number:08d}"
    with open_file(part.file, parameters) as source:
        if source.parent != parent:
            raise StepFailedError(f"{source.uri}: changed while it was read; run again when it no longer does")
        rows = judged(source.read(parameters), sorted(verdicts), parameters.max_captions)
        with (
            draft.output(f"{name}.captions.jsonl") as captions_file,
            draft.output(f"{name}.rejects.jsonl") as rejects_file,
        ):
            counts = write(rows, captions_file, rejects_file, max_reject_bytes(source.size, part.of))
    return WrittenPart(part.number, parent, captions_file.info, rejects_file.info, counts)


def join(
    parts: Iterable[WrittenPart], images: Mapping[str | None, int], draft: Draft, parameters: IngestParameters
) -> str:
    """Join the parts in their order and commit the artifact; returns its URI.

    Raises:
        StepFailedError: as `commit`, or a part is no longer as it was written.
    """
    counts, in_order = Counts(), sorted(parts, key=lambda part: part.number)
    with draft.output(CAPTIONS) as captions_file, draft.output(REJECTS_FILE) as rejects_file:
        for part in in_order:
            _append(draft, part.captions, captions_file)
            _append(draft, part.rejects, rejects_file)
            counts.add(part.counts)
    draft = replace(draft, parents=tuple(part.parent for part in in_order))
    commit(draft, [captions_file.info, rejects_file.info], counts, images, parameters.max_reject_ratio)
    return draft.uri


def judged(rows: Rows, verdicts: list[int], max_captions: int) -> Rows:
    """Put a Reject in the place of each row that a verdict is on."""
    following = iter(verdicts)
    verdict = next(following, None)
    for number, record in enumerate(rows):
        if verdict is None or verdict >> _REASON_BITS != number:
            yield record
            continue
        assert isinstance(record, ImageCaption)
        yield rejection(record, REASONS[verdict & ((1 << _REASON_BITS) - 1)], max_captions)
        verdict = next(following, None)


def _append(draft: Draft, file: FileInfo, target: HashingWriter) -> None:
    """Write the content of a part's file to the end of another."""
    fs, root = file_system(draft.uri)
    digest = hashlib.sha256()
    with fs.open(f"{root}/{file.path}", "rb") as content:
        while piece := content.read(_PIECE):
            digest.update(piece)
            target.write(piece)
    if digest.hexdigest() != file.sha256:
        raise StepFailedError(f"{draft.uri}/{file.path}: was changed while the artifact was made")
