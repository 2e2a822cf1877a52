"""Shards: which one an image belongs to, and what was written into it.

A shard's bytes depend on its captions and on the parameters alone: records in the order of
image_id, a sync marker made from the shard's name, no clock and no host in the file.
"""

import hashlib
import json
from bisect import bisect
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from itertools import accumulate

from captionflow.core.manifest import FileInfo
from captionflow.core.records import SPLITS, Sample
from captionflow.images.formats import IMAGE_FORMATS
from captionflow.preprocess.parameters import PreprocessParameters
from captionflow.preprocess.statistics import Statistics

PROGRESS = "progress"
"""The folder of a draft that holds what an attempt that resumes needs; no artifact has it."""

READ, IMAGES = "read", "images"
FAILURES = (READ, IMAGES)
"""The stages at which a caption fails: its line cannot be read, or its image cannot be had. What is rejected at any
other stage is left out on purpose, by a rule."""

_MEGABYTE = 1_000_000
# A shard is the unit of work: many keep many workers busy, and very small ones cost more than they hold.
_IMAGES_PER_SHARD = 256
_MAX_SHARDS_FOR_BALANCE = 64


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

    @classmethod
    def of_name(cls, name: str) -> "ShardKey":
        """Return the key of a shard's `name`."""
        split, _, numbers = name.partition("/")
        index, _, count = numbers.partition("-of-")
        return cls(split, int(index), int(count))


def sidecar_of(name: str) -> str:
    """Return the path of the file that holds a shard's ShardInfo until the manifest does, for a later attempt."""
    return f"{PROGRESS}/{name}.json"


@dataclass(frozen=True)
class Layout:
    """How many shards each split has, and the shares of the splits.

    Args:
        shares: of the images whose source gives no split, in the order of `SPLITS`.
        expected: split → images, of those that are to have some.
        counts: split → shards.
        choices: what sources give as an image's split, as in `ImageCaption`.
    """

    shares: tuple[float, float, float]
    expected: dict[str, float]
    counts: dict[str, int]
    choices: tuple[str | None, ...]

    @classmethod
    def plan(cls, images: Mapping[str | None, int], parameters: PreprocessParameters) -> "Layout":
        """Choose the number of shards.

        Args:
            images: their number by the split that their sources give, as in `ImageCaption`.
        """
        raw_bytes = 3 * parameters.image_size**2
        image_bytes = raw_bytes * IMAGE_FORMATS[parameters.image_format].compression
        by_size = max(1.0, parameters.shard_megabytes * _MEGABYTE / image_bytes)
        shares = parameters.split_fractions
        expected = dict.fromkeys(SPLITS, 0.0)
        for choice, number in images.items():
            for split, share in _shares_of(choice, shares).items():
                expected[split] += share * number
        counts = {
            split: max(
                1,
                round(number / by_size),
                min(round(number / _IMAGES_PER_SHARD), _MAX_SHARDS_FOR_BALANCE),
            )
            for split, number in expected.items()
        }
        return cls(shares, {split: number for split, number in expected.items() if number}, counts, tuple(images))

    def share(self, split: str) -> float:
        """Return the share of all images that a split is to have."""
        return self.expected[split] / sum(self.expected.values())

    def assign(self, image_id: int | None, choice: str | None = None) -> ShardKey:
        """Return the shard of an image, chosen by a hash of its id: all its captions go there.

        Args:
            choice: the split that the image's source gives, as in `ImageCaption`.
        """
        digest = hashlib.blake2b(str(image_id).encode(), digest_size=16).digest()
        splits, shares = zip(*_shares_of(choice, self.shares).items(), strict=True)
        # The last has no end: rounded sums may be a little below 1.
        split = splits[bisect([*accumulate(shares[:-1])], int.from_bytes(digest[:8], "big") / 2**64)]
        count = self.counts[split]
        return ShardKey(split, int.from_bytes(digest[8:], "big") % count, count)

    def places(self, image_id: int) -> list[ShardKey]:
        """Return the shards that an image can be in, whatever split its source gives."""
        return list(dict.fromkeys(self.assign(image_id, choice) for choice in self.choices))


@cache
def _shares_of(choice: str | None, shares: tuple[float, float, float]) -> dict[str, float]:
    """Return split → share of the images with a choice, which add up to 1."""
    splits = choice.split("+") if choice else SPLITS
    chosen = {split: share for split, share in zip(SPLITS, shares, strict=True) if split in splits and share}
    chosen = chosen or dict.fromkeys(splits, 1.0)  # where --split gives none of them a share
    return {split: share / sum(chosen.values()) for split, share in chosen.items()}


@dataclass(frozen=True, slots=True)
class StoredPicture:
    """What tells whether a picture in a shard is the same as another.

    Args:
        sha256: of its stored bytes, in hex.
        perceptual_hash: as in `Sample`, in hex; "" if there is none.
        captions: those to give to another picture, each with id, text and raw.
    """

    image_id: int
    sha256: str
    perceptual_hash: str
    captions: tuple[tuple[int, str, str], ...] = ()

    @classmethod
    def of(cls, sample: Sample, *, with_captions: bool = False) -> "StoredPicture":
        """Return that of a sample."""
        captions = tuple((each.id, each.text, each.raw) for each in sample.captions if with_captions)
        digest = hashlib.sha256(sample.image).hexdigest()
        return cls(sample.image_id, digest, sample.perceptual_hash.hex(), captions)


@dataclass(frozen=True, slots=True)
class DuplicateExample:
    """A picture of a group of duplicates, to be looked at.

    Args:
        group: number of the group.
        stays: whether it is the one that stays.
        image: a thumbnail of the picture, in base64; "" if none could be made.
    """

    group: int
    image_id: int
    split: str
    stays: bool
    image: str


@dataclass(frozen=True)
class ShardInfo:
    """What was written for one shard.

    `counts` holds captions_in, captions_out, images_in and images_out; `rejected` the captions
    dropped, by reason, and `failed` those of them that no rule left out. captions_in = captions_out + the
    sum of `rejected`, always. `run_counts` holds what differs between equal runs: images_reused,
    images_resumed and fetched_bytes. `statistics` is for the dataset's page. `pictures` holds those that were written,
    if duplicates are to be found; `revision` tells which of them have been left out since, and is "" before; `examples`
    are pictures of a few groups.
    """

    split: str
    counts: dict[str, int]
    rejected: dict[str, int]
    failed: dict[str, int]
    files: tuple[FileInfo, ...]
    run_counts: dict[str, int]
    statistics: Statistics = field(default_factory=Statistics)
    pictures: tuple[StoredPicture, ...] = ()
    revision: str = ""
    examples: tuple[DuplicateExample, ...] = ()

    @property
    def name(self) -> str:
        """Path of the shard within its artifact, without the ending."""
        return self.files[0].path.rpartition(".")[0]

    @classmethod
    def from_json(cls, data: bytes) -> "ShardInfo":
        """Read what `to_json` wrote."""
        values = json.loads(data)
        files = tuple(FileInfo(**file) for file in values["files"])
        pictures = tuple(
            StoredPicture(**{**each, "captions": tuple(map(tuple, each["captions"]))}) for each in values["pictures"]
        )
        examples = tuple(DuplicateExample(**each) for each in values["examples"])
        parts = {"files": files, "pictures": pictures, "examples": examples}
        return cls(**{**values, **parts, "statistics": Statistics.from_mapping(values["statistics"])})

    def to_json(self) -> bytes:
        """Return the info as JSON."""
        return json.dumps(asdict(self)).encode()
