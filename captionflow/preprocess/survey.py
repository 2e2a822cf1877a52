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
    PICTURES,
    REJECTED_CAPTIONS,
    REJECTED_IMAGES,
    Exhibit,
    Statistics,
    most_common,
)

_MOST_NAMES = 20


class Survey:
    """Counts the images of a shard one after the other.

    Of a large split only the first shards give pictures to the gallery: a hash puts images into shards, so theirs are
    as random as any.

    Args:
        key: that of the shard.
        thumbnails: makes the gallery's pictures.
    """

    def __init__(self, key: ShardKey, thumbnails: Thumbnails) -> None:
        self._thumbnails = thumbnails
        # Twice what is needed, since some shards have none.
        share = 2 * math.ceil(PICTURES / key.count)
        self._room = min(PICTURES, share) if key.index < PICTURES else 0
        self._numbers: dict[str, Counter[str]] = {}
        self._exhibits: list[Exhibit] = []

    def add(self, sample: Sample | None, rejects: Sequence[Reject]) -> None:
        """Count an image.

        Args:
            sample: None if it was dropped.
            rejects: those of its captions; the last tells why the image was dropped, if it was.
        """
        self._count(REJECTED_CAPTIONS, (f"{reject.stage} {reject.reason}" for reject in rejects))
        if sample:
            self._count(LICENSES, [sample.image_license[:LONGEST_NAME]])
            for histogram in HISTOGRAMS:
                self._count(histogram.name, histogram.bins(sample))
            self._exhibit(sample)
        elif rejects and rejects[-1].image_id is not None:  # else a line that could not be read
            last = rejects[-1]
            self._count(REJECTED_IMAGES, [f"{last.stage} {last.reason}"])
            if last.stage == IMAGES:
                self._count(FAILED_HOSTS, [f"{host(last.image_url or '')} {last.reason}"])

    def statistics(self) -> Statistics:
        """Return what was found; hosts and licences beyond the most frequent are counted together."""
        numbers = {name: dict(sorted(counts.items())) for name, counts in sorted(self._numbers.items())}
        for name in (LICENSES, FAILED_HOSTS):
            if name in numbers:
                numbers[name] = most_common(numbers[name], _MOST_NAMES)
        return Statistics(numbers, tuple(self._exhibits))

    def _count(self, name: str, values: Iterable[str]) -> None:
        self._numbers.setdefault(name, Counter()).update(values)

    def _exhibit(self, sample: Sample) -> None:
        """Keep the picture while it is among those with the lowest ranks."""
        rank = _rank(sample.image_id)
        if not self._room or (len(self._exhibits) == self._room and rank >= self._exhibits[-1].rank):
            return
        if picture := self._thumbnails.of(sample.image, sample.height, sample.width):
            self._exhibits.append(Exhibit.of(sample, rank, picture))
            self._exhibits.sort(key=lambda each: (each.rank, each.image_id))
            del self._exhibits[self._room :]


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
