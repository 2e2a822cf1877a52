"""Check a row, of any format: it becomes an ImageCaption, or a Reject with the reason."""

import hashlib
from collections.abc import Iterator
from dataclasses import MISSING, fields, replace
from typing import Any
from urllib.parse import quote

from captionflow.core.records import TEXTS, ImageCaption, RecordError, Reject, is_integer
from captionflow.core.uris import is_local
from captionflow.sources.caption_file import CaptionFile

STAGE = "ingest"
REQUIRED = tuple(field.name for field in fields(ImageCaption) if field.default is MISSING)
OPTIONAL = tuple(field.name for field in fields(ImageCaption) if field.default is not MISSING)
"""The columns that a row must have, and those that it may have."""

# What others call the split val.
_VALIDATION = {"validation", "valid", "dev"}
_HASH_BYTES = 8
_MAX_BYTES_OF_A_CHARACTER = 4
_LONGEST_DETAIL = 500

Rows = Iterator[ImageCaption | Reject]


def to_record(row: dict[str, Any], source: CaptionFile) -> ImageCaption | Reject:
    """Return a row of a source as an ImageCaption, or as a Reject if a field is missing or wrong."""
    row = _completed(row, source)
    try:
        return ImageCaption.from_mapping(row)
    except RecordError as error:
        return reject(row, error.reason, str(error))


def from_columns(row: dict[str, Any], source: CaptionFile, *, text_ids: bool = True) -> ImageCaption | Reject:
    """Return a row as `to_record` does; its ids may have no column.

    Then the image's id is the `stable_id` of its URL, and the caption's that of the image's id and the caption.

    Args:
        text_ids: whether an id may be a text, which becomes an integer by `stable_id`.
    """
    row = _completed(row, source)
    try:
        return ImageCaption.from_mapping({**row, **_ids(row, text_ids)})
    except RecordError as error:
        return reject(row, error.reason, str(error))


def stable_id(data: bytes) -> int:
    """Return a hash of 64 bits as a signed integer: BLAKE2b, the same on every machine.

    That two of n ids are equal by chance has a probability of n²/2⁶⁵: 3 · 10⁻⁸ for a million, 3 % for a billion. The
    later row is then a Reject, `conflicting_image` or `duplicate_id`.
    """
    return int.from_bytes(hashlib.blake2b(data, digest_size=_HASH_BYTES).digest(), "big", signed=True)


def reject(row: dict[str, Any], reason: str, detail: str) -> Reject:
    """Return a Reject of the row, with its ids and URL if it has them."""
    ids = (row.get("id"), row.get("image_id"))
    id_, image_id = (value if is_integer(value) else None for value in ids)
    url = row.get("image_url")
    return Reject(STAGE, reason, detail, id_, image_id, url if isinstance(url, str) else None)


def reject_long_text(record: ImageCaption | Reject, max_bytes: int) -> ImageCaption | Reject:
    """Return a Reject in place of a row whose caption, URL, file name or licence is too long for the later steps."""
    if isinstance(record, ImageCaption):
        if name := _long_field(record, max_bytes):
            detail = f"{name} is longer than {max_bytes} bytes (--max-text-bytes)"
            return Reject(STAGE, "text_too_long", detail, record.id, record.image_id)
    elif len(record.detail) + len(record.image_url or "") > max_bytes:
        # Each caption of an image with an endless URL would repeat it.
        return replace(record, detail=record.detail[:_LONGEST_DETAIL], image_url=None)
    return record


def _long_field(record: ImageCaption, max_bytes: int) -> str | None:
    for name in TEXTS:
        text = getattr(record, name)
        # Encoding takes time; most texts are so short that it is not needed.
        if len(text) * _MAX_BYTES_OF_A_CHARACTER > max_bytes and len(text.encode()) > max_bytes:
            return name
    return None


def _completed(row: dict[str, Any], source: CaptionFile) -> dict[str, Any]:
    """Return a row with what the source adds: the folder of a relative path, and its split."""
    url, split = row.get("image_url"), source.split or row.get("split")
    if isinstance(url, str):
        row = {**row, "image_url": source.beside(url)}
    if isinstance(split, str):
        row = {**row, "split": "val" if split in _VALIDATION else split}
    return row


def _ids(row: dict[str, Any], text_ids: bool) -> dict[str, Any]:
    """Return integers for the ids that are texts, if they may be, or have no column."""
    ids: dict[str, Any] = {name: row[name] for name in ("image_id", "id") if name in row}
    if text_ids:
        ids = {name: stable_id(_bytes(value)) if isinstance(value, str) else value for name, value in ids.items()}
    image_id = ids.setdefault("image_id", stable_id(_bytes(row.get("image_url"))))
    if "id" not in ids and is_integer(image_id):
        ids["id"] = stable_id(image_id.to_bytes(_HASH_BYTES, "big", signed=True) + _bytes(row.get("caption")))
    return ids


def _bytes(value: Any) -> bytes:
    """Return a text in UTF-8; what is none, or none that can be written so, is left to ImageCaption to reject."""
    return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else b""


def in_folder(root: str, name: str) -> str:
    """Return the path or URL of the image that has a name in a folder."""
    return f"{root.rstrip('/')}/{name if is_local(root) else quote(name)}"
