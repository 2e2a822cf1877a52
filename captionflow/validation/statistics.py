"""What is measured of ingested captions, and its form in JSON."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any

from captionflow.core.records import UNKNOWN_LICENSE
from captionflow.validation.frequent import Frequent

STATISTICS = "statistics.json"

NUMBERS = ("captions_per_image", "characters_per_caption", "words_per_caption")
CATEGORIES = ("words", "licenses", "hosts", "splits", "languages")
SHARES = ("unknown_licenses", "duplicate_ids", "duplicate_urls", "duplicate_captions", "wordless_captions")

_LISTED = {"words": 1000}
_LISTED_OF_OTHERS = 10_000
_QUANTILES = {"percentile_5": 0.05, "median": 0.5, "percentile_95": 0.95}
_BITS = 4
_LARGEST = 2**63 - 1


def bin_of(value: int) -> int:
    """Return the least number of the bin that holds a number from 0: below 16 a bin each, from there 8 a doubling."""
    shift = max(0, value.bit_length() - _BITS)
    return value >> shift << shift


def next_bin(low: int) -> int:
    """Return the least number of the bin after the one that begins with `low`."""
    return low + (1 << max(0, low.bit_length() - _BITS))


@dataclass(frozen=True)
class Numbers:
    """How whole numbers from 0 are distributed: `bins` maps the least number of each bin to how many fell into it."""

    count: int
    minimum: int
    maximum: int
    mean: float
    percentile_5: int
    median: int
    percentile_95: int
    bins: dict[int, int]

    @classmethod
    def of(cls, counts: Counter[int]) -> "Numbers":
        """Summarise numbers, given as number → how often it occurred."""
        values, total = sorted(counts), counts.total()
        up_to = list(accumulate(counts[value] for value in values))
        bins = Counter[int]()
        for value in values:
            bins[bin_of(value)] += counts[value]
        return cls(
            total,
            values[0] if values else 0,
            values[-1] if values else 0,
            sum(value * counts[value] for value in values) / max(1, total),
            bins=dict(bins),
            **{name: _quantile(values, up_to, share) for name, share in _QUANTILES.items()},
        )

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "Numbers":
        """Read what `asdict` and JSON made."""
        bins = {_whole(low): _whole(count) for low, count in row["bins"].items()}
        whole = {name: _whole(row[name]) for name in ("count", "minimum", "maximum", *_QUANTILES)}
        return cls(mean=float(row["mean"]), bins=bins, **whole)


@dataclass(frozen=True)
class Categories:
    """How often the most frequent values occur, the most frequent first; each count is too low by at most `error`."""

    total: int
    error: int
    counts: dict[str, int]

    @classmethod
    def of(cls, name: str, frequent: Frequent) -> "Categories":
        """Summarise values; `name` is one of `CATEGORIES`."""
        return cls(frequent.total, frequent.error, frequent.most_common(_LISTED.get(name, _LISTED_OF_OTHERS)))

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "Categories":
        """Read what `asdict` and JSON made."""
        counts = {str(value): _whole(count) for value, count in row["counts"].items()}
        return cls(_whole(row["total"]), _whole(row["error"]), counts)

    @property
    def rest(self) -> int:
        """The number of values that are not listed."""
        return self.total - sum(self.counts.values())

    def share(self, value: str) -> float:
        """Return a value's share of all."""
        return self.counts.get(value, 0) / max(1, self.total)


@dataclass(frozen=True)
class Statistics:
    """The statistics of ingested captions.

    Attributes:
        captions, images: their numbers.
        numbers: for each of `NUMBERS`.
        categories: for each of `CATEGORIES`; words by occurrence, languages of a sample, the others by caption.
        duplicates: the `ids`, `urls` and `captions` that occurred before. Of URLs those of other images count.
        repeated_captions: those that occur most, and how often, where that is more than once.
        repeated_urls: the same for URLs, by images.
    """

    captions: int
    images: int
    numbers: dict[str, Numbers]
    categories: dict[str, Categories]
    duplicates: dict[str, int]
    repeated_captions: list[tuple[str, int]]
    repeated_urls: list[tuple[str, int]]

    def to_json(self) -> bytes:
        """Return the statistics as JSON."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=2).encode()

    @classmethod
    def from_json(cls, data: bytes) -> "Statistics":
        """Read what `to_json` made; raises an Exception of any kind on anything else."""
        row = json.loads(data)
        repeated = ("repeated_captions", "repeated_urls")
        return cls(
            captions=_whole(row["captions"]),
            images=_whole(row["images"]),
            numbers={name: Numbers.from_json(row["numbers"][name]) for name in NUMBERS},
            categories={name: Categories.from_json(row["categories"][name]) for name in CATEGORIES},
            duplicates={name: _whole(row["duplicates"][name]) for name in ("ids", "urls", "captions")},
            **{name: [(str(text), _whole(count)) for text, count in row[name]] for name in repeated},
        )

    @property
    def shares(self) -> dict[str, float]:
        """The share of what is better rare, for each of `SHARES`: of the captions, and of URLs of the images."""
        captions, images = max(1, self.captions), max(1, self.images)
        return {
            "unknown_licenses": self.categories["licenses"].share(UNKNOWN_LICENSE),
            "duplicate_ids": self.duplicates["ids"] / captions,
            "duplicate_urls": self.duplicates["urls"] / images,
            "duplicate_captions": self.duplicates["captions"] / captions,
            "wordless_captions": self.numbers["words_per_caption"].bins.get(0, 0) / captions,
        }


def _quantile(values: list[int], up_to: list[int], share: float) -> int:
    """Return the least value that so large a share does not exceed; `up_to` counts what does not exceed each value."""
    return next((value for value, count in zip(values, up_to, strict=True) if count >= share * up_to[-1]), 0)


def _whole(value: Any) -> int:
    """Return a number from 0; JSON has keys as text."""
    number = int(value)
    if isinstance(value, (bool, float)) or not 0 <= number <= _LARGEST:
        raise ValueError(f"{value!r} is not a whole number from 0 to {_LARGEST}")
    return number
