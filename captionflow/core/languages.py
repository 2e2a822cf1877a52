"""Which language a text is in, by py3langid: naive Bayes over sequences of bytes, with a model inside its wheel.

After Lui and Baldwin 2012, "langid.py: An Off-the-shelf Language Identification Tool".
"""

from functools import cache
from typing import Any

# Share of the probability that a language must have: of few words, several languages have some of it.
_CERTAIN = 0.9


def language_of(text: str) -> str:
    """Return the language of a text by its code of ISO 639-1; "" where none is certain, as of a few words or a name."""
    language, probability = _identifier().classify(text)
    return str(language) if probability >= _CERTAIN else ""


@cache
def _identifier() -> Any:
    # Imported here: it takes a moment, and only those who ask for languages need it.
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
