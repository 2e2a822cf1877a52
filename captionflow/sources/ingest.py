"""Ingest: any number of sources → the `ingested` artifact, one ImageCaption a line."""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

from tqdm import tqdm

from captionflow.core.draft import begin
from captionflow.core.errors import InvalidInputError, StepFailedError
from captionflow.core.records import CAPTIONS, TEXTS, ImageCaption, Reject, to_json_line, unforeseeable
from captionflow.core.steps import INGESTED
from captionflow.core.uris import resolve
from captionflow.sources.opening import Source, open_source
from captionflow.sources.parameters import IngestParameters
from captionflow.sources.rows import STAGE

_REJECTS = "rejects.jsonl"
_MAX_BYTES_OF_A_CHARACTER = 4
_LONGEST_DETAIL = 500
_FREE_REJECT_BYTES = 64 << 20
_REJECT_BYTES_PER_BYTE = 20


def ingest(output: str, parameters: IngestParameters) -> str:
    """Read all sources, in order, and commit the artifact at `output`; returns its URI.

    Counts in the manifest: `captions` read, kept and rejected (read = kept + rejected), distinct
    `images` kept, and `rejected` by reason; `rejects_not_written` if there were so many that the file holds not all.

    Raises:
        InvalidInputError: no source is given, or one cannot be read.
        StepFailedError: more than `max_reject_ratio` of the rows were rejected, or there were none.
    """
    roots = _image_roots(parameters)
    with ExitStack() as stack:
        sources = [stack.enter_context(open_source(uri, parameters)) for uri in parameters.sources]
        _check_apart(sources, resolve(output))
        draft = begin(output, INGESTED, parameters.to_json(), [source.parent for source in sources])
        read, rejected, images = 0, Counter[str](), set[bytes]()
        room, left_out = _reject_bytes(sources), 0
        with draft.output(CAPTIONS) as kept, draft.output(_REJECTS) as dropped:
            rows = _short(_read_all(sources, parameters, roots), parameters.max_text_bytes)
            rows = _consistent(rows, parameters.max_captions)
            for record in tqdm(rows, "ingest", unit=" captions", disable=None):
                read += 1
                if isinstance(record, Reject):
                    rejected[record.reason] += 1
                    line = to_json_line(record)
                    if len(line) > room:
                        left_out += 1
                        continue
                    room -= dropped.write(line)
                else:
                    images.add(unforeseeable(record.image_id))
                    kept.write(to_json_line(record))
        _check_rejects(read, rejected, parameters.max_reject_ratio, f"{draft.uri}/{_REJECTS}")
        captions = {"in": read, "out": read - rejected.total(), "rejected": rejected.total()}
        counts = {"captions": captions, "images": len(images), "rejected": dict(sorted(rejected.items()))}
        # Counted all the same.
        unwritten = {"rejects_not_written": left_out} if left_out else {}
        draft.commit([kept.info, dropped.info], counts={**counts, **unwritten})
    return draft.uri


def _check_apart(sources: list[Source], output: str) -> None:
    for source in sources:
        if source.uri == output or source.uri.startswith(f"{output}/"):
            raise InvalidInputError(f"--output: {output} holds the source {source.uri}; choose another folder")


def _reject_bytes(sources: list[Source]) -> int:
    """Return how long the file of rejects may get: of two bytes that unpack to many rows it would be endless."""
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
    sources: list[Source], parameters: IngestParameters, roots: list[str | None]
) -> Iterator[ImageCaption | Reject]:
    for source, root in zip(sources, roots, strict=True):
        yield from source.read(parameters, root)


def _short(records: Iterator[ImageCaption | Reject], max_bytes: int) -> Iterator[ImageCaption | Reject]:
    """Reject what no later step should have to hold: an endless caption, URL, name or licence."""
    for record in records:
        if isinstance(record, ImageCaption) and (name := _too_long(record, max_bytes)):
            detail = f"{name} is longer than {max_bytes} bytes (--max-text-bytes)"
            yield Reject(STAGE, "text_too_long", detail, record.id, record.image_id)
        elif isinstance(record, Reject) and len(record.detail) + len(record.image_url or "") > max_bytes:
            # Of one image's endless URL there may be as many as it has captions.
            yield replace(record, detail=record.detail[:_LONGEST_DETAIL], image_url=None)
        else:
            yield record


def _too_long(record: ImageCaption, max_bytes: int) -> str | None:
    for name in TEXTS:
        text = getattr(record, name)
        # A character takes one byte or more; most rows need no encoding to be judged.
        if len(text) * _MAX_BYTES_OF_A_CHARACTER > max_bytes and len(text.encode()) > max_bytes:
            return name
    return None


def _consistent(records: Iterator[ImageCaption | Reject], max_captions: int) -> Iterator[ImageCaption | Reject]:
    """Reject a caption whose id was seen before, whose image had another URL before, or has captions enough.

    An image's URL, name and licence are repeated in each of its captions, and a batch of the training is as wide as the
    image with the most of them.
    """
    seen, url_hashes, counts = set[bytes](), dict[bytes, int](), Counter[bytes]()
    for record in records:
        if isinstance(record, ImageCaption):
            id_, image_id, url_hash = unforeseeable(record.id), unforeseeable(record.image_id), hash(record.image_url)
            if id_ in seen:
                yield Reject.of(record, STAGE, "duplicate_id", f"an earlier caption has the id {record.id}")
                continue
            if url_hashes.setdefault(image_id, url_hash) != url_hash:
                detail = f"an earlier caption has another URL for image {record.image_id}"
                yield Reject.of(record, STAGE, "conflicting_image", detail)
                continue
            if counts[image_id] == max_captions:
                detail = f"image {record.image_id} has more than {max_captions} captions (--max-captions)"
                yield Reject(STAGE, "too_many_captions", detail, record.id, record.image_id)
                continue
            counts[image_id] += 1
            seen.add(id_)
        yield record


def _check_rejects(read: int, rejected: Counter[str], max_ratio: float, where: str) -> None:
    if read == 0:
        raise StepFailedError("the sources hold no captions")
    if rejected.total() == read or rejected.total() > max_ratio * read:
        reasons = ", ".join(f"{reason} {count}" for reason, count in rejected.most_common())
        raise StepFailedError(
            f"{rejected.total()} of {read} rows were rejected ({reasons}), see {where}; "
            f"--max-reject-ratio allows {max_ratio:g}"
        )
