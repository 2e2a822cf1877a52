"""How far a triggered run reaches: to the public web, and below the places that the deployment of Airflow opened."""

from collections.abc import Collection, Mapping
from typing import Any

from captionflow.core.errors import InvalidInputError
from captionflow.core.parameters import FETCHED, HOST, SOURCE
from captionflow.core.records import part_source
from captionflow.core.uris import is_local, resolve
from captionflow.sources.expansion import files_of
from captionflow.web.access import Prefix

VARIABLE = "CAPTIONFLOW_TRIGGER_PREFIXES"
"""Names the places: paths and URIs with white space between them."""

ANYWHERE = "*"


def check_reach(values: Mapping[str, Any], schemas: Mapping[str, Mapping[str, Any]], opened: Collection[str]) -> None:
    """Check the values whose schema has `reaches`.

    Args:
        values: name → one text, a list of them, or None.
        schemas: name → JSON Schema with `reaches`, see `captionflow.core.parameters.URI`.
        opened: paths and URIs; `ANYWHERE` opens all.

    Raises:
        InvalidInputError: a value leads elsewhere; the message names it and the deployment's setting.
    """
    for name, reaches in ((name, schema["reaches"]) for name, schema in schemas.items() if "reaches" in schema):
        given = values.get(name)
        for value in [given] if isinstance(given, str) else given or ():
            if not is_open(value, reaches, opened):
                raise InvalidInputError(
                    f"{name}: {value!r} is not below what this deployment opens to runs; see its setting {VARIABLE}"
                )


def is_open(value: str, reaches: str, opened: Collection[str]) -> bool:
    """Whether a run may use a value that reaches what `reaches` says; `opened` as above."""
    return ANYWHERE in opened or _is_below(value, reaches, [Prefix(resolve(prefix)) for prefix in opened])


def _is_below(value: str, reaches: str, prefixes: list[Prefix]) -> bool:
    if reaches == SOURCE:
        uri = part_source(value)[1]
        # Links in a folder may lead elsewhere. An object store has none, so what a pattern there begins with suffices.
        files = [uri, *(files_of(uri) if is_local(uri) and _is_below(uri, FETCHED, prefixes) else ())]
        return all(_is_below(file, FETCHED, prefixes) for file in files)
    if reaches == FETCHED and value.startswith(("http://", "https://")):
        return True  # the fetchers go to public addresses only
    if reaches == HOST:
        return False  # it would open every port; a prefix names one
    try:
        return any(prefix.covers(resolve(value)) for prefix in prefixes)
    except ValueError:  # no URL at all
        return False
