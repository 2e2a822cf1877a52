"""Captions on their way to a shard, and the commit of all shards, free of Beam.

`beam_jobs.transforms` wires these functions into a pipeline; `captionflow.preprocess.writer` writes the shards.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime
from itertools import islice
from shlex import quote
from typing import Any

from captionflow.core.draft import Draft, now
from captionflow.core.errors import InvalidInputError, StepFailedError
from captionflow.core.manifest import Manifest, Parent
from captionflow.core.records import REJECTS, ImageCaption, RecordError, Reject, to_json_line
from captionflow.core.rejects import are_too_many, format_counts, too_many_rejected
from captionflow.preprocess.filters import CleanedCaption, Record, apply_all
from captionflow.preprocess.parameters import PreprocessParameters
from captionflow.preprocess.reuse import Earlier
from captionflow.preprocess.shards import PROGRESS, READ, Layout, ShardInfo
from captionflow.web.access import Access, prefix_for

# Captions by whose URLs is told whether the user forgot to open them.
_FIRST_CAPTIONS = 500
# A split with this expected number of images is empty once in 10^21 times.
_SURELY_SOME = 50

_TAGS: dict[bytes, type[Any]] = {b"C": CleanedCaption, b"R": Reject, b"E": Earlier}
_TAG_OF = {kind: tag for tag, kind in _TAGS.items()}


def parse(line: bytes) -> Record:
    """Read one line of `captions.jsonl`."""
    try:
        return ImageCaption.from_json(line)
    except RecordError as error:
        return Reject(READ, error.reason, str(error))


def check_access(lines: Iterable[bytes], parameters: PreprocessParameters) -> None:
    """Refuse, before anything is fetched, captions whose images nobody opened: most often they are local files.

    No name is looked up, so a host inside the network is found out only if its address is given.

    Args:
        lines: those of `captions.jsonl`, of which the first few hundred are read.

    Raises:
        InvalidInputError: of the images that would be fetched, more are not open than `max_reject_ratio` allows.
    """
    records = (apply_all(parse(line), parameters) for line in islice(lines, _FIRST_CAPTIONS))
    urls = [record.image_url for record in records if isinstance(record, ImageCaption)]
    access = Access.of(parameters)
    closed = [url for url in urls if not access.may_be_open(url)]
    if are_too_many(len(closed), len(urls), parameters.max_reject_ratio):
        raise InvalidInputError(
            f"--allow-url-prefix: of the first {len(urls)} captions {len(closed)} have an image that is not open, such "
            f"as {closed[0]}; add --allow-url-prefix {quote(prefix_for(closed))}"
        )


def check_splits(lines: Iterable[bytes], layout: Layout, parameters: PreprocessParameters) -> None:
    """Refuse, before anything is fetched, a split that is to have images and would get none.

    A split that only captions on many images would fill is found out by `commit`: to count them takes the whole job.

    Args:
        lines: those of `captions.jsonl`; read only where there are so few images that a split may be empty.

    Raises:
        InvalidInputError: no caption's image falls into a split.
    """
    if all(images >= _SURELY_SOME for images in layout.expected.values()):
        return
    records = (apply_all(parse(line), parameters) for line in lines)
    captions = (record for record in records if isinstance(record, ImageCaption))
    filled = {layout.assign(caption.image_id, caption.split).split for caption in captions}
    # Where no image is left at all, `commit` gives the reasons.
    if filled and (empty := [split for split in layout.expected if split not in filled]):
        raise InvalidInputError(
            f"--split: no image falls into {empty[0]}, whose share is {layout.share(empty[0]):.3g}; take more images, "
            "or give it a larger share (training needs train and val, evaluation needs test; 0 does without)"
        )


def assign_shard(record: Record | Earlier, layout: Layout) -> list[tuple[tuple[str, int, int], bytes]]:
    """Key a record by its shard and pack it for the shuffle; the first byte is its type.

    An Earlier knows no split of today's sources: it goes wherever its image can be.
    """
    packed = _TAG_OF[type(record)] + to_json_line(record)
    keys = (
        layout.places(record.image_id)
        if isinstance(record, Earlier)
        else [layout.assign(record.image_id, record.split)]
    )
    return [((key.split, key.index, key.count), packed) for key in keys]


def unpack(packed: bytes) -> CleanedCaption | Reject | Earlier:
    """Undo the packing of `assign_shard`."""
    record: CleanedCaption | Reject | Earlier = _TAGS[packed[:1]].from_json(packed[1:])
    return record


def commit(infos: list[ShardInfo], draft: Draft, layout: Layout, captions: int, reused: Parent | None = None) -> str:
    """Write the page, the metadata and the manifest of the preprocessed artifact; returns its URI.

    Args:
        layout: the one by which the shards were written.
        captions: how many were ingested.
        reused: the earlier artifact that pictures were taken from. The result does not depend on it,
            so it stands in the manifest's `run` section and is no parent.

    Raises:
        StepFailedError: a caption is unaccounted for, no image is left in a split that is to have some, or more
            captions failed than `max_reject_ratio` allows. The rejects stay in the draft.
    """
    counts, rejected, failed, splits, run_counts = (Counter[str]() for _ in range(5))
    for info in infos:
        counts.update(info.counts)
        rejected.update(info.rejected)
        failed.update(info.failed)
        run_counts.update(info.run_counts)
        splits[info.split] += info.counts["images_out"]
    if counts["captions_in"] != captions or captions != counts["captions_out"] + rejected.total():
        raise StepFailedError(
            f"of {captions} captions {counts['captions_in']} arrived: the input changed under the job"
        )
    max_ratio = PreprocessParameters.from_mapping(draft.parameters).max_reject_ratio
    if problem := (
        _no_image(splits, rejected)
        or too_many_rejected(
            failed, counts["captions_out"] + failed.total(), max_ratio, "captions that no rule leaves out"
        )
        or _empty_split(splits, layout)
    ):
        # So that another run fetches again, and does not resume from these shards.
        draft.remove(PROGRESS)
        remedy = "; open local files and hosts of your own with --allow-url-prefix" * ("url_not_allowed" in failed)
        raise StepFailedError(f"{problem}{remedy}; see {draft.uri}/{REJECTS}, or `captionflow rejects {draft.uri}`")
    # Imported here, as every worker imports this module.
    from captionflow.preprocess.description import describe

    described = describe(draft, infos)
    seconds = (datetime.fromisoformat(now()) - datetime.fromisoformat(draft.started_at)).total_seconds()
    draft.commit(
        [*described, *(file for info in infos for file in info.files)],
        counts={
            "captions": {"in": captions, "out": counts["captions_out"], "rejected": rejected.total()},
            "images": {
                "in": counts["images_in"],
                "out": counts["images_out"],
                "rejected": counts["images_in"] - counts["images_out"],
            },
            "splits": {split: splits[split] for split in sorted(splits)},
            "rejected": dict(sorted(rejected.items())),
        },
        run={
            **run_counts,
            "reused": asdict(reused) if reused else None,
            "seconds": seconds,
            "images_per_second": round((counts["images_in"] - run_counts["images_resumed"]) / max(1.0, seconds), 1),
        },
    )
    return draft.uri


def _no_image(splits: Counter[str], rejected: Counter[str]) -> str:
    """Return what is wrong if no image is left; "" if some are."""
    return "" if splits.total() else f"no image is left; captions rejected: {format_counts(rejected)}"


def _empty_split(splits: Counter[str], layout: Layout) -> str:
    """Return what is wrong, and the remedy, if a split that is to have images has none; "" if all have some."""
    for split in layout.expected:
        if not splits[split]:
            return (
                f"no image is left in {split}, whose share (--split) is {layout.share(split):.3g}; take more images or "
                "give it another share"
            )
    return ""


def summary(manifest: Manifest) -> list[str]:
    """Return a line of counts and speed, and one of the rejects if there are any."""
    images, run, rejected = manifest.counts["images"], manifest.run, Counter(manifest.counts["rejected"])
    lines = [
        f"{images['in']} images seen, {images['out']} kept, {run['images_reused']} of them reused, "
        f"{run['images_resumed']} done by an earlier attempt; {run['fetched_bytes'] / 1e6:.1f} MB fetched "
        f"in {run['seconds']:.0f} s, {run['images_per_second']} images/s"
    ]
    if rejected:
        lines.append(f"{rejected.total()} captions rejected: {format_counts(rejected)}")
    return lines
