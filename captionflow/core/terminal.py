"""Text from outside on a terminal or in a log: shown, never acted on."""

import re

# Control characters, those that turn the direction of writing, line ends of Unicode's own, halves of surrogate pairs.
_ACTING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Return `text` with what a terminal would act on spelled as JSON does, like \u001b; line feeds stay."""
    return _ACTING.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def one_line(text: str) -> str:
    """Return `text` as `printable` does, line feeds spelled too: it cannot pass for another line."""
    return printable(text).replace("\n", "\\u000a")
