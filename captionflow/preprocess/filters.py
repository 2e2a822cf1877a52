"""Which captions are kept: the rules that a caption goes through before its image is fetched. A new one is one row."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache

from captionflow.core.records import ImageCaption, Reject
from captionflow.preprocess.cleaning import clean_caption
from captionflow.preprocess.parameters import PreprocessParameters


@dataclass(frozen=True, slots=True)
class CleanedCaption(ImageCaption):
    """A caption whose text is cleaned: `caption` stays as it was ingested, `text` is what the model reads."""

    text: str = ""


_FIELDS = tuple(field.name for field in fields(ImageCaption))

Record = ImageCaption | Reject
Rule = Callable[[ImageCaption, PreprocessParameters], Record]


def license_key(name: str) -> str:
    """Return the form in which licence names are compared: COCO says 'Attribution License', people 'attribution'."""
    return name.strip().casefold().removesuffix("license").strip()


def filter_license(caption: ImageCaption, parameters: PreprocessParameters) -> Record:
    """Keep a caption if the licence of its image is allowed."""
    allowed = _allowed_licenses(parameters.licenses)
    if "*" in allowed or license_key(caption.image_license) in allowed:
        return caption
    return Reject.of(caption, "licenses", "license_not_allowed", caption.image_license)


@cache
def _allowed_licenses(names: tuple[str, ...]) -> frozenset[str]:
    return frozenset(map(license_key, names))


def clean(caption: ImageCaption, parameters: PreprocessParameters) -> Record:
    """Make the text that is stored beside the caption as it was ingested."""
    text = clean_caption(caption.caption) if parameters.caption_text == "plain" else caption.caption
    if not text.strip():
        return Reject.of(caption, "captions", "empty_caption", "nothing is left after cleaning")
    return CleanedCaption(**{name: getattr(caption, name) for name in _FIELDS}, text=text)


RULES: dict[str, Rule] = {
    "FilterLicenses": filter_license,
    "CleanCaptions": clean,
}
"""Each rule, in the order in which they are asked, by the name of its step in the Beam job.

A rule returns the caption, changed or not, or the Reject that it becomes.
"""


def apply(rule: Rule, record: Record, parameters: PreprocessParameters) -> Record:
    """Ask one rule about a record; one that was rejected before stays as it is."""
    return record if isinstance(record, Reject) else rule(record, parameters)


def apply_all(record: Record, parameters: PreprocessParameters) -> Record:
    """Ask every rule about a record."""
    for rule in RULES.values():
        record = apply(rule, record, parameters)
    return record
