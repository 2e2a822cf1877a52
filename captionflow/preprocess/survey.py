"""The statistics of a shard, gathered while it is written."""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from captionflow.core.records import Reject, Sample
from captionflow.images.thumbnails import Thumbnails
from captionflow.preprocess.shards import IMAGES, ShardKey
from captionflow.preprocess.statistics import (
    FAILED_HOSTS,
    HISTOGRAMS,
    LICENSES,
    LONGEST_NAME,
    LOST,
    PICTURES,
    REJECTED_CAPTIONS,
    REJECTED_IMAGES,
    Exhibit,
    Statistics,
    most_common,
)

MOST_NAMES = 20
"""Licences, and hosts that failed, that a shard names."""


class Survey:
    """Counts the images of a shard one after the other.

    Of a large split only the first shards give pictures to the gallery: a hash puts images into shards, so theirs are
    as random as any.

    Args:
        key: that of the shard.
        thumbnails: makes the gallery's pictures.
        before: of the shard as it was first written, if it is written again: what it lost then it still lacks.
    """

    def __init__(self, key: ShardKey, thumbnails: Thumbnails, before: Statistics | None = None) -> None:
        self._thumbnails = thumbnails
        # Twice what is needed, since some shards have none.
        share = 2 * math.ceil(PICTURES / key.count)
        self._room = min(PICTURES, share) if key.index < PICTURES else 0
        numbers = before.numbers if before else {}
        self._numbers = {name: Counter(numbers[name]) for name in LOST if name in numbers}
        self._exhibits: list[Exhibit] = []

    def add(self, sample: Sample | None, rejects: Sequence[Reject]) -> None:
        """Count an image.

        Args:
            sample: None if it was dropped.
            rejects: those of its captions; the last tells why the image was dropped, if it was.
        """
        self.reject(rejects)
        if sample:
            self.keep(sample)
        elif rejects and rejects[-1].image_id is not None:  # else a line that could not be read
            self.drop(rejects[-1])

    def reject(self, rejects: Iterable[Reject]) -> None:
        """Count captions that were dropped."""
        self._count(REJECTED_CAPTIONS, (f"{reject.stage} {reject.reason}" for reject in rejects))

    def drop(self, reject: Reject) -> None:
        """Count an image that was dropped, for the reason that a Reject tells."""
        self._count(REJECTED_IMAGES, [f"{reject.stage} {reject.reason}"])
        if reject.stage == IMAGES:
            self._count(FAILED_HOSTS, [f"{host(reject.image_url or '')} {reject.reason}"])

    def keep(self, sample: Sample) -> None:
        """Count an image that was kept."""
        self._count(LICENSES, [sample.image_license[:LONGEST_NAME]])
        for histogram in HISTOGRAMS:
            self._count(histogram.name, histogram.bins(sample))
        rank = _rank(sample.image_id)
        if not self._room or (len(self._exhibits) == self._room and rank >= self._exhibits[-1].rank):
            return
        if picture := self._thumbnails.of(sample.image):
            self._exhibits.append(Exhibit.of(sample, rank, picture))
            self._exhibits.sort(key=lambda each: (each.rank, each.image_id))
            del self._exhibits[self._room :]

    def statistics(self) -> Statistics:
        """Return what was found; hosts and licences beyond the most frequent are counted together."""
        numbers = {name: dict(sorted(counts.items())) for name, counts in sorted(self._numbers.items())}
        for name in (LICENSES, FAILED_HOSTS):
            if name in numbers:
                numbers[name] = most_common(numbers[name], MOST_NAMES)
        return Statistics(numbers, tuple(self._exhibits))

    def _count(self, name: str, values: Iterable[str]) -> None:
        self._numbers.setdefault(name, Counter()).update(values)


def _rank(image_id: int) -> int:
    # Salted, so that it has nothing to do with the shard.
    return int.from_bytes(hashlib.blake2b(str(image_id).encode(), digest_size=8, salt=b"gallery").digest())


def host(url: str) -> str:
    """Return the host or bucket of an image's URL, without spaces; what stands for it if there is none."""
    try:
        name = urlsplit(url).hostname or "(local)"
    except ValueError:
        name = "(none)"
    return "_".join(name[:LONGEST_NAME].split())
