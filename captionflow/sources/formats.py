"""The formats of caption files: how each is recognised and read."""

import csv
import lzma
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import ijson

from captionflow.sources import coco_format, csv_format, jsonl_format
from captionflow.sources.caption_file import CaptionFile
from captionflow.sources.json_stream import BYTE_ORDER_MARK
from captionflow.sources.parameters import IngestParameters
from captionflow.sources.rows import Rows

# What the standard library's and ijson's readers raise on files that are not what they seem.
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
        description: what to tell those whose file is of no known format.
        recognises: whether a file that begins like this, white space left out, is of the format.
        read: yields the rows of a source in the order of the file; its last argument is a folder URI that replaces the
            URLs of images, or None.
    """

    description: str
    recognises: Callable[[bytes], bool]
    read: Callable[[CaptionFile, IngestParameters, str | None], Rows]


FORMATS = (
    Format(csv_format.DESCRIPTION, csv_format.is_csv, csv_format.read_csv),
    Format(coco_format.DESCRIPTION, coco_format.is_coco, coco_format.read_coco),
    Format(jsonl_format.DESCRIPTION, jsonl_format.is_json_lines, jsonl_format.read_json_lines),
)
"""Every format, in the order in which they are asked."""

EXPECTED = f"expected {', or '.join(format_.description for format_ in FORMATS)}"


def recognise(head: bytes) -> Format | None:
    """Return the format of a file that begins like this, None if there is none such."""
    text = head.removeprefix(BYTE_ORDER_MARK).lstrip()
    return next((format_ for format_ in FORMATS if format_.recognises(text)), None)


def reason_of(error: Exception) -> str:
    """Return in one line why a file cannot be read."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, ArithmeticError):
        return "a number is out of range"
    return " ".join(str(error).split()) or type(error).__name__
