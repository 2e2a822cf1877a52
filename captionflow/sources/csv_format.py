"""CSV with a header and one caption a row."""

import csv
import io
import re
from collections.abc import Iterator
from typing import IO, Any

from captionflow.sources.bounded import MAX_ROW_BYTES, RowReader
from captionflow.sources.caption_file import CaptionFile
from captionflow.sources.columns import DESCRIPTION as _COLUMNS
from captionflow.sources.columns import Columns
from captionflow.sources.parameters import IngestParameters
from captionflow.sources.rows import Rows, from_columns, reject

DESCRIPTION = f"CSV with {_COLUMNS}"
# Reading a row takes time for every column.
_MAX_COLUMNS = 256
# Longer ones are no 64-bit integers, and int() may refuse to read them.
_INTEGER = re.compile(r"-?\d{1,100}", re.ASCII)
# A longer field is a quote that was never closed.
csv.field_size_limit(MAX_ROW_BYTES)


def is_csv(head: bytes, columns: Columns) -> bool:
    """Whether a file that begins like this is of the format."""
    first = next(iter(head.splitlines()), b"")
    header = next(csv.reader([first.decode("utf-8", "replace")], skipinitialspace=True), [])
    return columns.hold_captions({name.strip() for name in header})


def read_csv(source: CaptionFile, parameters: IngestParameters, image_root: str | None) -> Rows:
    """Yield the rows of a source; an id that is no integer is rejected, unless the user named its column."""
    columns = Columns.of(parameters)
    with source.open() as file:
        bounded = RowReader(file)
        reader = csv.DictReader(_text_lines(io.BufferedReader(bounded)), skipinitialspace=True)
        reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        if len(reader.fieldnames) > _MAX_COLUMNS:
            raise csv.Error(f"it has more than {_MAX_COLUMNS} columns")
        for row in reader:
            bounded.row_bytes = 0
            values = _integers({name: value or None for name, value in columns.pick(row).items()})
            if None in row:
                yield reject(values, "ill_typed_field", f"line {reader.line_num} has more fields than columns")
            else:
                yield from_columns(values, source, text_ids="id" in columns.given)


def _integers(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with integers for the ids that are written as such."""
    return row | {name: int(row[name]) for name in ("image_id", "id") if _INTEGER.fullmatch(row.get(name) or "")}


def _text_lines(file: IO[bytes]) -> Iterator[str]:
    # Bytes that are not UTF-8 become surrogates, which ImageCaption rejects row by row.
    text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
    is_content = False
    while line := text.readline(MAX_ROW_BYTES):
        if len(line) == MAX_ROW_BYTES:
            raise csv.Error(f"a line is longer than {MAX_ROW_BYTES} characters")
        is_content = is_content or not line.isspace()
        if is_content:
            yield line
