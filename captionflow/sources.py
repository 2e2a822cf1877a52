"""Readers of captioned-image collections: COCO JSON, CSV and JSON Lines, told apart by content.

Every reader streams: it yields an ImageCaption or a Reject for each row and holds no more than an
index of the images in memory.
"""

import csv
import gzip
import hashlib
import io
import json
import lzma
import re
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import ijson
from ijson.common import ObjectBuilder

from captionflow.bounded import ROW_BYTES, JSONReader, RowReader, UnpackedReader
from captionflow.errors import InvalidInputError
from captionflow.manifest import Parent
from captionflow.parameters import IngestParameters
from captionflow.records import INT64, ImageCaption, RecordError, Reject, unforeseeable
from captionflow.source_download import download
from captionflow.uris import is_local, resolve

STAGE = "ingest"
COLUMNS = tuple(field.name for field in fields(ImageCaption))
EXPECTED = (
    "expected COCO captions JSON (an object with images and annotations; plain, .gz or in a .zip), "
    f"CSV with the columns {','.join(COLUMNS)}, or JSON Lines with those fields"
)
_ROW_KEYS = {"image_id", "caption"}
_COCO_KEYS = {"info", "licenses", "images", "annotations", "categories", "type"}
_HEAD_BYTES = 1 << 16
_PIECE_BYTES = 1 << 10
_LINE_BYTES = 1 << 20
_MAX_DEPTH = 100
# Of CSV. Every row costs a look at each.
_MAX_COLUMNS = 256
_LONGEST_ID = 100
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# Much longer ones are no 64-bit integers, and int() may refuse to read them.
_INTEGER = re.compile(r"-?\d{1,100}", re.ASCII)
# What the standard library's and ijson's readers raise on files that are not what they seem.
_UNREADABLE = (
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
# A field beyond this is a quote that was never closed.
csv.field_size_limit(ROW_BYTES)

Rows = Iterator[ImageCaption | Reject]


@dataclass(frozen=True)
class Source:
    """A source that has been brought to this machine and recognised."""

    uri: str
    path: Path
    member: str | None
    format: str

    @property
    def parent(self) -> Parent:
        """The source as a parent in a manifest: its URI and the sha256 of its bytes."""
        with self.path.open("rb") as file:
            return Parent("source", self.uri, hashlib.file_digest(file, "sha256").hexdigest())

    def read(self, parameters: IngestParameters, image_root: str | None) -> Rows:
        """Yield the rows in the order of the file.

        Args:
            image_root: folder URI that replaces the URLs of COCO images.

        Raises:
            InvalidInputError: the file breaks off or stops being what it began as.
        """
        try:
            if self.format == "coco":
                yield from _read_coco(self, parameters, image_root)
            else:
                with self.open() as file:
                    yield from (_read_csv if self.format == "csv" else _read_json_lines)(file)
        except _UNREADABLE as error:
            raise InvalidInputError(f"{self.uri}: cannot be read to its end: {_one_line(error)}") from error

    @contextmanager
    def open(self) -> Iterator[io.BufferedReader]:
        """Open the file, unpacked, from its beginning."""
        with _unpacked(self.uri, self.path, self.member) as file:
            yield file


@contextmanager
def open_source(uri: str, parameters: IngestParameters) -> Iterator[Source]:
    """Bring `uri` to this machine if it is elsewhere, and find out what it is.

    Raises:
        InvalidInputError: it cannot be read or is in no known format; one line says what was expected.
    """
    with _local_copy(uri, parameters) as path:
        try:
            member = _choose_member(uri, path, parameters.member)
            with _unpacked(uri, path, member) as file:
                kind = _recognise(file.read(_HEAD_BYTES))
        except _UNREADABLE as error:
            reason = "no such file" if isinstance(error, FileNotFoundError) else _one_line(error)
            raise InvalidInputError(f"{uri}: cannot be read ({reason}); {EXPECTED}") from error
        if kind is None:
            raise InvalidInputError(f"{uri}: {EXPECTED}")
        yield Source(resolve(uri), path, member, kind)


def _one_line(error: Exception) -> str:
    if isinstance(error, ArithmeticError):
        return "a number is out of range"
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def _local_copy(uri: str, parameters: IngestParameters) -> Iterator[Path]:
    if is_local(uri):
        path = Path(resolve(uri))
        try:
            is_other = path.exists() and not path.is_file()
        except OSError as error:
            raise InvalidInputError(f"{uri}: cannot be read ({error.strerror})") from error
        if is_other:
            raise InvalidInputError(f"{uri}: is not a file; {EXPECTED}")
        yield path
        return
    # It has no name, so that nothing is left of it when this process is killed. Linux gives it one meanwhile.
    with tempfile.TemporaryFile() as copy:
        download(uri, copy, parameters)
        yield Path(f"/proc/self/fd/{copy.fileno()}")


def _choose_member(uri: str, path: Path, wanted: str | None) -> str | None:
    with path.open("rb") as file:
        if file.read(len(_ZIP[0])) not in _ZIP:  # What zipfile looks for at the end may stand in a caption.
            return None
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name and not name.endswith("/")]
    except NotImplementedError as error:
        raise InvalidInputError(f"{uri}: {error}") from error
    if wanted is None:
        found = names if len(names) == 1 else [name for name in names if Path(name).name.startswith("captions")]
    else:
        found = [name for name in names if name == wanted or Path(name).name == wanted]
    if len(found) != 1:
        raise InvalidInputError(
            f"{uri}: choose one of its files with --member: {', '.join(names[:20]) or 'it is empty'}"
        )
    return found[0]


@contextmanager
def _unpacked(uri: str, path: Path, member: str | None) -> Iterator[io.BufferedReader]:
    size = path.stat().st_size
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    if member is not None:
        try:
            with zipfile.ZipFile(path) as archive, archive.open(member) as inner:
                yield io.BufferedReader(UnpackedReader(inner, size))
        except (RuntimeError, NotImplementedError) as error:
            raise InvalidInputError(f"{uri}: {error}") from error
    elif packed:
        with gzip.open(path, "rb") as inner:
            yield io.BufferedReader(UnpackedReader(inner, size))
    else:
        with path.open("rb") as file:
            yield file


def _recognise(head: bytes) -> str | None:
    """Return coco, jsonl or csv for the first bytes of a file, or None."""
    text = head.removeprefix(_BYTE_ORDER_MARK).lstrip()
    lines = text.splitlines() or [b""]
    header = next(csv.reader([lines[0].decode("utf-8", "replace")], skipinitialspace=True), [])
    if set(COLUMNS) <= {name.strip() for name in header}:
        return "csv"
    if text.startswith(b"{"):
        keys = _first_object_keys(text)
        if keys & _COCO_KEYS and not keys >= _ROW_KEYS:
            return "coco"
    # Any line will do: the first one may be the one that is broken.
    is_rows = any(line.startswith(b"{") and _first_object_keys(line) >= _ROW_KEYS for line in lines)
    return "jsonl" if is_rows else None


def _first_object_keys(text: bytes) -> set[str]:
    keys: set[str] = set()
    depth = 0
    try:
        for event, value in ijson.basic_parse(JSONReader(io.BytesIO(text)), buf_size=_PIECE_BYTES):
            depth += _DEPTH_CHANGE.get(event, 0)
            if depth == 1 and event == "map_key":
                keys.add(value)
            if not 0 < depth <= _MAX_DEPTH:
                break
    except (ijson.JSONError, ValueError, ArithmeticError):
        pass  # The head is cut off somewhere, a second line follows, or a number is too long: not for here to judge.
    return keys


def _to_record(row: dict[str, Any]) -> ImageCaption | Reject:
    try:
        return ImageCaption.from_mapping(row)
    except RecordError as error:
        return _reject(row, error.reason, str(error))


def _reject(row: dict[str, Any], reason: str, detail: str) -> Reject:
    ids = (row.get("id"), row.get("image_id"))
    id_, image_id = (value if _is_integer(value) else None for value in ids)
    url = row.get("image_url")
    return Reject(STAGE, reason, detail, id_, image_id, url if isinstance(url, str) else None)


def _read_csv(file: IO[bytes]) -> Rows:
    bounded = RowReader(file)
    reader = csv.DictReader(_text_lines(io.BufferedReader(bounded)), skipinitialspace=True)
    reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
    if len(reader.fieldnames) > _MAX_COLUMNS:
        raise csv.Error(f"it has more than {_MAX_COLUMNS} columns")
    for row in reader:
        bounded.held = 0
        values: dict[str, Any] = {name: value or None for name, value in row.items() if name is not None}
        for name in ("image_id", "id"):
            # What is no number is left as it is, to be named by the record's own check.
            if _INTEGER.fullmatch(values.get(name) or ""):
                values[name] = int(values[name])
        if None in row:
            yield _reject(values, "ill_typed_field", f"line {reader.line_num} has more fields than columns")
        else:
            yield _to_record(values)


def _text_lines(file: IO[bytes]) -> Iterator[str]:
    # Bytes that are not UTF-8 become surrogates, which ImageCaption refuses row by row.
    text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
    begun = False
    while line := text.readline(ROW_BYTES):
        if len(line) == ROW_BYTES:
            raise csv.Error(f"a line is longer than {ROW_BYTES} characters")
        begun = begun or not line.isspace()
        if begun:
            yield line


def _read_json_lines(file: IO[bytes]) -> Rows:
    number = 0
    while line := file.readline(_LINE_BYTES):
        number += 1
        if len(line) == _LINE_BYTES and not line.endswith(b"\n"):
            while (rest := file.readline(_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield Reject(STAGE, "line_too_long", f"line {number} is longer than {_LINE_BYTES} bytes")
        elif stripped := line.removeprefix(b"\xef\xbb\xbf").strip():
            yield _json_line(stripped, number)


def _json_line(line: bytes, number: int) -> ImageCaption | Reject:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Reject(STAGE, "not_json", f"line {number}: {error}")
    if not isinstance(row, dict):
        return Reject(STAGE, "not_json", f"line {number} is not a JSON object")
    return _to_record(row)


def _read_coco(source: Source, parameters: IngestParameters, image_root: str | None) -> Rows:
    # Three passes, since the file may hold its parts in any order and only images are kept.
    light = partial(_light, longest=parameters.max_text_bytes)
    licenses = {_key(row["id"]): light(row.get("name")) for row in _items(source, "licenses") if _is_id(row.get("id"))}
    images = {
        _key(row["id"]): (
            light(_image_url(row, parameters.url_field, image_root)), light(row.get("file_name")),
            light(row.get("license")),
        )
        for row in _items(source, "images")
        if _is_integer(row.get("id"))
    }  # fmt: skip
    for annotation in _items(source, "annotations"):
        image_id = annotation.get("image_id")
        if not _is_integer(image_id):
            yield _to_record(annotation)
            continue
        if _key(image_id) not in images:
            yield _reject(annotation, "unknown_image", f"no image has the id {image_id}")
            continue
        url, name, license_id = images[_key(image_id)]
        row = {**annotation, "image_url": url, "image_name": name}
        license_name = licenses.get(_key(license_id)) if _is_id(license_id) else None
        if license_name is None:
            yield _reject(row, "unknown_license", f"no licence has the id {license_id}")
        else:
            yield _to_record({**row, "image_license": license_name})


def _light(value: Any, longest: int) -> Any:
    """Return what of an image or a licence is worth holding: no more of a text than tells that it is too long."""
    if isinstance(value, str):
        return value[: longest + 1]
    return () if isinstance(value, (list, dict)) else value


def _is_id(value: Any) -> bool:
    return (isinstance(value, str) and len(value) <= _LONGEST_ID) or _is_integer(value)


def _key(id_: Any) -> bytes | str:
    """Return what an id, be it text or an integer, is looked up by."""
    return id_ if isinstance(id_, str) else unforeseeable(id_)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value in INT64


@contextmanager
def _open_json(source: Source) -> Iterator[JSONReader]:
    with source.open() as file:
        if file.peek(len(_BYTE_ORDER_MARK)).startswith(_BYTE_ORDER_MARK):
            file.read(len(_BYTE_ORDER_MARK))
        yield JSONReader(file)


_DEPTH_CHANGE = {"start_map": 1, "start_array": 1, "end_map": -1, "end_array": -1}


def _items(source: Source, key: str) -> Iterator[dict[str, Any]]:
    """Yield the objects of the array that stands at the top under `key`.

    ijson's own `items` takes time and memory by the square of the depth; a hostile file is deep.
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
                reader.held = 0


def _image_url(image: dict[str, Any], url_field: str, image_root: str | None) -> Any:
    name = image.get("file_name")
    if image_root is None or not isinstance(name, str):
        return image.get(url_field)
    return f"{image_root.rstrip('/')}/{name if is_local(image_root) else quote(name)}"
