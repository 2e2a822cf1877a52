"""Check a row, of any format: it becomes an ImageCaption, or a Reject with the reason."""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from captionflow.core.records import ImageCaption, RecordError, Reject, is_integer

STAGE = "ingest"
COLUMNS = tuple(field.name for field in fields(ImageCaption))

Rows = Iterator[ImageCaption | Reject]


def to_record(row: dict[str, Any]) -> ImageCaption | Reject:
    """Return the row as an ImageCaption, or as a Reject if a field is missing or wrong."""
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
