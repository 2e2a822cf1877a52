"""What flows between the steps: the records, their checks, and their JSON and Avro forms."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

CAPTIONS = "captions.jsonl"
"""The file of an ingested artifact that holds its captions, one ImageCaption a line."""

_INT64 = range(-(2**63), 2**63)


def is_integer(value: Any) -> bool:
    """Whether a value is an integer of 64 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and value in _INT64


def unforeseeable(id_: int) -> bytes:
    """Return a dict key for an id. Its hash is secret: integers could be chosen to collide in a dict or a set."""
    return id_.to_bytes(8, "little", signed=True)


class RecordError(ValueError):
    """A row that is no ImageCaption. `reason` is a short name, the message says which field."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def to_json_line(record: Any) -> bytes:
    """Return a record, any dataclass of texts and numbers, as one line of JSON in UTF-8, newline included."""
    # A lone surrogate has no UTF-8 form; backslashreplace spells it as JSON itself would.
    text = json.dumps(asdict(record), ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace") + b"\n"


@dataclass(frozen=True, slots=True)
class ImageCaption:
    """One caption of one image, as ingested. An image with five captions is five of these."""

    image_id: int
    id: int
    caption: str
    image_url: str
    image_name: str
    image_license: str

    @classmethod
    def from_mapping(cls, row: Mapping[str, Any]) -> "ImageCaption":
        """Check a row and build the record; other keys are left out.

        Raises:
            RecordError: `missing_field` or `ill_typed_field`, with the name of the field.
        """
        for field in fields(cls):
            value = row.get(field.name)
            if value is None:
                raise RecordError("missing_field", field.name)
            if field.type is int:
                if not is_integer(value):
                    raise RecordError("ill_typed_field", f"{field.name} is not a 64-bit integer")
            elif not isinstance(value, str):
                raise RecordError("ill_typed_field", f"{field.name} is not text")
            elif any("\ud800" <= char <= "\udfff" for char in value):
                raise RecordError("ill_typed_field", f"{field.name} is not valid Unicode")
        return cls(**{field.name: row[field.name] for field in fields(cls)})

    @classmethod
    def from_json(cls, line: bytes | str) -> "ImageCaption":
        """Read one line of JSON.

        Raises:
            RecordError: as `from_mapping`, or `not_json`.
        """
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise RecordError("not_json", str(error)) from error
        if not isinstance(row, dict):
            raise RecordError("not_json", "not a JSON object")
        return cls.from_mapping(row)


TEXTS = tuple(field.name for field in fields(ImageCaption) if field.type is str)
"""The fields of an ImageCaption that are text."""


@dataclass(frozen=True, slots=True)
class Reject:
    """A dropped caption: at which stage, why, and whether another run may keep it."""

    stage: str
    reason: str
    detail: str
    id: int | None = None
    image_id: int | None = None
    image_url: str | None = None
    retryable: bool = False

    @classmethod
    def of(
        cls, caption: ImageCaption, stage: str, reason: str, detail: str = "", *, retryable: bool = False
    ) -> "Reject":
        """Reject `caption` at `stage`."""
        return cls(stage, reason, detail, caption.id, caption.image_id, caption.image_url, retryable)

    @classmethod
    def from_json(cls, line: bytes | str) -> "Reject":
        """Read one line that `to_json_line` wrote."""
        return cls(**json.loads(line))


@dataclass(frozen=True, slots=True)
class Caption:
    """A cleaned caption and the id it was ingested with."""

    id: int
    text: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One preprocessed image with all its captions.

    `image` is a JPEG or PNG file, or for the format `tensor` raw uint8 values of shape
    (3, height, width); `height` and `width` are in pixels and those of `image`.
    """

    image_id: int
    captions: tuple[Caption, ...]
    image: bytes
    height: int
    width: int
    image_url: str
    image_license: str

    AVRO_SCHEMA: ClassVar[dict[str, Any]] = {
        "type": "record",
        "name": "Sample",
        "namespace": "captionflow",
        "fields": [
            {"name": "image_id", "type": "long"},
            {
                "name": "captions",
                "type": {
                    "type": "array",
                    "items": {
                        "type": "record",
                        "name": "Caption",
                        "fields": [{"name": "id", "type": "long"}, {"name": "text", "type": "string"}],
                    },
                },
            },
            {"name": "image", "type": "bytes"},
            {"name": "height", "type": "int"},
            {"name": "width", "type": "int"},
            {"name": "image_url", "type": "string"},
            {"name": "image_license", "type": "string"},
        ],
    }

    def to_avro(self) -> dict[str, Any]:
        """Return the record to write with `AVRO_SCHEMA`."""
        record: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**record, "captions": [{"id": caption.id, "text": caption.text} for caption in self.captions]}

    @classmethod
    def from_avro(cls, record: Any) -> "Sample":
        """Build the sample from a record, a dict, read with `AVRO_SCHEMA`."""
        return cls(**{**record, "captions": tuple(Caption(**caption) for caption in record["captions"])})
