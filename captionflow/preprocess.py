"""Preprocess: the logic of the job, free of Beam. `beam_jobs.preprocess` wires it into a pipeline.

Only caption records travel between the functions here: an image is fetched, processed and written
inside one call of `write_shard`, so its bytes never cross a shuffle.
"""

import hashlib
import logging
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import Any

import fastavro

from captionflow.artifacts import Draft
from captionflow.captions import clean_caption
from captionflow.errors import StepFailedError
from captionflow.fetch import Fetcher, FetchError
from captionflow.images import ImageError, StoredImage, process
from captionflow.parameters import PreprocessParameters
from captionflow.records import Caption, ImageCaption, RecordError, Reject, Sample, to_json_line
from captionflow.shards import REJECTS, Layout, ShardInfo, ShardKey

Record = ImageCaption | Reject

# Where a finished shard's ShardInfo is kept until the manifest holds it, for an attempt that resumes.
_PROGRESS = "progress"
# Pictures in flight ahead of the one being written: enough to cover a slow one, and the bound on memory.
_LOOK_AHEAD = 4
_REPORT_SECONDS = 5.0

_LOG = logging.getLogger(__name__)


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


def assign_shard(record: Record, layout: Layout) -> tuple[tuple[str, int, int], bytes]:
    """Key a record by its shard and pack it for the shuffle; its first byte tells a caption from a Reject."""
    key = layout.assign(record.image_id)
    tag = b"C" if isinstance(record, ImageCaption) else b"R"
    return (key.split, key.index, key.count), tag + to_json_line(record)


def unpack(packed: bytes) -> Record:
    """Undo the packing of `assign_shard`."""
    return (ImageCaption if packed[:1] == b"C" else Reject).from_json(packed[1:])


def write_shard(
    draft: Draft,
    key: ShardKey,
    records: Iterable[Record],
    parameters: PreprocessParameters,
    fetcher: Fetcher,
) -> ShardInfo:
    """Fetch and process the images of one shard and write its two files, samples and rejects.

    Both files are whole or absent. If an unfinished attempt of the same job already wrote them,
    nothing is done.
    """
    progress = f"{_PROGRESS}/{key.name}.json"
    if done := draft.read(progress):
        return ShardInfo.from_json(done)
    tally = Counter[str]()
    rejected = Counter[str]()

    def outcomes() -> Iterator[dict[str, Any]]:
        report_at = time.monotonic() + _REPORT_SECONDS
        for image in _process_images(records, parameters, fetcher):
            tally.update(image.counts())
            if time.monotonic() >= report_at:
                _LOG.info("%s: %d images so far, %d kept", key.name, tally["images_in"], tally["images_out"])
                report_at += _REPORT_SECONDS
            rejected.update(reject.reason for reject in image.rejects)
            for reject in image.rejects:
                reject_file.write(to_json_line(reject))
            if image.sample:
                yield asdict(image.sample)

    with draft.output(f"{key.name}.avro") as shard_file, draft.output(f"{REJECTS}/{key.name}.jsonl") as reject_file:
        fastavro.writer(
            shard_file,  # type: ignore[arg-type]
            Sample.AVRO_SCHEMA,
            outcomes(),
            codec=parameters.avro_codec,
            sync_marker=hashlib.blake2b(key.name.encode(), digest_size=16).digest(),
        )
    info = ShardInfo(key.split, dict(tally), dict(sorted(rejected.items())), (shard_file.info, reject_file.info))
    draft.put(progress, info.to_json())
    _LOG.info("%s: done, %d images of %d kept", key.name, tally["images_out"], tally["images_in"])
    return info


def commit(infos: list[ShardInfo], draft: Draft, captions: int) -> str:
    """Write the manifest of the preprocessed artifact; returns its URI.

    Raises:
        StepFailedError: a caption is unaccounted for, or no image is left.
    """
    counts, rejected, splits = Counter[str](), Counter[str](), Counter[str]()
    for info in infos:
        counts.update(info.counts)
        rejected.update(info.rejected)
        splits[info.split] += info.counts["images_out"]
    if counts["captions_in"] != captions or captions != counts["captions_out"] + rejected.total():
        raise StepFailedError(
            f"of {captions} captions {counts['captions_in']} arrived: the input changed under the job"
        )
    if not counts["images_out"]:
        # All shards are done, but trying again shall fetch again.
        draft.remove(_PROGRESS)
        reasons = ", ".join(f"{reason} {count}" for reason, count in rejected.most_common())
        raise StepFailedError(f"no image is left; captions rejected: {reasons}; see {draft.uri}/{REJECTS}")
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
    )
    return draft.uri


@dataclass
class _Image:
    """What became of one image: a sample, or none, and its dropped captions."""

    records: int
    captions: list[ImageCaption]
    rejects: list[Reject]
    sample: Sample | None = None

    def counts(self) -> dict[str, int]:
        """Contribution to the shard's tally. A line that could not be read belongs to no image."""
        return {
            "captions_in": self.records,
            "captions_out": len(self.sample.captions) if self.sample else 0,
            "images_in": int(self.sample is not None or self.rejects[0].image_id is not None),
            "images_out": int(self.sample is not None),
        }

    def finish(self, picture: Future[StoredImage]) -> "_Image":
        """Take the picture, or turn the captions into rejects."""
        try:
            stored = picture.result()
        except (FetchError, ImageError) as error:
            retryable = isinstance(error, FetchError) and error.retryable
            self.rejects += [
                Reject.of(caption, "images", error.reason, str(error), retryable=retryable) for caption in self.captions
            ]
            return self
        first = self.captions[0]
        self.sample = Sample(
            first.image_id,
            tuple(Caption(caption.id, caption.caption) for caption in self.captions),
            stored.data,
            stored.height,
            stored.width,
            first.image_url,
            first.image_license,
        )
        return self


def _process_images(records: Iterable[Record], parameters: PreprocessParameters, fetcher: Fetcher) -> Iterator[_Image]:
    """Yield the images in the order of their ids, fetching and processing a bounded number ahead."""
    ahead: deque[tuple[_Image, Future[StoredImage] | None]] = deque()
    with ThreadPoolExecutor(parameters.fetch_concurrency) as pool:
        for image in _group_by_image(records):
            picture = None
            if image.captions:
                picture = pool.submit(_fetch_and_process, image.captions[0].image_url, parameters, fetcher)
            ahead.append((image, picture))
            if len(ahead) > parameters.fetch_concurrency * _LOOK_AHEAD:
                yield _wait(*ahead.popleft())
        while ahead:
            yield _wait(*ahead.popleft())


def _wait(image: _Image, picture: Future[StoredImage] | None) -> _Image:
    return image.finish(picture) if picture else image


def _group_by_image(records: Iterable[Record]) -> Iterator[_Image]:
    # Lines that could not be read have no ids: they make a group of their own, without captions.
    ordered = sorted(records, key=lambda record: (record.image_id or 0, record.id or 0))
    for _, group in groupby(ordered, key=lambda record: record.image_id):
        members = list(group)
        yield _Image(
            len(members),
            [record for record in members if isinstance(record, ImageCaption)],
            [record for record in members if isinstance(record, Reject)],
        )


def _fetch_and_process(url: str, parameters: PreprocessParameters, fetcher: Fetcher) -> StoredImage:
    return process(fetcher.fetch(url), parameters)
