"""Which language a text is in, by py3langid: naive Bayes over sequences of bytes, with a model inside its wheel.

After Lui and Baldwin 2012, "langid.py: An Off-the-shelf Language Identification Tool".
"""

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

LANGUAGES = tuple(
    "af am an ar as az be bg bn br bs ca cs cy da de dz el en eo es et eu fa fi fo fr ga gl gu he hi hr ht hu hy id is "
    "it ja jv ka kk km kn ko ku ky la lb lo lt lv mg mk ml mn mr ms mt nb ne nl nn no oc or pa pl ps pt qu ro ru rw se "
    "si sk sl sq sr sv sw ta te th tl tr ug uk ur vi vo wa xh zh zu".split()
)
"""The languages that can be told, by their codes of ISO 639-1."""

# Share of the probability that a language must have: of few words, several languages have some of it.
_CERTAIN = 0.9


def language_of(text: str) -> str:
    """Return the language of a text, one of `LANGUAGES`; "" where none is certain, as of a few words or of a name."""
    language, probability = _identifier().classify(text)
    return str(language) if probability >= _CERTAIN else ""


@cache
def _identifier() -> "LanguageIdentifier":
    # Imported here: it takes a moment, and only those who filter by language need it.
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_pickled_model(MODEL_FILE, norm_probs=True)
