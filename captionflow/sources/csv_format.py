"""CSV with a header and one caption a row."""

import csv
import io
import re
from collections.abc import Iterator
from typing import IO, Any

from captionflow.sources.bounded import MAX_ROW_BYTES, RowReader
from captionflow.sources.caption_file import CaptionFile
from captionflow.sources.parameters import IngestParameters
from captionflow.sources.rows import OPTIONAL, REQUIRED, Rows, reject, to_record

DESCRIPTION = f"CSV with the columns {','.join(REQUIRED)} (and {', '.join(OPTIONAL)} if you like)"
# Reading a row takes time for every column.
_MAX_COLUMNS = 256
# Longer ones are no 64-bit integers, and int() may refuse to read them.
_INTEGER = re.compile(r"-?\d{1,100}", re.ASCII)
# A longer field is a quote that was never closed.
csv.field_size_limit(MAX_ROW_BYTES)


def is_csv(head: bytes) -> bool:
    """Whether a file that begins like this is of the format."""
    first = next(iter(head.splitlines()), b"")
    header = next(csv.reader([first.decode("utf-8", "replace")], skipinitialspace=True), [])
    return set(REQUIRED) <= {name.strip() for name in header}


def read_csv(source: CaptionFile, parameters: IngestParameters, image_root: str | None) -> Rows:
    """Yield the rows of a source."""
    with source.open() as file:
        bounded = RowReader(file)
        reader = csv.DictReader(_text_lines(io.BufferedReader(bounded)), skipinitialspace=True)
        reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        if len(reader.fieldnames) > _MAX_COLUMNS:
            raise csv.Error(f"it has more than {_MAX_COLUMNS} columns")
        for row in reader:
            bounded.row_bytes = 0
            values: dict[str, Any] = {name: value or None for name, value in row.items() if name is not None}
            for name in ("image_id", "id"):
                # ImageCaption rejects what is no number, and names it.
                if _INTEGER.fullmatch(values.get(name) or ""):
                    values[name] = int(values[name])
            if None in row:
                yield reject(values, "ill_typed_field", f"line {reader.line_num} has more fields than columns")
            else:
                yield to_record(values, source)


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
