"""Ingest: any number of sources → the `ingested` artifact, one ImageCaption a line."""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from tqdm import tqdm

from captionflow.core.draft import HashingWriter, begin
from captionflow.core.errors import InvalidInputError, StepFailedError
from captionflow.core.records import CAPTIONS, REJECTS, TEXTS, ImageCaption, Reject, to_json_line, unforeseeable
from captionflow.core.rejects import excess
from captionflow.core.steps import INGESTED
from captionflow.core.uris import resolve
from captionflow.sources.opening import Source, open_source
from captionflow.sources.parameters import IngestParameters
from captionflow.sources.rows import STAGE

_REJECTS = f"{REJECTS}.jsonl"
_MAX_BYTES_OF_A_CHARACTER = 4
_LONGEST_DETAIL = 500
_FREE_REJECT_BYTES = 64 << 20
_REJECT_BYTES_PER_BYTE = 20
# Of the largest --max-captions.
_COUNT_BITS = 14


def ingest(output: str, parameters: IngestParameters) -> str:
    """Read all sources, in order, and commit the artifact at `output`; returns its URI.

    Counts in the manifest: `captions` read, written and rejected (read = written + rejected); `images`, those with a
    caption written; `splits`, those images by the split that their source gives; `rejected`, by reason;
    `rejects_not_written`, if the file of rejects reached its largest size.

    Raises:
        InvalidInputError: no source is given, or one cannot be read.
        StepFailedError: more than `max_reject_ratio` of the rows were rejected, or there were none.
    """
    roots = _image_roots(parameters)
    with ExitStack() as stack:
        opened = [stack.enter_context(open_source(given, parameters)) for given in parameters.sources]
        sources = [source for files in opened for source in files]
        _check_output(sources, resolve(output))
        draft = begin(output, INGESTED, parameters.to_json(), [source.parent for source in sources])
        rows = _reject_long_texts(_read_all(opened, parameters, roots), parameters.max_text_bytes)
        images = _Images(parameters.max_captions)
        rows = images.reject_conflicts(rows)
        with draft.output(CAPTIONS) as captions_file, draft.output(_REJECTS) as rejects_file:
            counts = _write(rows, captions_file, rejects_file, _max_reject_bytes(sources))
        _check_rejects(counts, parameters.max_reject_ratio, f"{draft.uri}/{_REJECTS}")
        draft.commit([captions_file.info, rejects_file.info], counts=counts.to_json() | images.counts())
    return draft.uri


@dataclass
class _Counts:
    read: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    rejects_not_written: int = 0

    def to_json(self) -> dict[str, Any]:
        rejected = self.rejected.total()
        counts: dict[str, Any] = {
            "captions": {"in": self.read, "out": self.read - rejected, "rejected": rejected},
            "rejected": dict(sorted(self.rejected.items())),
        }
        return counts | ({"rejects_not_written": self.rejects_not_written} if self.rejects_not_written else {})


def _write(
    rows: Iterator[ImageCaption | Reject],
    captions_file: HashingWriter,
    rejects_file: HashingWriter,
    max_reject_bytes: int,
) -> _Counts:
    """Write captions and Rejects to their files; a Reject that no longer fits is only counted."""
    counts = _Counts()
    for record in tqdm(rows, "ingest", unit=" captions", disable=None):
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


def _check_output(sources: list[Source], output: str) -> None:
    for source in sources:
        if source.uri == output or source.uri.startswith(f"{output}/"):
            raise InvalidInputError(f"--output: {output} holds the source {source.uri}; choose another folder")


def _max_reject_bytes(sources: list[Source]) -> int:
    """Return the largest size of the file of rejects; without it a tiny archive of many rows could fill the disk."""
    return _FREE_REJECT_BYTES + _REJECT_BYTES_PER_BYTE * sum(source.file.path.stat().st_size for source in sources)


def _image_roots(parameters: IngestParameters) -> list[str | None]:
    sources, roots = parameters.sources, parameters.image_root
    if not sources:
        raise InvalidInputError("--sources: give at least one caption file (`captionflow sample` makes one)")
    if len(roots) not in (0, 1, len(sources)):
        raise InvalidInputError(
            f"--image-root: {len(roots)} given for {len(sources)} sources; give one, or one for each"
        )
    resolved: list[str | None] = [*map(resolve, roots)] or [None]
    return resolved if len(resolved) == len(sources) else resolved * len(sources)


def _read_all(
    opened: list[list[Source]], parameters: IngestParameters, roots: list[str | None]
) -> Iterator[ImageCaption | Reject]:
    for files, root in zip(opened, roots, strict=True):
        for source in files:
            yield from source.read(parameters, root)


def _reject_long_texts(records: Iterator[ImageCaption | Reject], max_bytes: int) -> Iterator[ImageCaption | Reject]:
    """Reject a row whose caption, URL, file name or licence is too long for the later steps."""
    for record in records:
        if isinstance(record, ImageCaption) and (name := _long_field(record, max_bytes)):
            detail = f"{name} is longer than {max_bytes} bytes (--max-text-bytes)"
            yield Reject(STAGE, "text_too_long", detail, record.id, record.image_id)
        elif isinstance(record, Reject) and len(record.detail) + len(record.image_url or "") > max_bytes:
            # Each caption of an image with an endless URL would repeat it.
            yield replace(record, detail=record.detail[:_LONGEST_DETAIL], image_url=None)
        else:
            yield record


def _long_field(record: ImageCaption, max_bytes: int) -> str | None:
    for name in TEXTS:
        text = getattr(record, name)
        # Encoding takes time; most texts are so short that it is not needed.
        if len(text) * _MAX_BYTES_OF_A_CHARACTER > max_bytes and len(text.encode()) > max_bytes:
            return name
    return None


class _Images:
    """What is known of the images, and of the ids of captions: some 250 bytes for an image with one caption.

    The number of captions is bounded because each repeats its image's URL, name and licence, and because a training
    batch is as wide as the image with the most captions.
    """

    def __init__(self, max_captions: int) -> None:
        self._max_captions = max_captions
        self._captions = set[bytes]()
        # A hash of its URL and split above the number of its captions: one integer takes half the memory of two.
        self._images: dict[bytes, int] = {}
        self._splits = Counter[str]()

    def counts(self) -> dict[str, Any]:
        """Return the number of images, and of those whose source gives a split, by that."""
        return {"images": len(self._images), "splits": dict(sorted(self._splits.items()))}

    def reject_conflicts(self, records: Iterator[ImageCaption | Reject]) -> Iterator[ImageCaption | Reject]:
        """Reject a caption whose id was seen before, whose image had another URL or split or has too many captions."""
        for record in records:
            yield self._checked(record) if isinstance(record, ImageCaption) else record

    def _checked(self, record: ImageCaption) -> ImageCaption | Reject:
        id_, image_id = unforeseeable(record.id), unforeseeable(record.image_id)
        if id_ in self._captions:
            return Reject.of(record, STAGE, "duplicate_id", f"an earlier caption has the id {record.id}")
        image = hash((record.image_url, record.split)) << _COUNT_BITS
        known = self._images.get(image_id)
        if known is None:
            known = image
            if record.split:
                self._splits[record.split] += 1
        if known >> _COUNT_BITS << _COUNT_BITS != image:
            detail = f"an earlier caption has another URL or split for image {record.image_id}"
            return Reject.of(record, STAGE, "conflicting_image", detail)
        if known - image == self._max_captions:
            detail = f"image {record.image_id} has more than {self._max_captions} captions (--max-captions)"
            return Reject(STAGE, "too_many_captions", detail, record.id, record.image_id)
        self._images[image_id] = known + 1
        self._captions.add(id_)
        return record


def _check_rejects(counts: _Counts, max_ratio: float, rejects_uri: str) -> None:
    read, rejected = counts.read, counts.rejected
    if read == 0:
        raise StepFailedError("the sources hold no captions")
    if problem := excess(rejected, read, max_ratio, "rows"):
        raise StepFailedError(f"{problem}; see {rejects_uri}")
