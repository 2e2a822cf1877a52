"""The text of a caption, made plain."""

import re
import unicodedata

_URL = re.compile(r"(?:[a-z][a-z0-9+.-]{0,30}://|www\.)\S+")
# Whatever is neither a letter, a mark, a digit nor white space; apostrophes go without leaving a gap.
_APOSTROPHE = re.compile(r"['’ʼ]")


def clean_caption(text: str) -> str:
    """Return `text` in NFC, lower case, without URLs and punctuation, white space folded.

    Idempotent: cleaning a clean caption changes nothing. The result may be empty.
    """
    text = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).lower())
    text = _APOSTROPHE.sub("", _URL.sub(" ", text))
    kept = (_keep(char, unicodedata.category(char)) for char in text)
    # Removing a character can bring a letter and a combining mark together: compose once more.
    return unicodedata.normalize("NFC", " ".join("".join(kept).split()))


def _keep(char: str, category: str) -> str:
    if category == "Cf":  # Invisible format characters, such as joiners, stand inside words.
        return ""
    return char if category[0] in "LMN" else " "
