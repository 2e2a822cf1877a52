"""Which language a text is in, by py3langid: naive Bayes over sequences of bytes, with a model inside its wheel.

After Lui and Baldwin 2012, "langid.py: An Off-the-shelf Language Identification Tool".
"""

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

_CODES = (
    "ace af am an ar ary arz as az ba bcl be bg bn br bs ca crh cs cy da de dz el en eo es et eu ext fa fi fo fr "
    "fuv fy ga gcf gcr gd gl gom grc gu gug guw ha hbo he hi hr ht hu hy id ig is it ja jv ka kab kik kk km kn ko "
    "ku ky la lb lg lij ln lo lt ltg lv mg mk ml mn mr ms mt my ne nl nn no nso oc om or pa pcm pl ps pt qu ro ru "
    "rw sa sdh se si sk sl sn so sq sr st sv sw ta te tg th tk tl tr tt ug uk ur uz uzs vec vi vo wa wuu xh yo "
    "yue zh zu"
)
LANGUAGES = tuple(_CODES.split())
"""The languages that can be told, by their codes of ISO 639-1, or of ISO 639-3 where that has none."""

# What the model calls numbers, markup and the like.
_NO_LANGUAGE = "zxx"
# More likely than all others together.
_LIKELY = 0.5


def language_of(text: str) -> str:
    """Return the language of a text, one of `LANGUAGES`; "" where none is more likely than all others together.

    So it is with most texts of one word or two, and with names and numbers.
    """
    language, probability = _identifier().classify(text)
    return str(language) if probability > _LIKELY and language != _NO_LANGUAGE else ""


@cache
def _identifier() -> "LanguageIdentifier":
    # Imported here: it takes a second and 100 MB, and only those who ask for a language need it.
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
