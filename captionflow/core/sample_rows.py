"""A Sample as a row of a table, by names that readers of other programs' shards know.

They are those of img2dataset (github.com/rom1504/img2dataset, `writer.py`) where it has one, and the Sample's own
otherwise.
"""

from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Any

from captionflow.core.records import Sample

KEY, CAPTION, IMAGE = "key", "caption", "image"
"""The columns that are no field of a Sample, or another one: the name of the image's files, the first caption's text,
and the picture, which each format stores in its own way."""

_COLUMNS = {"image_url": "url"}
_ENDINGS = {"jpeg": "jpg", "tensor": ""}


def column_of(field: str) -> str:
    """Return the column of a field of Sample."""
    return _COLUMNS.get(field, field)


def key_of(image_id: int) -> str:
    """Return the name of an image's files: its id in twelve digits or more, as COCO's, plus 2⁶⁴ if it is negative."""
    return f"{image_id % 2**64:012d}"


def ending_of(image_format: str) -> str:
    """Return the ending of a picture's file name; "" for the form `tensor`, which is no file."""
    return _ENDINGS.get(image_format, image_format)


def to_row(sample: Sample) -> dict[str, Any]:
    """Return a Sample without its picture as column → value; `from_row` makes the same Sample of it."""
    record = sample.to_avro()
    del record[IMAGE]
    first = sample.captions[0].text if sample.captions else ""
    return {KEY: key_of(sample.image_id), CAPTION: first, **{column_of(name): record[name] for name in record}}


def from_row(row: Mapping[str, Any], image: bytes) -> Sample:
    """Build a Sample; other columns are left out, and a missing one is as in a shard of before there was the field.

    Raises:
        TypeError: a field is missing.
        fastavro.validation.ValidationError: a field is of another type.
    """
    from fastavro.validation import validate

    columns = {field.name: column_of(field.name) for field in fields(Sample)}
    record = {name: row[column] for name, column in columns.items() if column in row}
    sample = Sample.from_avro({**record, IMAGE: image})
    validate(sample.to_avro(), _schema())
    return sample


@cache
def _schema() -> Any:
    from fastavro import parse_schema

    return parse_schema(Sample.AVRO_SCHEMA)
