"""Shards as WebDataset has them: a tar with three files for each Sample, named as img2dataset names them.

`KEY.jpg` or `KEY.png` holds the picture, `KEY.txt` the first caption's text, `KEY.json` everything but the picture.
The format is that of github.com/webdataset/webdataset, whose writer puts a sample's files in the order of their names.
"""

import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from itertools import groupby
from tarfile import BLOCKSIZE, USTAR_FORMAT, TarInfo
from typing import IO, Any

from captionflow.core.records import Sample
from captionflow.core.sample_rows import CAPTION, IMAGE, KEY, column_of, ending_of, from_row, to_row
from captionflow.core.shard_format import Part, ShardFormat, WriteParameters

_JSON, _TEXT = "json", "txt"
_BYTES = [column_of(field.name) for field in fields(Sample) if field.type is bytes and field.name != IMAGE]
_CHUNK = 1 << 20


@dataclass(frozen=True)
class _Member:
    """A file in a tar: its name before and after the dot, its content, and its place with header and padding."""

    key: str
    ending: str
    data: bytes
    offset: int
    size: int


def _write(file: io.RawIOBase, name: str, samples: Iterable[Sample], parameters: WriteParameters) -> None:
    for sample in samples:
        row = to_row(sample)
        text = json.dumps(row, ensure_ascii=False, separators=(",", ":"), default=bytes.hex)
        files = {ending_of(parameters.image_format): sample.image, _JSON: text.encode(), _TEXT: row[CAPTION].encode()}
        file.write(b"".join(_pack(f"{row[KEY]}.{ending}", files[ending]) for ending in sorted(files)))
    file.write(bytes(2 * BLOCKSIZE))


def _pack(name: str, data: bytes) -> bytes:
    # Of a new TarInfo time and owner are 0 and without a name, and the mode is 644.
    member = TarInfo(name)
    member.size = len(data)
    return member.tobuf(USTAR_FORMAT) + data + bytes(-len(data) % BLOCKSIZE)


def _read(file: IO[bytes]) -> Iterator[Sample]:
    for part in _parts(file):
        yield from part.samples


def _parts(file: IO[bytes]) -> Iterator[Part]:
    """Yield each Sample with its three files."""
    for _, group in groupby(_members(file), key=lambda member: member.key):
        members = list(group)
        yield Part(members[0].offset, sum(member.size for member in members), [_sample(members)])


def _members(file: IO[bytes]) -> Iterator[_Member]:
    """Yield the files of a tar, or of a piece of one."""
    offset = 0
    while (block := file.read(BLOCKSIZE)).strip(b"\0"):
        header = TarInfo.frombuf(block, "utf-8", "strict")
        if header.size < 0:
            raise ValueError("a file in the tar has a negative size")
        data = file.read(header.size)
        size = BLOCKSIZE + len(data) + len(file.read(-header.size % BLOCKSIZE))
        key, _, ending = header.name.partition(".")
        yield _Member(key, ending, data, offset, size)
        offset += size
    while file.read(_CHUNK):  # a file is compared with its manifest at its end
        pass


def _sample(members: Iterable[_Member]) -> Sample:
    files = {member.ending: member.data for member in members}
    row: dict[str, Any] = json.loads(files.pop(_JSON))
    del files[_TEXT]
    (image,) = files.values()
    return from_row({**row, **{name: bytes.fromhex(row[name]) for name in _BYTES if name in row}}, image)


def _header(file: IO[bytes]) -> bytes:
    return b""


def _read_part(header: bytes, data: bytes, offset: int) -> Iterator[Sample]:
    return _read(io.BytesIO(data))


WEBDATASET = ShardFormat(".tar", _write, _read, _parts, _header, _read_part)
