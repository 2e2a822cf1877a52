"""Check a row, of any format: it becomes an ImageCaption, or a Reject with the reason."""

from collections.abc import Iterator
from dataclasses import MISSING, fields
from typing import Any
from urllib.parse import quote

from captionflow.core.records import ImageCaption, RecordError, Reject, is_integer
from captionflow.core.uris import is_local
from captionflow.sources.caption_file import CaptionFile

STAGE = "ingest"
REQUIRED = tuple(field.name for field in fields(ImageCaption) if field.default is MISSING)
OPTIONAL = tuple(field.name for field in fields(ImageCaption) if field.default is not MISSING)
"""The columns that a row must have, and those that it may have."""

# What others call the split val.
_VALIDATION = {"validation", "valid", "dev"}

Rows = Iterator[ImageCaption | Reject]


def to_record(row: dict[str, Any], source: CaptionFile) -> ImageCaption | Reject:
    """Return a row of a source as an ImageCaption, or as a Reject if a field is missing or wrong."""
    url, split = row.get("image_url"), source.split or row.get("split")
    if isinstance(url, str):
        row = {**row, "image_url": source.beside(url)}
    if isinstance(split, str):
        row = {**row, "split": "val" if split in _VALIDATION else split}
    try:
        return ImageCaption.from_mapping(row)
    except RecordError as error:
        return reject(row, error.reason, str(error))


def reject(row: dict[str, Any], reason: str, detail: str) -> Reject:
    """Return a Reject of the row, with its ids and URL if it has them."""
    ids = (row.get("id"), row.get("image_id"))
    id_, image_id = (value if is_integer(value) else None for value in ids)
    url = row.get("image_url")
    return Reject(STAGE, reason, detail, id_, image_id, url if isinstance(url, str) else None)


def in_folder(root: str, name: str) -> str:
    """Return the path or URL of the image that has a name in a folder."""
    return f"{root.rstrip('/')}/{name if is_local(root) else quote(name)}"
