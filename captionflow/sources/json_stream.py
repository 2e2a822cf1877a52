"""Read JSON that is too large for memory, one object of an array at a time."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ijson
from ijson.common import ObjectBuilder

from captionflow.core.errors import InvalidInputError
from captionflow.sources.bounded import JSONReader
from captionflow.sources.caption_file import CaptionFile

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_PIECE_BYTES = 1 << 10
_MAX_DEPTH = 100
_DEPTH_CHANGE = {"start_map": 1, "start_array": 1, "end_map": -1, "end_array": -1}


def first_object_keys(text: bytes, level: int = 1) -> set[str]:
    """Return the keys of the object at the beginning of a text, which may be cut off within it.

    Args:
        level: how deep in the object the keys are to stand; the outermost ones are at 1.
    """
    keys: set[str] = set()
    depth = 0
    try:
        for event, value in ijson.basic_parse(JSONReader(io.BytesIO(text)), buf_size=_PIECE_BYTES):
            depth += _DEPTH_CHANGE.get(event, 0)
            if depth == level and event == "map_key":
                keys.add(value)
            if not 0 < depth <= _MAX_DEPTH:
                break
    except (ijson.JSONError, ValueError, ArithmeticError):
        pass  # The text is cut off or wrong, or a second line follows; the reader of the format reports what is wrong.
    return keys


def items(source: CaptionFile, key: str) -> Iterator[dict[str, Any]]:
    """Yield the objects of the array under `key` of the outermost object; an element that is no object becomes {}.

    ijson's own `items` takes time and memory by the square of the depth, and a hostile file is deep.
    """
    depth, inside, builder = 0, False, None
    with _open_json(source) as reader:
        current = None
        for event, value in ijson.basic_parse(reader):
            change = _DEPTH_CHANGE.get(event, 0)
            if depth == 1 and event == "map_key":
                current = value
            if depth == 1 and change:
                inside = event == "start_array" and current == key
            elif inside and depth + min(change, 0) >= 2:
                builder = builder or ObjectBuilder()
                builder.event(event, value)
            depth += change
            if depth > _MAX_DEPTH:
                raise InvalidInputError(f"{source.uri}: is nested deeper than {_MAX_DEPTH} levels")
            if builder and depth == 2:
                yield builder.value if isinstance(builder.value, dict) else {}
                builder = None
            if builder is None:
                reader.row_bytes = 0


@contextmanager
def _open_json(source: CaptionFile) -> Iterator[JSONReader]:
    with source.open() as file:
        if file.peek(len(BYTE_ORDER_MARK)).startswith(BYTE_ORDER_MARK):
            file.read(len(BYTE_ORDER_MARK))
        yield JSONReader(file)
