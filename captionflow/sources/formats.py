"""The formats of caption files, and how to recognise them."""

import csv
import lzma
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import ijson

from captionflow.sources import (
    coco_format,
    csv_format,
    flickr_format,
    jsonl_format,
    karpathy_format,
    parquet_format,
)
from captionflow.sources.caption_file import CaptionFile
from captionflow.sources.columns import Columns
from captionflow.sources.json_stream import BYTE_ORDER_MARK
from captionflow.sources.parameters import IngestParameters
from captionflow.sources.rows import Rows

# What the readers of the standard library and of ijson raise on a broken file.
UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    ArithmeticError,
    MemoryError,
    csv.Error,
    ijson.JSONError,
    lzma.LZMAError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True)
class Format:
    """A format of caption files.

    Args:
        description: the format in an error message, for a user whose file is in no known format.
        recognises: takes the first bytes of a file, without white space before them, and the columns of tables;
            returns whether it has the format.
        read: yields the rows of a source in the order of the file. Its last argument is the URI of a folder that
            holds the images by name, or None.
    """

    description: str
    recognises: Callable[[bytes, Columns], bool]
    read: Callable[[CaptionFile, IngestParameters, str | None], Rows]


FORMATS = (
    Format(parquet_format.DESCRIPTION, parquet_format.is_parquet, parquet_format.read_parquet),
    Format(csv_format.DESCRIPTION, csv_format.is_csv, csv_format.read_csv),
    Format(karpathy_format.DESCRIPTION, karpathy_format.is_karpathy, karpathy_format.read_karpathy),
    Format(coco_format.DESCRIPTION, coco_format.is_coco, coco_format.read_coco),
    Format(jsonl_format.DESCRIPTION, jsonl_format.is_json_lines, jsonl_format.read_json_lines),
    Format(flickr_format.DESCRIPTION, flickr_format.is_flickr, flickr_format.read_flickr),
)
"""All formats; the first that recognises a file reads it."""

EXPECTED = f"expected {', or '.join(format_.description for format_ in FORMATS)}"


def recognise(head: bytes, parameters: IngestParameters) -> Format | None:
    """Return the format of a file that begins with `head`, None if it is in no known format."""
    columns = Columns.of(parameters)
    text = head.removeprefix(BYTE_ORDER_MARK).lstrip()
    return next((format_ for format_ in FORMATS if format_.recognises(text, columns)), None)


def reason_of(error: Exception) -> str:
    """Return in one line why a file cannot be read."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, ArithmeticError):
        return "a number is out of range"
    return " ".join(str(error).split()) or type(error).__name__
