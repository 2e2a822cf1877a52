"""The captioners that can be trained. A new one is a module with a subclass of `Captioner`, and one row here."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from captionflow.captioner.model import Captioner

BUILT_IN = "transformer"
"""The captioner of a model whose configuration names none."""

CAPTIONERS = {
    BUILT_IN: "captionflow.captioner.model:Captioner",
}
"""Name → where its class is, as `module:class`, imported when it is asked for."""


def captioner_named(name: str) -> "type[Captioner]":
    """Return the class of a captioner."""
    module, _, cls = CAPTIONERS[name].partition(":")
    found: type[Captioner] = getattr(import_module(module), cls)
    return found
