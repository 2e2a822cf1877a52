"""How a step declares its parameters: name, type, default, unit, bounds and meaning, stated once.

Each room has a module `parameters` with the classes of its steps. The command line's flags, Airflow's form and
Kubeflow's inputs are derived from them, so these modules import nothing but the standard library and each other.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from itertools import chain
from types import NoneType, UnionType
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

from captionflow.core.errors import InvalidInputError

URI, FETCHED, SOURCE, HOST = "uri", "fetched", "source", "host"
"""What a parameter's value reaches, which its schema tells as `reaches`: a path or URI; the same, or what http and
https fetch from public addresses; the same, with a split before it; a host. In Airflow a run reaches only what its
deployment opened (`reach`)."""

# Halves of surrogate pairs, by which Python spells bytes that are no UTF-8, and the null that ends C's strings.
_NO_TEXT = re.compile("[\ud800-\udfff\0]")

_JSON_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", NoneType: "null"}


def parameter(default: Any, description: str, **schema: Any) -> Any:
    """Declare a parameter.

    Args:
        schema: words of JSON Schema (minimum, maximum, multipleOf, pattern, examples), `envvar`, the environment
            variable that the command line takes it from, `reaches`, see `URI`, `common`, whether a form shows it at
            first sight, and `placement`, whether it says where something runs and changes nothing of what comes of it.
    """
    return field(default=default, metadata={"description": description, **schema})


def variable(name: str) -> str:
    """Return the environment variable by which a deployment of Airflow sets a parameter."""
    return f"CAPTIONFLOW_{name.upper()}"


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Base of a step's parameters. Building one checks every value.

    Raises:
        InvalidInputError: a value is of the wrong type or out of bounds; the message names the flag.
    """

    def __post_init__(self) -> None:
        for name, schema in self.json_schema().items():
            _check(flag(name), getattr(self, name), schema)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Pick this step's parameters out of `values`, in Python's types or in JSON's."""
        hints = get_type_hints(cls)
        given = {f.name: values[f.name] for f in fields(cls) if f.name in values}
        return cls(**{name: _from_json(name, hints[name], value) for name, value in given.items()})

    @classmethod
    def from_environment(cls, **defaults: Any) -> Self:
        """Take each value from its environment `variable`, if that is set and not empty; a list is parted by spaces.

        Args:
            defaults: other ones than the declared, by name.

        Raises:
            InvalidInputError: a value is of the wrong type or out of bounds; the message names the variable.
        """
        hints, given = get_type_hints(cls), defaults
        for name, schema in cls.json_schema().items():
            if text := os.environ.get(variable(name)):
                given[name] = _from_text(name, hints[name], text)
                _check(variable(name), given[name], schema)
        return cls(**given)

    @classmethod
    def json_schema(cls) -> dict[str, dict[str, Any]]:
        """Return name → JSON Schema with `default` and `description`, in the order of declaration."""
        hints = get_type_hints(cls)
        return {f.name: {**_type_schema(hints[f.name], f.default), **f.metadata} for f in fields(cls)}

    def to_json(self) -> dict[str, Any]:
        """Return the values as JSON holds them (tuples become lists)."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    def to_options(self) -> list[str]:
        """Return the values as the command line takes them: `from_mapping` makes the same of what it reads there."""
        return options(self.to_json())


@dataclass(frozen=True, kw_only=True)
class RejectParameters(Parameters):
    """How many rejects are too many. Every step that makes some has it."""

    max_reject_ratio: float = parameter(
        0.5,
        "Fail when a larger share than this is rejected: in ingest of the rows, in preprocess of the captions that no "
        "rule leaves out on purpose.",
        minimum=0.0,
        maximum=1.0,
    )


def _type_schema(hint: Any, default: Any) -> dict[str, Any]:
    if get_origin(hint) is tuple:
        # A form sends null for a list left empty.
        kind: Any = "array" if default else ["array", "null"]
        return {"type": kind, "items": {"type": "string"}, "default": list(default)}
    if get_origin(hint) is Literal:
        return {"type": "string", "enum": list(get_args(hint)), "default": default}
    kinds = [_JSON_TYPES[t] for t in (get_args(hint) if isinstance(hint, UnionType) else (hint,))]
    return {"type": kinds[0] if len(kinds) == 1 else sorted(kinds), "default": default}


def _from_json(name: str, hint: Any, value: Any) -> Any:
    if get_origin(hint) is tuple and (value is None or isinstance(value, (list, tuple))):
        return items(name, value or ())
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError as error:
            raise InvalidInputError(f"{flag(name)}: the number is too large") from error
    if isinstance(hint, UnionType) and value == "":
        return None
    return value


def _from_text(name: str, hint: Any, text: str) -> Any:
    """Read a value of any type but text as JSON; what is none is left to the check to refuse."""
    if get_origin(hint) is tuple:
        return tuple(text.split())
    if str in (hint, *get_args(hint)) or get_origin(hint) is Literal:
        return text
    try:
        return _from_json(name, hint, json.loads(text))
    except ValueError:
        return text


def items(name: str, values: Iterable[Any]) -> tuple[Any, ...]:
    """Return a list parameter's items: a value may be one text, a JSON array, from where only texts can be passed.

    Raises:
        InvalidInputError: a value begins like a JSON array and is none.
    """
    return tuple(chain.from_iterable(_items(name, value) for value in values))


def _items(name: str, item: Any) -> Any:
    if isinstance(item, str) and item.startswith("["):
        try:
            found = json.loads(item)
        except (ValueError, RecursionError) as error:
            raise InvalidInputError(
                f"{flag(name)}: {item[:100]!r} begins like a JSON array and is none: {error}"
            ) from error
        # Values are read again by each process that they are passed to: none may come apart only there.
        if any(isinstance(inner, str) and inner.startswith("[") for inner in found):
            raise InvalidInputError(f"{flag(name)}: {item[:100]!r} holds a list within a list")
        return found
    return (item,)


def options(values: Mapping[str, Any]) -> list[str]:
    """Return values as command-line options, a list as a JSON array; what is None is left out."""
    texts = {name: json.dumps(value) if isinstance(value, list) else value for name, value in values.items()}
    return [f"{flag(name)}={text}" for name, text in texts.items() if text is not None]


def flag(name: str) -> str:
    """Return a parameter's option on the command line."""
    return "--" + name.replace("_", "-")


def _check(flag: str, value: Any, schema: dict[str, Any]) -> None:
    _check_text(flag, value)
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if "array" in kinds:
        if not isinstance(value, tuple) or not all(isinstance(item, str) for item in value):
            raise InvalidInputError(f"{flag}: {value!r} is not a list of texts")
        if len(value) < schema.get("minItems", 0):
            raise InvalidInputError(f"{flag}: give at least {schema['minItems']}")
    elif _JSON_TYPES.get(type(value)) not in kinds:
        raise InvalidInputError(f"{flag}: {value!r} is not of type {' or '.join(kinds)}")
    elif "enum" in schema and value not in schema["enum"]:
        raise InvalidInputError(f"{flag}: {value!r} is none of {', '.join(schema['enum'])}")
    elif "pattern" in schema and value is not None and not _matches(schema["pattern"], value):
        like = schema["default"] or schema["examples"][0]
        raise InvalidInputError(f"{flag}: {value!r} does not look like {like!r}")
    elif "minimum" in schema:
        _check_number(flag, value, schema)


def _check_text(flag: str, value: Any) -> None:
    for text in value if isinstance(value, tuple) else (value,):
        if isinstance(text, str) and _NO_TEXT.search(text):
            raise InvalidInputError(f"{flag}: {text!r} holds a byte that is no UTF-8, or a null")


def _matches(pattern: str, text: str) -> bool:
    # JSON Schema's $ is the end; Python's lets a line feed follow.
    return re.search(re.sub(r"\$$", r"\\Z", pattern), text) is not None


def _check_number(flag: str, value: float, schema: dict[str, Any]) -> None:
    # Written so that NaN, which compares false with everything, is out of bounds too.
    if not schema["minimum"] <= value <= schema["maximum"]:
        raise InvalidInputError(f"{flag}: {value} is not within {schema['minimum']} and {schema['maximum']}")
    if "multipleOf" in schema and value % schema["multipleOf"]:
        raise InvalidInputError(f"{flag}: {value} is not a multiple of {schema['multipleOf']}")
