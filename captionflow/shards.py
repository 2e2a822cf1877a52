"""Shards: which shard an image belongs to, and how one is written and read.

A shard's bytes depend on its captions and on the parameters alone: records in the order of
image_id, a sync marker made from the shard's name, no clock and no host in the file.
"""

import hashlib
import json
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import IO, Any

import fastavro

from captionflow.artifacts import Draft, FileInfo
from captionflow.fetch import Fetcher, FetchError
from captionflow.images import ImageError, StoredImage, process
from captionflow.parameters import PreprocessParameters
from captionflow.records import Caption, ImageCaption, Reject, Sample, to_json_line

KIND = "preprocessed"
SPLITS = ("train", "val", "test")
REJECTS = "rejects"
_PROGRESS = "progress"
_STAGE = "images"
_MEGABYTE = 1_000_000
# A shard is the unit of work: enough of them to keep many workers busy, none so small that it
# is all overhead.
_IMAGES_PER_SHARD = 256
_MAX_SHARDS_FOR_BALANCE = 64
# Bytes of an encoded picture per byte of raw pixels, seen on COCO photographs at 224 pixels.
_COMPRESSION = {"jpeg": 0.15, "png": 0.7, "tensor": 1.0}
# Pictures in flight ahead of the one being written: enough to cover a slow one, and the bound on memory.
_LOOK_AHEAD = 4


@dataclass(frozen=True)
class ShardKey:
    """A shard of a split. The order of keys is that of their names."""

    split: str
    index: int
    count: int

    @property
    def name(self) -> str:
        """Path of the shard within its artifact, without the ending."""
        return f"{self.split}/{self.index:05d}-of-{self.count:05d}"


@dataclass(frozen=True)
class Layout:
    """How many shards each split has, and the shares of the splits."""

    fractions: tuple[float, float, float]
    counts: tuple[int, int, int]

    @classmethod
    def plan(cls, images: int, parameters: PreprocessParameters) -> "Layout":
        """Choose the number of shards for a number of images."""
        raw_bytes = 3 * parameters.image_size**2
        image_bytes = raw_bytes * _COMPRESSION[parameters.image_format]
        by_size = max(1.0, parameters.shard_megabytes * _MEGABYTE / image_bytes)
        fractions = parameters.split_fractions
        counts = [
            max(1, round(share * images / by_size), min(round(share * images / _IMAGES_PER_SHARD), _MAX_SHARDS_FOR_BALANCE))
            for share in fractions
        ]
        return cls(fractions, (counts[0], counts[1], counts[2]))

    def assign(self, image_id: int | None) -> ShardKey:
        """Return the shard of an image, chosen by a hash of its id: all its captions go there."""
        digest = hashlib.blake2b(str(image_id).encode(), digest_size=16).digest()
        place = int.from_bytes(digest[:8], "big") / 2**64
        train, val, _ = self.fractions
        split = 0 if place < train else 1 if place < train + val else 2
        count = self.counts[split]
        return ShardKey(SPLITS[split], int.from_bytes(digest[8:], "big") % count, count)


@dataclass(frozen=True)
class ShardInfo:
    """What came of one shard.

    `counts` holds captions_in, captions_out, images_in and images_out; `rejected` the captions
    dropped, by reason. captions_in = captions_out + the sum of `rejected`, always.
    """

    split: str
    counts: dict[str, int]
    rejected: dict[str, int]
    files: tuple[FileInfo, ...]

    @classmethod
    def from_json(cls, data: bytes) -> "ShardInfo":
        """Read what `to_json` wrote."""
        values = json.loads(data)
        return cls(**{**values, "files": tuple(FileInfo(**file) for file in values["files"])})

    def to_json(self) -> bytes:
        """Return the info as JSON."""
        return json.dumps(asdict(self)).encode()


def write_shard(
    draft: Draft,
    key: ShardKey,
    records: Iterable[ImageCaption | Reject],
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
        for image in _process_images(records, parameters, fetcher):
            tally.update(image.counts())
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
    return info


def read_shard(file: IO[bytes]) -> Iterator[Sample]:
    """Yield the samples of an open shard, in the order of image_id."""
    for record in fastavro.reader(file, Sample.AVRO_SCHEMA):
        yield Sample.from_avro(record)  # type: ignore[arg-type]


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
                Reject.of(caption, _STAGE, error.reason, str(error), retryable=retryable) for caption in self.captions
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


def _process_images(
    records: Iterable[ImageCaption | Reject], parameters: PreprocessParameters, fetcher: Fetcher
) -> Iterator[_Image]:
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


def _group_by_image(records: Iterable[ImageCaption | Reject]) -> Iterator[_Image]:
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
