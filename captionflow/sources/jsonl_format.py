"""JSON Lines with one caption a line, such as the metadata.jsonl of Hugging Face's image folders."""

import json

from captionflow.core.records import ImageCaption, Reject
from captionflow.sources.caption_file import CaptionFile
from captionflow.sources.columns import Columns
from captionflow.sources.json_stream import first_object_keys
from captionflow.sources.lines import numbered_lines
from captionflow.sources.parameters import IngestParameters
from captionflow.sources.rows import STAGE, Rows, from_columns

DESCRIPTION = "JSON Lines with those keys"


def is_json_lines(head: bytes, columns: Columns) -> bool:
    """Whether a file that begins like this is of the format."""
    # Any line suffices: the first may be broken.
    return any(line.startswith(b"{") and columns.hold_captions(first_object_keys(line)) for line in head.splitlines())


def read_json_lines(source: CaptionFile, parameters: IngestParameters, image_root: str | None) -> Rows:
    """Yield the rows of a source."""
    columns = Columns.of(parameters)
    for number, line in numbered_lines(source):
        yield line if isinstance(line, Reject) else _json_line(line, number, source, columns)


def _json_line(line: bytes, number: int, source: CaptionFile, columns: Columns) -> ImageCaption | Reject:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Reject(STAGE, "not_json", f"line {number}: {error}")
    if not isinstance(row, dict):
        return Reject(STAGE, "not_json", f"line {number} is not a JSON object")
    return from_columns(columns.pick(row), source)
