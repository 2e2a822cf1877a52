"""Write shards: fetch and process the images of each and put them into one file, in order.

Several shards are in work at a time, so that a slow image delays its own shard alone.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby

from captionflow.core.draft import Draft
from captionflow.core.manifest import FileInfo
from captionflow.core.records import REJECTS, Caption, Reject, Sample, to_json_line
from captionflow.core.shards import SHARD_FORMATS, write_shard
from captionflow.images.attempts import FetchError
from captionflow.images.decode import ImageError
from captionflow.images.filters import REASONS
from captionflow.images.thumbnails import Thumbnails
from captionflow.preprocess.captions import unpack
from captionflow.preprocess.download import Download, Downloader
from captionflow.preprocess.filters import STAGE, CleanedCaption
from captionflow.preprocess.parameters import PreprocessParameters
from captionflow.preprocess.reuse import Earlier
from captionflow.preprocess.scoring import BATCH, Scoring
from captionflow.preprocess.shards import FAILURES, IMAGES, ShardInfo, ShardKey, StoredPicture, sidecar_of
from captionflow.preprocess.survey import Survey

# Shards that a process has in work.
SHARDS_AT_ONCE = 4
# Images fetched ahead of the one being written, per fetching thread and shard; it bounds memory.
_LOOK_AHEAD = 8


@dataclass(frozen=True)
class ShardTask:
    """A shard to write: its records as `captions.assign_shard` packs them."""

    draft: Draft
    key: ShardKey
    packed: list[bytes]


class ShardWriter:
    """Writes shards with one pool of fetching threads.

    Args:
        earlier: URI of an earlier preprocessed artifact to take pictures from.
        on_image: called for each image that is done, with whether it was kept.
    """

    def __init__(self, parameters: PreprocessParameters, earlier: str | None, on_image: Callable[[bool], None]) -> None:
        self._parameters, self._on_image = parameters, on_image
        self._downloader = Downloader(parameters, earlier)
        self._thumbnails = Thumbnails(parameters)
        self._scoring = Scoring(parameters)
        self._threads = ThreadPoolExecutor(SHARDS_AT_ONCE, "shard")

    def submit(self, task: ShardTask) -> "Future[ShardInfo | None]":
        """Begin with a shard; the future holds its ShardInfo, or None if it has no images."""
        return self._threads.submit(self._write, task)

    def _write(self, task: ShardTask) -> ShardInfo | None:
        """Write the two files of a shard, samples and rejects; each is whole or absent.

        Nothing is done if an unfinished attempt of the same job wrote both, and they are unchanged.
        """
        draft, name = task.draft, task.key.name
        if info := _info_of_earlier_attempt(draft, sidecar_of(name)):
            return replace(info, run_counts={**info.run_counts, "images_resumed": info.counts["images_in"]})
        images = _group_by_image(map(unpack, task.packed))
        if not images:
            return None
        tally = _Tally(self._parameters, Survey(task.key, self._thumbnails))

        def samples() -> Iterator[Sample]:
            for image in self._scored(self._download(images)):
                tally.add(image)
                self._on_image(image.sample is not None)
                for reject in image.rejects:
                    reject_file.write(to_json_line(reject))
                if image.sample:
                    yield image.sample

        suffix = SHARD_FORMATS[self._parameters.output_format].suffix
        with draft.output(f"{name}{suffix}") as shard, draft.output(f"{REJECTS}/{name}.jsonl") as reject_file:
            write_shard(shard, name, samples(), self._parameters)
        info = tally.info(task.key.split, (shard.info, reject_file.info))
        draft.put(sidecar_of(name), info.to_json())
        return info

    def _download(self, images: list["_Image"]) -> Iterator["_Image"]:
        """Yield the images in their order, each with its picture or its rejects, a bounded number ahead."""
        ahead: deque[tuple[_Image, Future[Download] | None]] = deque()
        for image in images:
            download = None
            if image.captions:
                download = self._downloader.submit(image.captions[0].image_url, image.earlier)
            ahead.append((image, download))
            if len(ahead) > self._parameters.fetch_concurrency * _LOOK_AHEAD:
                yield _completed(*ahead.popleft())
        while ahead:
            yield _completed(*ahead.popleft())

    def _scored(self, images: Iterator["_Image"]) -> Iterator["_Image"]:
        """Yield the images in their order, those that were kept with their scores, or with rejects in their place."""
        if not self._scoring:
            yield from images
            return
        waiting: list[_Image] = []
        pictures = 0
        for image in images:
            waiting.append(image)
            pictures += image.sample is not None
            if pictures == BATCH:
                yield from self._score(waiting)
                waiting, pictures = [], 0
        yield from self._score(waiting)

    def _score(self, images: list["_Image"]) -> list["_Image"]:
        kept = {i: image.sample for i, image in enumerate(images) if image.sample}
        for (i, sample), scores in zip(kept.items(), self._scoring.score([*kept.values()]), strict=True):
            if isinstance(scores, ImageError):
                images[i].reject(IMAGES, scores.reason, str(scores))
            elif refused := self._scoring.refusal(scores):
                images[i].reject(STAGE, *refused)
            else:
                images[i].sample = replace(sample, scores=scores)
        return images


@dataclass
class _Image:
    """One image: its captions, and its sample or its rejects once they are known."""

    records: int
    captions: list[CleanedCaption]
    rejects: list[Reject]
    earlier: Earlier | None = None
    download: Download | None = None
    sample: Sample | None = None

    def reject(self, stage: str, reason: str, detail: str, *, retryable: bool = False) -> None:
        """Turn the captions into rejects."""
        self.sample = None
        self.rejects += [Reject.of(caption, stage, reason, detail, retryable=retryable) for caption in self.captions]

    def counts(self) -> dict[str, int]:
        """Contribution to the shard's counts. A line that could not be read belongs to no image."""
        return {
            "captions_in": self.records,
            "captions_out": len(self.sample.captions) if self.sample else 0,
            "images_in": int(self.sample is not None or self.rejects[0].image_id is not None),
            "images_out": int(self.sample is not None),
        }

    def run_counts(self) -> dict[str, int]:
        """Contribution to the shard's run_counts."""
        download = self.download or Download()
        return {"images_reused": int(download.is_reused), "images_resumed": 0, "fetched_bytes": download.fetched_bytes}


class _Tally:
    """What has become of a shard's images, added up."""

    def __init__(self, parameters: PreprocessParameters, survey: Survey) -> None:
        self._parameters, self._survey = parameters, survey
        self._counts, self._rejected, self._failed, self._run_counts = (Counter[str]() for _ in range(4))
        self._pictures: list[StoredPicture] = []

    def add(self, image: _Image) -> None:
        """Add an image that is done."""
        self._counts.update(image.counts())
        self._run_counts.update(image.run_counts())
        self._rejected.update(reject.reason for reject in image.rejects)
        self._failed.update(reject.reason for reject in image.rejects if reject.stage in FAILURES)
        self._survey.add(image.sample, image.rejects)
        if image.sample and self._parameters.duplicates != "none":
            with_captions = self._parameters.duplicate_captions == "join"
            self._pictures.append(StoredPicture.of(image.sample, with_captions=with_captions))

    def info(self, split: str, files: tuple[FileInfo, ...]) -> ShardInfo:
        """Return the sums."""
        return ShardInfo(
            split,
            dict(self._counts),
            dict(sorted(self._rejected.items())),
            dict(self._failed),
            files,
            dict(self._run_counts),
            self._survey.statistics(),
            tuple(self._pictures),
        )


def _info_of_earlier_attempt(draft: Draft, sidecar: str) -> ShardInfo | None:
    """Return the ShardInfo that an earlier attempt wrote, if the shard's files still agree with it."""
    # A power cut may leave half of the sidecar.
    with suppress(ValueError, KeyError, TypeError):
        info = ShardInfo.from_json(draft.read(sidecar) or b"")
        if all(draft.holds(file) for file in info.files):
            return info
    return None


def _completed(image: _Image, future: Future[Download] | None) -> _Image:
    """Wait for the picture and make the sample; without a picture, turn the captions into rejects."""
    if future is None:
        return image
    image.download = download = future.result()
    if download.picture is None:
        error = download.error
        assert error
        retryable = isinstance(error, FetchError) and error.retryable
        image.reject(STAGE if error.reason in REASONS else IMAGES, error.reason, str(error), retryable=retryable)
        return image
    first, picture = image.captions[0], download.picture
    image.sample = Sample(
        first.image_id,
        tuple(Caption(caption.id, caption.text, caption.caption) for caption in image.captions),
        picture.data,
        picture.height,
        picture.width,
        first.image_url,
        first.image_license,
        picture.original_height,
        picture.original_width,
        picture.perceptual_hash,
    )
    return image


def _group_by_image(records: Iterable[CleanedCaption | Reject | Earlier]) -> list[_Image]:
    """Return the images of the records in the order of their ids; those of an earlier run alone are left out."""
    fresh: list[CleanedCaption | Reject] = []
    earlier: dict[tuple[int, str], Earlier] = {}
    for record in records:
        if isinstance(record, Earlier):
            earlier[record.image_id, record.image_url] = record
        else:
            fresh.append(record)
    # Lines that could not be read have no ids: they make a group of their own, without captions.
    fresh.sort(key=lambda record: (record.image_id or 0, record.id or 0))
    images = []
    for _, group in groupby(fresh, key=lambda record: record.image_id):
        members = list(group)
        captions = [record for record in members if isinstance(record, CleanedCaption)]
        rejects = [record for record in members if isinstance(record, Reject)]
        same = (captions[0].image_id, captions[0].image_url) if captions else None
        images.append(_Image(len(members), captions, rejects, earlier.get(same) if same else None))
    return images
