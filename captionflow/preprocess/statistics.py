"""What the dataset's page tells of a shard: small numbers, which add up over shards, and a few of its pictures."""

import base64
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import Any, NamedTuple

from captionflow.core.records import Sample

PICTURES = 12
"""Pictures of each split that the gallery shows, at most."""

SHOWN_GROUPS, SHOWN_OF_GROUP = 6, 4
"""Groups of duplicates that the page shows, and pictures of each, at most."""

OTHERS = "(others)"
"""What is counted of hosts and licences beyond those that a shard names."""

LICENSES = "licenses"
REJECTED_CAPTIONS, REJECTED_IMAGES, FAILED_HOSTS = LOST = ("rejected_captions", "rejected_images", "failed_hosts")
"""What is counted beside `HISTOGRAMS`; `LOST` is what a shard lacks."""

LONGEST_NAME = 100
"""Characters that are kept of a host or a licence."""

_SHOWN_CAPTIONS, _LONGEST_CAPTION = 5, 200


@dataclass(frozen=True)
class Histogram:
    """A distribution over the samples. A new one is one row below.

    Args:
        name: that of its numbers.
        title: what the page calls it.
        edges: where a bin begins; another comes before the first.
        values: returns what is counted of a sample; nothing if it is unknown.
    """

    name: str
    title: str
    edges: tuple[float, ...]
    values: Callable[[Sample], Iterable[float]]

    def bins(self, sample: Sample) -> Iterable[str]:
        """Return the bin of each value of a sample, by its place."""
        return (str(bisect_right(self.edges, value)) for value in self.values(sample))

    @property
    def labels(self) -> list[str]:
        """What the bins hold, in their order."""
        ranges = (_range(*ends) for ends in pairwise(self.edges))
        return [f"below {self.edges[0]:.3g}", *ranges, f"{self.edges[-1]:g} or more"]


def _range(first: float, end: float) -> str:
    if isinstance(first, float):
        return f"{first:.3g} to {end:.3g}"
    return f"{first}" if end == first + 1 else f"{first} to {end - 1}"


def _sides(sample: Sample) -> list[int]:
    return [min(sample.original_height, sample.original_width)] if _has_size(sample) else []


def _ratios(sample: Sample) -> list[float]:
    return [sample.original_width / sample.original_height] if _has_size(sample) else []


def _has_size(sample: Sample) -> bool:
    return sample.original_height > 0 and sample.original_width > 0  # which older shards lack


HISTOGRAMS = (
    Histogram("captions", "Captions an image", (1, 2, 3, 4, 5, 6, 11), lambda sample: [len(sample.captions)]),
    Histogram(
        "words",
        "Words a caption",
        (1, 3, 5, 7, 9, 11, 13, 16, 21, 31, 51),
        lambda sample: [len(caption.text.split()) for caption in sample.captions],
    ),
    Histogram(
        "shorter_side",
        "Shorter side of the original, in pixels",
        (64, 128, 256, 384, 512, 640, 768, 1024, 2048),
        _sides,
    ),
    Histogram(
        "aspect_ratio",
        "Width by height of the original",
        (1 / 3, 0.5, 0.67, 0.8, 0.95, 1.05, 1.25, 1.5, 2.0, 3.0),
        _ratios,
    ),
)


@dataclass(frozen=True, slots=True)
class Exhibit:
    """A picture of the gallery.

    Args:
        rank: a hash of the image's id; the gallery shows the lowest.
        picture: a JPEG, in base64.
        captions: the first few as they were ingested, long ones cut; `more` is how many there are beyond.
        height: of the original, in pixels, as `width`; 0 is unknown.
    """

    rank: int
    image_id: int
    picture: str
    captions: tuple[str, ...]
    more: int
    license: str
    height: int
    width: int

    @classmethod
    def of(cls, sample: Sample, rank: int, picture: bytes) -> "Exhibit":
        """Return that of a sample."""
        texts = (caption.raw or caption.text for caption in islice(sample.captions, _SHOWN_CAPTIONS))
        shown = [text if len(text) <= _LONGEST_CAPTION else f"{text[:_LONGEST_CAPTION]}…" for text in texts]
        return cls(
            rank,
            sample.image_id,
            base64.b64encode(picture).decode(),
            tuple(shown),
            len(sample.captions) - len(shown),
            sample.image_license[:LONGEST_NAME],
            sample.original_height,
            sample.original_width,
        )


class ShownPicture(NamedTuple):
    """A picture of a group of duplicates, of which at most one stays.

    Args:
        picture: a thumbnail; b"" if none could be made.
    """

    image_id: int
    split: str
    stays: bool
    picture: bytes


@dataclass(frozen=True)
class Statistics:
    """What a shard holds and lacks.

    `numbers` holds, by the name of what is counted, how often each was seen: the places of bins for `HISTOGRAMS`,
    licences of images that were kept, "host reason" of images that could not be had, and "stage reason" of captions and
    of images that were dropped.
    """

    numbers: dict[str, dict[str, int]] = field(default_factory=dict)
    exhibits: tuple[Exhibit, ...] = ()

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "Statistics":
        """Read what `dataclasses.asdict` and JSON make of it."""
        exhibits = (Exhibit(**{**each, "captions": tuple(each["captions"])}) for each in values["exhibits"])
        return cls(dict(values["numbers"]), tuple(exhibits))

    @classmethod
    def merged(cls, parts: Iterable["Statistics"]) -> "Statistics":
        """Return the sums of several, and of their pictures those that the gallery shows; their order has no effect."""
        sums: dict[str, Counter[str]] = {}
        exhibits: list[Exhibit] = []
        for part in parts:
            for name, counts in part.numbers.items():
                sums.setdefault(name, Counter()).update(counts)
            exhibits += part.exhibits
        lowest = sorted(exhibits, key=lambda each: (each.rank, each.image_id))[:PICTURES]
        return cls({name: dict(counts) for name, counts in sums.items()}, tuple(lowest))


def most_common(counts: Mapping[str, int], number: int) -> dict[str, int]:
    """Return the largest counts, ties in the order of names, and the sum of all others under `OTHERS`."""
    ranked = sorted((item for item in counts.items() if item[0] != OTHERS), key=lambda item: (-item[1], item[0]))
    others = sum(count for _, count in ranked[number:]) + counts.get(OTHERS, 0)
    return dict(ranked[:number]) | ({OTHERS: others} if others else {})
