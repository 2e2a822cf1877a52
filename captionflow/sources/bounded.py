"""Readers that stand between a file and what reads it, and bound what a hostile file leaves unbounded."""

import gzip
import io
import re
import sys
from typing import IO, Any

# JSON and CSV shrink five to twenty times; an archive far past that is a bomb.
_MAX_EXPANSION = 200
_FREE_EXPANSION_BYTES = 64 << 20
ROW_BYTES = 24 << 20
"""So that an endless caption is a Reject and no end of the file; in memory a row can be twenty times as large."""

# Python reads integers of so many digits whatever its own limit is set to.
_MAX_DIGITS = sys.int_info.str_digits_check_threshold
_DIGITS = b"0123456789"
_ALL_DIGITS_ZERO = bytes.maketrans(_DIGITS, b"0" * len(_DIGITS))
_TOO_MANY_DIGITS = b"0" * (_MAX_DIGITS + 1)
_ESCAPED = re.compile(rb"\\.", re.DOTALL)


class _Reader(io.RawIOBase):
    def __init__(self, inner: IO[bytes] | gzip.GzipFile) -> None:
        super().__init__()
        self._inner = inner

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._inner.read(len(buffer))
        self._check(data)
        buffer[: len(data)] = data
        return len(data)

    def _check(self, data: bytes) -> None:
        """Raise a ValueError if no more may be read."""
        raise NotImplementedError


class UnpackedReader(_Reader):
    """Reads from an archive and stops it from unpacking to far more than the bytes it was packed in."""

    def __init__(self, inner: IO[bytes] | gzip.GzipFile, packed_bytes: int) -> None:
        super().__init__(inner)
        self._left = _FREE_EXPANSION_BYTES + _MAX_EXPANSION * packed_bytes

    def _check(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            raise ValueError(f"unpacks to over {_MAX_EXPANSION} times its size; refused")


class RowReader(_Reader):
    """Reads a file and stops at a row without end, which its reader would hold in memory.

    Attributes:
        held: bytes read since a row was done; the one who reads the rows sets it back to 0.
    """

    held = 0

    def _check(self, data: bytes) -> None:
        self.held += len(data)
        if self.held > ROW_BYTES:
            raise ValueError(f"a row is longer than {ROW_BYTES} bytes")


class JSONReader(RowReader):
    """Reads JSON and stops also at an integer without end: ijson crashes on those that Python refuses to read."""

    _in_string, _escape, _digits = False, b"", b""

    def _check(self, data: bytes) -> None:
        super()._check(data)
        # Without escaped characters every quote begins or ends a string; the last backslash waits for its character.
        data = _ESCAPED.sub(b"", self._escape + data)
        self._escape = b"\\" if data.endswith(b"\\") else b""
        parts = data.split(b'"')
        if not self._in_string:
            parts[0] = self._digits + parts[0]
        outside = b'"'.join(parts[self._in_string :: 2])
        if _TOO_MANY_DIGITS in outside.translate(_ALL_DIGITS_ZERO):
            raise ValueError(f"a number has more than {_MAX_DIGITS} digits")
        self._in_string ^= len(parts) % 2 == 0
        self._digits = b"" if self._in_string else parts[-1][len(parts[-1].rstrip(_DIGITS)) :]
