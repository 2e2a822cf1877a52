"""What flows between the steps: the records, their checks, and their JSON and Avro forms."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from itertools import combinations
from typing import Any, ClassVar

CAPTIONS = "captions.jsonl"
"""The file of an ingested artifact that holds its captions, one ImageCaption a line."""

REJECTS = "rejects"
"""The folder of a preprocessed artifact that holds its Rejects; an ingested one has them in a file, `rejects.jsonl`."""

SPLITS = ("train", "val", "test")
SPLIT_CHOICES = tuple("+".join(splits) for number in (1, 2, 3) for splits in combinations(SPLITS, number))
"""What a source may give as an image's split: one, or several, of which a hash of the image's id chooses."""

UNKNOWN_LICENSE = "unknown"
"""The licence of an image whose source names none; a filter decides whether it is kept."""

_INT64 = range(-(2**63), 2**63)
_LONGEST_NAME = 50


def is_integer(value: Any) -> bool:
    """Whether a value is an integer of 64 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and value in _INT64


def part_source(source: str) -> tuple[str | None, str]:
    """Return the split and the URI of a source as its user gives it: `val+test=URI`, or a URI alone."""
    given, equals, uri = source.partition("=")
    splits = given.split("+")
    choice = "+".join(split for split in SPLITS if split in splits)
    return (choice, uri) if equals and {*splits} <= {*SPLITS} else (None, source)


def unforeseeable(id_: int) -> bytes:
    """Return a dict key for an id. Its hash is secret: integers could be chosen to collide in a dict or a set."""
    return id_.to_bytes(8, "little", signed=True)


class RecordError(ValueError):
    """A row that is no ImageCaption. `reason` is a short name, the message says which field."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def _checked(name: str, value: Any, kind: Any) -> Any:
    if kind is int:
        if not is_integer(value):
            raise RecordError("ill_typed_field", f"{name} is not a 64-bit integer")
    elif not isinstance(value, str):
        raise RecordError("ill_typed_field", f"{name} is not text")
    elif any("\ud800" <= char <= "\udfff" for char in value):
        raise RecordError("ill_typed_field", f"{name} is not valid Unicode")
    return value


def to_json_line(record: Any) -> bytes:
    """Return a record, any dataclass of texts and numbers, as one line of JSON in UTF-8, newline included."""
    # A lone surrogate has no UTF-8 form; backslashreplace spells it as JSON itself would.
    text = json.dumps(asdict(record), ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace") + b"\n"


@dataclass(frozen=True, slots=True)
class ImageCaption:
    """One caption of one image, as ingested. An image with five captions is five of these.

    `split` is one of `SPLIT_CHOICES`; None leaves the choice to the shares of all splits.
    """

    image_id: int
    id: int
    caption: str
    image_url: str
    image_name: str = ""
    image_license: str = UNKNOWN_LICENSE
    split: str | None = None

    @classmethod
    def from_mapping(cls, row: Mapping[str, Any]) -> "ImageCaption":
        """Check a row and build the record; other keys are left out.

        Raises:
            RecordError: `missing_field` or `ill_typed_field`, with the name of the field, or `unknown_split`.
        """
        given: dict[str, Any] = {}
        for each in fields(cls):
            value = row.get(each.name)
            if value is not None:
                given[each.name] = _checked(each.name, value, each.type)
            elif each.default is MISSING:
                raise RecordError("missing_field", each.name)
        if given.get("split", SPLITS[0]) not in SPLIT_CHOICES:
            raise RecordError(
                "unknown_split", f"split is {given['split'][:_LONGEST_NAME]!r}, none of {', '.join(SPLITS)}"
            )
        return cls(**given)

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


TEXTS = tuple(each.name for each in fields(ImageCaption) if each.type is str)
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
    split: str | None = None

    @classmethod
    def of(
        cls, caption: ImageCaption, stage: str, reason: str, detail: str = "", *, retryable: bool = False
    ) -> "Reject":
        """Reject `caption` at `stage`."""
        return cls(stage, reason, detail, caption.id, caption.image_id, caption.image_url, retryable, caption.split)

    @classmethod
    def from_json(cls, line: bytes | str) -> "Reject":
        """Read one line that `to_json_line` wrote."""
        return cls(**json.loads(line))


@dataclass(frozen=True, slots=True)
class Caption:
    """A caption: the id it was ingested with, its text for the model, and its text as it was ingested.

    `raw` is empty in the shards of versions that did not keep it.
    """

    id: int
    text: str
    raw: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """One preprocessed image with all its captions.

    `image` is a JPEG or PNG file, or for the format `tensor` raw uint8 values of shape (3, height, width); `height`
    and `width` are in pixels and those of `image`. `original_height` and `original_width` are those before it was
    resized, 0 in the shards of versions that did not keep them. `perceptual_hash` is empty where nobody asked for it.
    `scores` are the numbers that scorers gave it, by the scorer's name.
    """

    image_id: int
    captions: tuple[Caption, ...]
    image: bytes
    height: int
    width: int
    image_url: str
    image_license: str
    original_height: int = 0
    original_width: int = 0
    perceptual_hash: bytes = b""
    scores: Mapping[str, float] = field(default_factory=dict)

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
                        "fields": [
                            {"name": "id", "type": "long"},
                            {"name": "text", "type": "string"},
                            {"name": "raw", "type": "string", "default": ""},
                        ],
                    },
                },
            },
            {"name": "image", "type": "bytes"},
            {"name": "height", "type": "int"},
            {"name": "width", "type": "int"},
            {"name": "image_url", "type": "string"},
            {"name": "image_license", "type": "string"},
            {"name": "original_height", "type": "int", "default": 0},
            {"name": "original_width", "type": "int", "default": 0},
            {"name": "perceptual_hash", "type": "bytes", "default": ""},
            {"name": "scores", "type": {"type": "map", "values": "double"}, "default": {}},
        ],
    }

    def to_avro(self) -> dict[str, Any]:
        """Return the record to write with `AVRO_SCHEMA`."""
        record: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(self)}
        return {**record, "captions": [{"id": c.id, "text": c.text, "raw": c.raw} for c in self.captions]}

    @classmethod
    def from_avro(cls, record: Any) -> "Sample":
        """Build the sample from a record, a dict, read with `AVRO_SCHEMA`."""
        return cls(**{**record, "captions": tuple(Caption(**caption) for caption in record["captions"])})
