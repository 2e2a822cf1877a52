"""JSON Lines with one caption a line."""

import json

from captionflow.core.records import ImageCaption, Reject
from captionflow.sources.caption_file import CaptionFile
from captionflow.sources.json_stream import BYTE_ORDER_MARK, first_object_keys
from captionflow.sources.parameters import IngestParameters
from captionflow.sources.rows import STAGE, Rows, to_record

DESCRIPTION = "JSON Lines with those fields"
ROW_KEYS = {"image_id", "caption"}
_LINE_BYTES = 1 << 20


def is_json_lines(head: bytes) -> bool:
    """Whether a file that begins like this is of the format."""
    # Any line suffices: the first may be broken.
    return any(line.startswith(b"{") and first_object_keys(line) >= ROW_KEYS for line in head.splitlines())


def read_json_lines(source: CaptionFile, parameters: IngestParameters, image_root: str | None) -> Rows:
    """Yield the rows of a source."""
    number = 0
    with source.open() as file:
        while line := file.readline(_LINE_BYTES):
            number += 1
            if len(line) == _LINE_BYTES and not line.endswith(b"\n"):
                while (rest := file.readline(_LINE_BYTES)) and not rest.endswith(b"\n"):
                    pass
                yield Reject(STAGE, "line_too_long", f"line {number} is longer than {_LINE_BYTES} bytes")
            elif stripped := line.removeprefix(BYTE_ORDER_MARK).strip():
                yield _json_line(stripped, number, source)


def _json_line(line: bytes, number: int, source: CaptionFile) -> ImageCaption | Reject:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Reject(STAGE, "not_json", f"line {number}: {error}")
    if not isinstance(row, dict):
        return Reject(STAGE, "not_json", f"line {number} is not a JSON object")
    return to_record(row, source)
