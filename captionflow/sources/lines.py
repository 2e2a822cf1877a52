"""Read a source line by line, without holding one that has no end."""

from collections.abc import Iterator

from captionflow.core.records import Reject
from captionflow.sources.caption_file import CaptionFile
from captionflow.sources.json_stream import BYTE_ORDER_MARK
from captionflow.sources.rows import STAGE

_LINE_BYTES = 1 << 20


def numbered_lines(source: CaptionFile) -> Iterator[tuple[int, bytes | Reject]]:
    """Yield number and text of each line that is not blank, stripped; a Reject in place of one that is too long."""
    number = 0
    with source.open() as file:
        while line := file.readline(_LINE_BYTES):
            number += 1
            if len(line) == _LINE_BYTES and not line.endswith(b"\n"):
                while (rest := file.readline(_LINE_BYTES)) and not rest.endswith(b"\n"):
                    pass
                yield number, Reject(STAGE, "line_too_long", f"line {number} is longer than {_LINE_BYTES} bytes")
            elif stripped := line.removeprefix(BYTE_ORDER_MARK).strip():
                yield number, stripped
