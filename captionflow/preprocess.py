"""Preprocess: what becomes of a caption on its way to a shard, free of Beam.

`beam_jobs.preprocess` wires this into a pipeline; `captionflow.shard_writer` is its other half.
"""

from collections import Counter
from dataclasses import asdict, replace
from datetime import datetime

from captionflow.artifacts import Draft, Manifest, Parent, now
from captionflow.captions import clean_caption
from captionflow.errors import StepFailedError
from captionflow.records import ImageCaption, RecordError, Reject, to_json_line
from captionflow.reuse import Earlier
from captionflow.shards import PROGRESS, REJECTS, Layout, ShardInfo

Record = ImageCaption | Reject

_TAGS: dict[bytes, type[ImageCaption | Reject | Earlier]] = {b"C": ImageCaption, b"R": Reject, b"E": Earlier}
_TAG_OF = {kind: tag for tag, kind in _TAGS.items()}


def parse(line: bytes) -> Record:
    """Read one line of `captions.jsonl`."""
    try:
        return ImageCaption.from_json(line)
    except RecordError as error:
        return Reject("read", error.reason, str(error))


def license_key(name: str) -> str:
    """Return the form in which licence names are compared: COCO says 'Attribution License', people 'attribution'."""
    return name.strip().casefold().removesuffix("license").strip()


def filter_license(record: Record, allowed: frozenset[str]) -> Record:
    """Keep a caption if the licence of its image is allowed."""
    if isinstance(record, Reject) or "*" in allowed or license_key(record.image_license) in allowed:
        return record
    return Reject.of(record, "licenses", "license_not_allowed", record.image_license)


def clean(record: Record) -> Record:
    """Clean a caption's text."""
    if isinstance(record, Reject):
        return record
    text = clean_caption(record.caption)
    if not text:
        return Reject.of(record, "captions", "empty_caption", "nothing is left after cleaning")
    return replace(record, caption=text)


def assign_shard(record: Record | Earlier, layout: Layout) -> tuple[tuple[str, int, int], bytes]:
    """Key a record by its shard and pack it for the shuffle; its first byte tells what it is."""
    key = layout.assign(record.image_id)
    return (key.split, key.index, key.count), _TAG_OF[type(record)] + to_json_line(record)


def unpack(packed: bytes) -> Record | Earlier:
    """Undo the packing of `assign_shard`."""
    return _TAGS[packed[:1]].from_json(packed[1:])


def commit(infos: list[ShardInfo], draft: Draft, captions: int, reused: Parent | None = None) -> str:
    """Write the manifest of the preprocessed artifact; returns its URI.

    Args:
        captions: how many were to arrive.
        reused: the earlier artifact that pictures were taken from. The result does not depend on it,
            so it is told in the manifest's `run` section and is no parent.

    Raises:
        StepFailedError: a caption is unaccounted for, or no image is left.
    """
    counts, rejected, splits, effort = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    for info in infos:
        counts.update(info.counts)
        rejected.update(info.rejected)
        effort.update(info.effort)
        splits[info.split] += info.counts["images_out"]
    if counts["captions_in"] != captions or captions != counts["captions_out"] + rejected.total():
        raise StepFailedError(
            f"of {captions} captions {counts['captions_in']} arrived: the input changed under the job"
        )
    if not counts["images_out"]:
        # All shards are done, but trying again shall fetch again.
        draft.remove(PROGRESS)
        reasons = ", ".join(f"{reason} {count}" for reason, count in rejected.most_common())
        raise StepFailedError(f"no image is left; captions rejected: {reasons}; see {draft.uri}/{REJECTS}")
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
            **effort,
            "reused": asdict(reused) if reused else None,
            "seconds": seconds,
            "images_per_second": round((counts["images_in"] - effort["images_resumed"]) / max(1.0, seconds), 1),
        },
    )
    return draft.uri


def summary(manifest: Manifest) -> list[str]:
    """Return how the job went: a line for the whole and one for the rejects, if there are any."""
    images, run, rejected = manifest.counts["images"], manifest.run, Counter(manifest.counts["rejected"])
    lines = [
        f"{images['in']} images seen, {images['out']} kept, {run['images_reused']} of them reused, "
        f"{run['images_resumed']} done by an attempt that broke off; {run['fetched_bytes'] / 1e6:.1f} MB fetched "
        f"in {run['seconds']:.0f} s, {run['images_per_second']} images/s"
    ]
    if rejected:
        reasons = ", ".join(f"{reason} {count}" for reason, count in rejected.most_common())
        lines.append(f"{rejected.total()} captions rejected: {reasons}")
    return lines
