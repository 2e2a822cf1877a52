"""From a template and values to a page of HTML."""

import base64
from typing import Any

import jinja2

from captionflow.core.terminal import one_line


def render(package: str, template: str, **values: Any) -> str:
    """Return a page; what stands in `values` is escaped, and `plain` takes from a text what would break its line.

    Args:
        package: the one that holds the template, which extends `base.html.j2` of this package.
    """
    loader = jinja2.ChoiceLoader([jinja2.PackageLoader(name, ".") for name in (package, str(__package__))])
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": number, "plain": one_line}
    return environment.get_template(template).render(values)


def number(value: int) -> str:
    """Return an integer with a comma at each thousand."""
    return f"{value:,}"


def data_uri(image: bytes, kind: str) -> str:
    """Return a picture as a `data:` URI.

    Args:
        kind: jpeg or png.
    """
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
