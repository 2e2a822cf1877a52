"""The validation report: one HTML file that holds its charts and styles."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

from captionflow.pages.rendering import render
from captionflow.validation.anomalies import Anomaly, Drift
from captionflow.validation.schema import Schema
from captionflow.validation.statistics import Categories, Numbers, Statistics, bin_of, next_bin

_NUMBERS = {
    "captions_per_image": "Captions an image",
    "characters_per_caption": "Characters a caption",
    "words_per_caption": "Words a caption",
}
_CATEGORIES = {
    "licenses": "Licences, by caption",
    "hosts": "Hosts, by caption",
    "splits": "Splits, by caption",
    "languages": "Languages, guessed of a sample",
    "words": "Words",
}
_SHARES = {
    "unknown_licenses": "unknown licences",
    "duplicate_ids": "ids twice",
    "duplicate_urls": "URLs of other images",
    "duplicate_captions": "captions twice",
    "wordless_captions": "captions without a word",
}
_LONGEST_TABLE = 20


@dataclass(frozen=True)
class Bar:
    """A bar of a chart: its label, its share, that of the baseline if there is one, how many numbers it holds."""

    label: str
    share: float
    baseline: float | None
    width: int = 1


@dataclass(frozen=True)
class Chart:
    """A distribution: its title, a line about it, and its bars."""

    title: str
    note: str
    bars: list[Bar]

    @property
    def highest(self) -> float:
        """The largest share of a number."""
        shares = (share / bar.width for bar in self.bars for share in (bar.share, bar.baseline or 0.0))
        return max(shares, default=0.0) or 1.0


def write_report(
    *,
    statistics: Statistics,
    baseline: Statistics | None,
    schema: Schema,
    is_inferred: bool,
    anomalies: list[Anomaly],
    drifts: list[Drift],
    rejected: int,
    lineage: str,
) -> str:
    """Return the report as HTML; captions and all other text are escaped."""
    return render(
        str(__package__),
        "report.html.j2",
        statistics=statistics,
        baseline=baseline,
        schema=asdict(schema),
        is_inferred=is_inferred,
        anomalies=anomalies,
        drifts=drifts,
        rejected=rejected,
        shares={title: f"{100 * statistics.shares[name]:.2f} %" for name, title in _SHARES.items()},
        numbers=[
            _of_numbers(title, statistics.numbers[name], baseline.numbers[name] if baseline else None)
            for name, title in _NUMBERS.items()
        ],
        categories=[
            _of_categories(title, statistics.categories[name], baseline.categories[name] if baseline else None)
            for name, title in _CATEGORIES.items()
        ],
        lineage=lineage,
    )


def _of_numbers(title: str, numbers: Numbers, baseline: Numbers | None) -> Chart:
    def share(found: Numbers, low: int) -> float:
        return found.bins.get(low, 0) / max(1, found.count)

    bars = [
        Bar(_label(low), share(numbers, low), share(baseline, low) if baseline else None, next_bin(low) - low)
        for low in _bins([numbers, *([baseline] if baseline else [])])
    ]
    note = (
        f"mean {numbers.mean:.1f}, median {numbers.median}, from {numbers.minimum} to {numbers.maximum}; "
        f"90 % have {numbers.percentile_5} to {numbers.percentile_95}"
    )
    return Chart(title, note, bars)


def _bins(distributions: Iterable[Numbers]) -> Iterator[int]:
    """Yield the bins from the first to the last that holds anything, the empty ones between them too."""
    filled = [numbers for numbers in distributions if numbers.count]
    low = bin_of(min((numbers.minimum for numbers in filled), default=0))
    last = max((numbers.maximum for numbers in filled), default=-1)
    while low <= last:
        yield low
        low = next_bin(low)


def _label(low: int) -> str:
    last = next_bin(low) - 1
    return str(low) if last == low else f"{low} to {last}"


def _of_categories(title: str, categories: Categories, baseline: Categories | None) -> Chart:
    values = [*categories.counts][:_LONGEST_TABLE]
    bars = [Bar(value, categories.share(value), baseline.share(value) if baseline else None) for value in values]
    others = len(categories.counts) - len(values)
    more = f"; {others}{' or more' if categories.rest else ''} others" if others or categories.rest else ""
    error = f"; each count is too low by at most {categories.error}" if categories.error else ""
    return Chart(title, f"{categories.total} in all{more}{error}", bars)
