"""Shards: which one an image belongs to, and what was written into it.

A shard's bytes depend on its captions and on the parameters alone: records in the order of
image_id, a sync marker made from the shard's name, no clock and no host in the file.
"""

import hashlib
import json
from dataclasses import asdict, dataclass

from captionflow.core.manifest import FileInfo
from captionflow.core.shards import SPLITS
from captionflow.images.formats import IMAGE_FORMATS
from captionflow.preprocess.parameters import PreprocessParameters

# Where a finished shard's ShardInfo is kept until the manifest holds it, for an attempt that resumes.
PROGRESS = "progress"
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


@dataclass(frozen=True)
class Layout:
    """How many shards each split has, and the shares of the splits."""

    fractions: tuple[float, float, float]
    counts: tuple[int, int, int]

    @classmethod
    def plan(cls, images: int, parameters: PreprocessParameters) -> "Layout":
        """Choose the number of shards for a number of images."""
        raw_bytes = 3 * parameters.image_size**2
        image_bytes = raw_bytes * IMAGE_FORMATS[parameters.image_format].compression
        by_size = max(1.0, parameters.shard_megabytes * _MEGABYTE / image_bytes)
        fractions = parameters.split_fractions
        counts = [
            max(
                1,
                round(share * images / by_size),
                min(round(share * images / _IMAGES_PER_SHARD), _MAX_SHARDS_FOR_BALANCE),
            )
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
    """What was written for one shard.

    `counts` holds captions_in, captions_out, images_in and images_out; `rejected` the captions
    dropped, by reason. captions_in = captions_out + the sum of `rejected`, always. `run_counts` holds
    what differs between equal runs: images_reused, images_resumed and fetched_bytes.
    """

    split: str
    counts: dict[str, int]
    rejected: dict[str, int]
    files: tuple[FileInfo, ...]
    run_counts: dict[str, int]

    @classmethod
    def from_json(cls, data: bytes) -> "ShardInfo":
        """Read what `to_json` wrote."""
        values = json.loads(data)
        return cls(**{**values, "files": tuple(FileInfo(**file) for file in values["files"])})

    def to_json(self) -> bytes:
        """Return the info as JSON."""
        return json.dumps(asdict(self)).encode()
