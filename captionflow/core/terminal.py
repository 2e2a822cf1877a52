"""Text from outside for a terminal or a log, without effect on either."""

import re

# Control characters, changes of the writing direction, line ends of Unicode's own, halves of surrogate pairs.
_CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Return `text` with control characters escaped as in JSON, like \u001b; line feeds stay."""
    return _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def one_line(text: str) -> str:
    """Return `text` as `printable` does, line feeds escaped too, so that it cannot pass for another line."""
    return printable(text).replace("\n", "\\u000a")
