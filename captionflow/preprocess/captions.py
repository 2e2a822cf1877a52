"""Captions on their way to a shard, and the commit of all shards, free of Beam.

`beam_jobs.transforms` wires these functions into a pipeline; `captionflow.preprocess.writer` writes the shards.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime
from typing import Any

from captionflow.core.draft import Draft, now
from captionflow.core.errors import InvalidInputError, StepFailedError
from captionflow.core.manifest import Manifest, Parent
from captionflow.core.records import ImageCaption, RecordError, Reject, to_json_line
from captionflow.core.shards import REJECTS
from captionflow.preprocess.filters import CleanedCaption, Record, apply_all
from captionflow.preprocess.parameters import PreprocessParameters
from captionflow.preprocess.reuse import Earlier
from captionflow.preprocess.shards import PROGRESS, Layout, ShardInfo

# A split with this expected number of images is empty once in 10^21 times.
_SURELY_SOME = 50

_TAGS: dict[bytes, type[Any]] = {b"C": CleanedCaption, b"R": Reject, b"E": Earlier}
_TAG_OF = {kind: tag for tag, kind in _TAGS.items()}


def parse(line: bytes) -> Record:
    """Read one line of `captions.jsonl`."""
    try:
        return ImageCaption.from_json(line)
    except RecordError as error:
        return Reject("read", error.reason, str(error))


def check_splits(lines: Iterable[bytes], layout: Layout, parameters: PreprocessParameters) -> None:
    """Refuse, before anything is fetched, a split that is to have images and would get none.

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
    """Write the manifest of the preprocessed artifact; returns its URI.

    Args:
        layout: the one by which the shards were written.
        captions: how many were ingested.
        reused: the earlier artifact that pictures were taken from. The result does not depend on it,
            so it stands in the manifest's `run` section and is no parent.

    Raises:
        StepFailedError: a caption is unaccounted for, or no image is left.
    """
    counts, rejected, splits, run_counts = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    for info in infos:
        counts.update(info.counts)
        rejected.update(info.rejected)
        run_counts.update(info.run_counts)
        splits[info.split] += info.counts["images_out"]
    if counts["captions_in"] != captions or captions != counts["captions_out"] + rejected.total():
        raise StepFailedError(
            f"of {captions} captions {counts['captions_in']} arrived: the input changed under the job"
        )
    if problem := _missing_images(splits, rejected, layout):
        # So that another run fetches again, and does not resume from these shards.
        draft.remove(PROGRESS)
        raise StepFailedError(f"{problem}; see {draft.uri}/{REJECTS}")
    seconds = (datetime.fromisoformat(now()) - datetime.fromisoformat(draft.started_at)).total_seconds()
    draft.commit(
        [file for info in infos for file in info.files],
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


def _missing_images(splits: Counter[str], rejected: Counter[str], layout: Layout) -> str:
    """Return what is wrong, and the remedy, if a split that is to have images has none; "" if all have some."""
    if not splits.total():
        reasons = ", ".join(f"{reason} {count}" for reason, count in rejected.most_common())
        remedy = "; open local files and hosts of your own with --allow-url-prefix" * ("url_not_allowed" in rejected)
        return f"no image is left; captions rejected: {reasons}{remedy}"
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
        reasons = ", ".join(f"{reason} {count}" for reason, count in rejected.most_common())
        lines.append(f"{rejected.total()} captions rejected: {reasons}")
    return lines
