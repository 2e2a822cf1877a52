"""COCO's captions: one JSON object with images, annotations and licences."""

from functools import partial
from typing import Any

from captionflow.core.records import is_integer, unforeseeable
from captionflow.sources.caption_file import CaptionFile
from captionflow.sources.columns import Columns
from captionflow.sources.json_stream import first_object_keys, items
from captionflow.sources.parameters import IngestParameters
from captionflow.sources.rows import Rows, in_folder, reject, to_record

DESCRIPTION = "COCO captions JSON (an object with images and annotations; plain, .gz or in a .zip)"
_COCO_KEYS = {"info", "licenses", "images", "annotations", "categories", "type"}
_LONGEST_ID = 100


def is_coco(head: bytes, columns: Columns) -> bool:
    """Whether a file that begins like this is of the format."""
    if not head.startswith(b"{"):
        return False
    keys = first_object_keys(head)
    return bool(keys & _COCO_KEYS) and not columns.hold_captions(keys)


def read_coco(source: CaptionFile, parameters: IngestParameters, image_root: str | None) -> Rows:
    """Yield the captions of a source; `image_root`, a folder URI, replaces the URLs of its images."""
    # Three passes: the file may hold its parts in any order, and only licences and images fit in memory.
    truncate = partial(_truncate, max_length=parameters.max_text_bytes)
    licenses = {
        _key(row["id"]): truncate(row.get("name")) for row in items(source, "licenses") if _is_id(row.get("id"))
    }
    images = {
        _key(row["id"]): (
            truncate(_image_url(row, parameters.url_field, image_root)), truncate(row.get("file_name")),
            truncate(row.get("license")),
        )
        for row in items(source, "images")
        if is_integer(row.get("id"))
    }  # fmt: skip
    for annotation in items(source, "annotations"):
        image_id = annotation.get("image_id")
        if not is_integer(image_id):
            yield to_record(annotation, source)
            continue
        if _key(image_id) not in images:
            yield reject(annotation, "unknown_image", f"no image has the id {image_id}")
            continue
        url, name, license_id = images[_key(image_id)]
        row = {**annotation, "image_url": url, "image_name": name}
        license_name = licenses.get(_key(license_id)) if _is_id(license_id) else None
        yield to_record({**row, "image_license": license_name}, source)


def _truncate(value: Any, max_length: int) -> Any:
    """Bound the memory that a field takes; a text that is too long stays longer than `max_length`, to be rejected."""
    if isinstance(value, str):
        return value[: max_length + 1]
    return () if isinstance(value, (list, dict)) else value


def _is_id(value: Any) -> bool:
    return (isinstance(value, str) and len(value) <= _LONGEST_ID) or is_integer(value)


def _key(id_: Any) -> bytes | str:
    """Return the key of an id, a text or an integer, in a dictionary."""
    return id_ if isinstance(id_, str) else unforeseeable(id_)


def _image_url(image: dict[str, Any], url_field: str, image_root: str | None) -> Any:
    name = image.get("file_name")
    if image_root is None or not isinstance(name, str):
        return image.get(url_field)
    return in_folder(image_root, name)
