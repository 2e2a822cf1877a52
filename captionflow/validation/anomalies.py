"""Where the statistics of captions leave their schema, and how far they have drifted from a baseline.

The measures of drift are those of TensorFlow Data Validation's comparators (`infinity_norm` and
`jensen_shannon_divergence` of FeatureComparator in tensorflow_metadata/proto/v0/schema.proto): of categories the
largest change of a share, of numbers the divergence of Lin 1991, "Divergence measures based on the Shannon entropy".
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from captionflow.core.terminal import one_line
from captionflow.validation.parameters import ValidateParameters
from captionflow.validation.schema import DRIFT, Domain, Schema
from captionflow.validation.statistics import CATEGORIES, NUMBERS, Categories, Numbers, Statistics

ANOMALIES = "anomalies.json"
ERROR, WARNING = "error", "warning"

_SHOWN = 5
# Of sums of shares; a caption of a billion has a larger share.
_ROUNDING = 1e-11
_LONGEST_TEXT = 60


@dataclass(frozen=True)
class Anomaly:
    """A limit that was passed: its name, what was seen, what is allowed, and whether it may fail the step."""

    name: str
    seen: str
    allowed: str
    severity: str


@dataclass(frozen=True)
class Drift:
    """How far a distribution is from that of the baseline, from 0 to 1, how far it may be, and what was seen."""

    name: str
    distance: float
    allowed: float
    seen: str

    @property
    def is_anomaly(self) -> bool:
        """Whether it is too far."""
        return self.distance > self.allowed


def anomalies(statistics: Statistics, schema: Schema, drifts: list[Drift]) -> list[Anomaly]:
    """Return what is outside of the schema, and the drifts that are too far."""
    found = [*_outside(statistics, schema)]
    found += [
        (drift.name, f"{drift.seen}: {drift.distance:.4g}", f"at most {drift.allowed:g}")
        for drift in drifts
        if drift.is_anomaly
    ]
    return [Anomaly(*each, severity=WARNING if each[0] in schema.only_warn else ERROR) for each in found]


def drifts(statistics: Statistics, baseline: Statistics, schema: Schema, parameters: ValidateParameters) -> list[Drift]:
    """Return the distance of each distribution from that of the baseline; of those that one of the two lacks, none.

    How far one may be the schema says by its name, or else the parameters.
    """
    found = []
    for name in CATEGORIES:
        now, before = statistics.categories[name], baseline.categories[name]
        if now.total and before.total:
            value, distance = largest_change(now, before)
            change = f"the share of {_shown(value)} went from {before.share(value):.4g} to {now.share(value):.4g}"
            found.append((name, distance, parameters.max_share_change, change if distance else "no share has changed"))
    for name in NUMBERS:
        numbers, earlier = statistics.numbers[name], baseline.numbers[name]
        if numbers.count and earlier.count:
            distance = divergence(numbers, earlier)
            found.append((name, distance, parameters.max_divergence, "Jensen-Shannon divergence"))
    return [
        Drift(f"{DRIFT}{name}", distance, schema.max_drifts.get(f"{DRIFT}{name}", allowed), seen)
        for name, distance, allowed, seen in found
    ]


def largest_change(one: Categories, other: Categories) -> tuple[str, float]:
    """Return the value whose share of all differs most, and by how much: the L-infinity distance.

    A value that is not listed counts as one that does not occur; so this is the true distance within the share of the
    rarest value that is listed.
    """
    values = sorted({*one.counts, *other.counts})
    changes = ((abs(one.share(value) - other.share(value)), value) for value in values)
    change, value = max(changes, key=lambda pair: pair[0], default=(0.0, ""))
    return value, change


def divergence(one: Numbers, other: Numbers) -> float:
    """Return the Jensen-Shannon divergence of two distributions, by their bins, in bits: from 0 to 1."""
    total = 0.0
    for low in sorted({*one.bins, *other.bins}):
        shares = [numbers.bins.get(low, 0) / max(1, numbers.count) for numbers in (one, other)]
        mean = sum(shares) / 2
        total += sum(share / 2 * math.log2(share / mean) for share in shares if share)
    return min(1.0, max(0.0, total))


def _outside(statistics: Statistics, schema: Schema) -> Iterator[tuple[str, str, str]]:
    for name, limits in schema.numbers.items():
        numbers = statistics.numbers[name]
        if numbers.count and not limits.minimum <= numbers.minimum <= numbers.maximum <= limits.maximum:
            yield name, f"{numbers.minimum} to {numbers.maximum}", f"{limits.minimum} to {limits.maximum}"
    for name, domain in schema.categories.items():
        yield from _outside_domain(name, statistics.categories[name], domain)
    yield from (
        (name, f"{statistics.shares[name]:.4g}", f"at most {share:g}")
        for name, share in schema.max_shares.items()
        if statistics.shares[name] > share + _ROUNDING
    )


def _outside_domain(name: str, categories: Categories, domain: Domain) -> Iterator[tuple[str, str, str]]:
    allowed = set(domain.allowed)
    others = {value: categories.share(value) for value in categories.counts if value not in allowed}
    # Those that are not listed cannot be looked up, so they count as others.
    share = sum(others.values()) + categories.rest / max(1, categories.total)
    if share > domain.max_other_share + _ROUNDING:
        shown = ", ".join(f"{_shown(value)} {of_it:.4g}" for value, of_it in [*others.items()][:_SHOWN])
        yield (
            name,
            f"others with a share of {share:.4g}: {shown or 'rare ones'}{', …' * (len(others) > _SHOWN)}",
            f"{_list(domain.allowed)}; others at most {domain.max_other_share:g}",
        )


def _list(values: tuple[str, ...]) -> str:
    return ", ".join(map(_shown, values[:_SHOWN])) + f" and {len(values) - _SHOWN} more" * (len(values) > _SHOWN)


def _shown(value: str) -> str:
    return repr(one_line(value if len(value) <= _LONGEST_TEXT else f"{value[:_LONGEST_TEXT]}…"))


def to_rows(drifts: list[Drift]) -> list[Mapping[str, object]]:
    """Return drifts as JSON holds them."""
    return [{**vars(drift), "is_anomaly": drift.is_anomaly} for drift in drifts]
