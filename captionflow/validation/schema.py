"""What captions are held to: limits that a person can edit, read from JSON or inferred from statistics."""

import json
import math
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field, fields
from hashlib import sha256
from typing import Any, TypeVar

from captionflow.core.artifact import open_artifact
from captionflow.core.errors import InvalidInputError
from captionflow.core.manifest import Parent
from captionflow.core.steps import VALIDATION
from captionflow.core.uris import file_system, resolve, store_errors
from captionflow.validation.statistics import CATEGORIES, NUMBERS, SHARES, Categories, Statistics

SCHEMA = "schema.json"
DRIFT = "drift_"
"""What the name of an anomaly begins with that is a drift from the baseline."""
DRIFTS = tuple(f"{DRIFT}{name}" for name in (*NUMBERS, *CATEGORIES))
NAMES = (*NUMBERS, *CATEGORIES, *SHARES, *DRIFTS)
"""The names of all anomalies."""

_LARGEST = 1 << 20
# What is inferred: a list of values that is longer would change with every new collection.
_LONGEST_LIST = 50
_FREQUENT_LANGUAGE, _WRONG_GUESSES = 0.05, 0.02
_ROUNDING = 1e-9
_GUESSED = ("languages", f"{DRIFT}languages")
_LISTED = ("licenses", "hosts", "splits", "languages")

T = TypeVar("T")


@dataclass(frozen=True)
class Range:
    """The least and the largest number that may occur."""

    minimum: int
    maximum: int

    @classmethod
    def from_json(cls, row: Any) -> "Range":
        """Read what `asdict` and JSON made."""
        if not isinstance(row, dict) or row.keys() != {"minimum", "maximum"}:
            raise ValueError('is not like {"minimum": 1, "maximum": 20}')
        if not all(type(value) is int for value in row.values()):
            raise ValueError("holds what is no whole number")
        return cls(**row)


@dataclass(frozen=True)
class Domain:
    """The values that may occur, and how large a share all others may have together."""

    allowed: tuple[str, ...]
    max_other_share: float = 0.0

    @classmethod
    def from_json(cls, row: Any) -> "Domain":
        """Read what `asdict` and JSON made."""
        if not isinstance(row, dict) or not {"allowed"} <= row.keys() <= {"allowed", "max_other_share"}:
            raise ValueError('is not like {"allowed": ["en"], "max_other_share": 0.1}')
        return cls(_texts(row["allowed"]), _share(row.get("max_other_share", 0.0)))


@dataclass(frozen=True)
class Schema:
    """Limits by the name of what they limit; what is not named has none.

    Attributes:
        numbers: for some of `NUMBERS`.
        categories: for some of `CATEGORIES`.
        max_shares: for some of `SHARES`.
        max_drifts: for some of `DRIFTS`, in place of the parameters.
        only_warn: anomalies, by name, that never fail the step.
    """

    numbers: dict[str, Range] = field(default_factory=dict)
    categories: dict[str, Domain] = field(default_factory=dict)
    max_shares: dict[str, float] = field(default_factory=dict)
    max_drifts: dict[str, float] = field(default_factory=dict)
    only_warn: tuple[str, ...] = ()

    def to_json(self) -> bytes:
        """Return the schema as JSON."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=2).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> "Schema":
        """Read what `to_json` made, or a person wrote.

        Raises:
            ValueError: it is no schema; the message says where.
        """
        try:
            row = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"is not JSON: {error}") from error
        names = [each.name for each in fields(cls)]
        if not isinstance(row, dict):
            raise ValueError(f"is not a JSON object with some of {', '.join(names)}")
        _check_names(row, names, "the schema")
        schema = cls(
            _section(row, "numbers", NUMBERS, Range.from_json),
            _section(row, "categories", CATEGORIES, Domain.from_json),
            _section(row, "max_shares", SHARES, _share),
            _section(row, "max_drifts", DRIFTS, _share),
            _texts(row.get("only_warn", [])),
        )
        _check_names(schema.only_warn, NAMES, "only_warn")
        return schema


def infer(statistics: Statistics) -> Schema:
    """Return the schema that the captions of these statistics fit, and not many others.

    Ranges are as seen, and shares rounded up to a whole percent. Licences, hosts and splits are listed if they are at
    most 50; languages, which are guessed, only warn.
    """
    return Schema(
        {name: Range(numbers.minimum, numbers.maximum) for name, numbers in statistics.numbers.items()},
        {
            name: domain
            for name in _LISTED
            if (domain := _domain(statistics.categories[name], guessed=name in _GUESSED)).allowed
        },
        {name: _percent_above(share) for name, share in statistics.shares.items()},
        only_warn=_GUESSED,
    )


def read_schema(uri: str) -> tuple[Schema, Parent]:
    """Read a schema from a file or from a validation artifact; also returns it as a parent of what is made with it.

    Raises:
        InvalidInputError: there is neither, or it is no schema.
        StoreError: the object store that holds it cannot be reached, or refuses.
    """
    uri = resolve(uri)
    fs, path = file_system(uri)
    try:
        with store_errors(uri):
            is_file = fs.info(path)["type"] == "file"
            data = bytes(fs.cat_file(path, 0, _LARGEST + 1)) if is_file else b""
    except OSError as error:
        raise InvalidInputError(f"--schema: {uri}: cannot be read: {error.strerror or 'no such file'}") from error
    if is_file:
        parent = Parent("source", uri, sha256(data).hexdigest())
    else:
        artifact = open_artifact(uri, VALIDATION)
        data, parent = artifact.read(SCHEMA), artifact.parent
    if len(data) > _LARGEST:
        raise InvalidInputError(f"--schema: {uri}: is larger than {_LARGEST >> 20} MiB, so it is no schema")
    try:
        return Schema.from_json(data), parent
    except ValueError as error:
        raise InvalidInputError(f"--schema: {uri}: {error}") from error


def _domain(categories: Categories, *, guessed: bool) -> Domain:
    least = _FREQUENT_LANGUAGE if guessed else 0.0
    allowed = tuple(value for value in categories.counts if categories.share(value) >= least)
    if (categories.rest and not guessed) or len(allowed) > _LONGEST_LIST:
        return Domain(())
    others = 1 - sum(map(categories.share, allowed))
    return Domain(allowed, _percent_above(others + _WRONG_GUESSES) if guessed else 0.0)


def _percent_above(share: float) -> float:
    return min(1.0, max(0.0, math.ceil(share * 100 - _ROUNDING) / 100))


def _section(row: dict[str, Any], name: str, known: Collection[str], read: Callable[[Any], T]) -> dict[str, T]:
    section = row.get(name, {})
    if not isinstance(section, dict):
        raise ValueError(f"{name} is not a JSON object")
    _check_names(section, known, name)
    found = {}
    for key, value in section.items():
        try:
            found[key] = read(value)
        except ValueError as error:
            raise ValueError(f"{name}: {key} {error}") from error
    return found


def _check_names(given: Collection[str], known: Collection[str], where: str) -> None:
    for name in given:
        if name not in known:
            raise ValueError(f"{where} has {name[:50]!r}, which is none of {', '.join(known)}")


def _share(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"has {str(value)[:50]!r}, which is no share from 0 to 1")
    return float(value)


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("is not a list of texts")
    return tuple(value)
