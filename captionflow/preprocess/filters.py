"""Which captions are kept: the filters that a caption goes through before its image is fetched. A new one is one row.

Those of pictures are in `captionflow.images.filters`.
"""

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, fields
from functools import cache
from itertools import pairwise
from urllib.parse import unquote

from captionflow.core.languages import language_of
from captionflow.core.records import ImageCaption, Reject
from captionflow.images.filters import Filter, refusal
from captionflow.preprocess.cleaning import clean_caption
from captionflow.preprocess.parameters import PreprocessParameters

STAGE = "filters"
"""Stage of the Rejects of all filters, of captions and of pictures."""

_END_OF_PATH = re.compile(r"[?#]")


@dataclass(frozen=True, slots=True)
class CleanedCaption(ImageCaption):
    """A caption whose text is cleaned: `caption` stays as it was ingested, `text` is what the model reads."""

    text: str = ""


_FIELDS = tuple(field.name for field in fields(ImageCaption))

Record = ImageCaption | Reject


def words(caption: ImageCaption) -> int:
    """Count the words, as white space parts them."""
    return len(caption.caption.split())


def characters(caption: ImageCaption) -> int:
    """Count the characters, white space included."""
    return len(caption.caption)


def symbol_share(caption: ImageCaption) -> float:
    """Return the share of numbers, punctuation and symbols, Unicode's N, P and S, in what is no white space."""
    kinds = Counter(unicodedata.category(char)[0] for char in caption.caption if not char.isspace())
    return (kinds["N"] + kinds["P"] + kinds["S"]) / max(1, kinds.total())


def repetition(caption: ImageCaption) -> float:
    """Return 1 - distinct pairs / pairs, of neighbouring words of the cleaned text; 0 for less than two words.

    It is seq-rep-2 of Welleck et al. 2020, "Neural Text Generation with Unlikelihood Training".
    """
    pairs = [*pairwise(clean_caption(caption.caption).split())]
    return 1 - len(set(pairs)) / len(pairs) if pairs else 0.0


def own_words(caption: ImageCaption) -> int:
    """Count the distinct words that do not stand in the picture's file name, by its URL or by `image_name`."""
    path = unquote(_END_OF_PATH.split(caption.image_url, maxsplit=1)[0])
    names = " ".join(name.rpartition("/")[2] for name in (path, caption.image_name))
    return len({*clean_caption(caption.caption).split()} - {*clean_caption(names).split()})


CAPTION_FILTERS: tuple[Filter[ImageCaption], ...] = (
    Filter("min_words", "too_few_words", words),
    Filter("max_words", "too_many_words", words),
    Filter("min_characters", "too_few_characters", characters),
    Filter("max_symbol_share", "too_many_symbols", symbol_share),
    Filter("max_repetition", "repetitive_caption", repetition),
    Filter("min_own_words", "caption_is_file_name", own_words),
)
"""Asked in this order about the caption as it was ingested."""


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


def filter_caption(caption: ImageCaption, parameters: PreprocessParameters) -> Record:
    """Keep a caption that passes the filters which are on."""
    refused = refusal(CAPTION_FILTERS, caption, parameters)
    return Reject.of(caption, STAGE, *refused) if refused else caption


def filter_language(caption: ImageCaption, parameters: PreprocessParameters) -> Record:
    """Keep a caption in one of the languages, or one that no language is likely for."""
    if not parameters.languages or "*" in parameters.languages:
        return caption
    language = language_of(caption.caption)
    if not language or language in parameters.languages:
        return caption
    return Reject.of(caption, STAGE, "other_language", language)


def clean(caption: ImageCaption, parameters: PreprocessParameters) -> Record:
    """Make the text that is stored beside the caption as it was ingested."""
    text = clean_caption(caption.caption) if parameters.caption_text == "plain" else caption.caption
    if not text.strip():
        return Reject.of(caption, "captions", "empty_caption", "nothing is left after cleaning")
    return CleanedCaption(**{name: getattr(caption, name) for name in _FIELDS}, text=text)


def apply_all(record: Record, parameters: PreprocessParameters) -> Record:
    """Put a caption through the filters, and clean it; one that was rejected before stays as it is."""
    for rule in (filter_license, filter_caption, filter_language, clean):
        if not isinstance(record, Reject):
            record = rule(record, parameters)
    return record
