"""Readers that wrap a file and bound its unpacked size, its rows and its numbers, against hostile files."""

import gzip
import io
import re
import sys
from typing import IO, Any

# JSON and CSV compress five to twenty times; an archive that unpacks to far more is a bomb.
_MAX_EXPANSION = 200
_FREE_EXPANSION_BYTES = 64 << 20
MAX_ROW_BYTES = 24 << 20
"""Large enough that a very long caption is one Reject and does not end the file; in memory a row can take twenty times
as much."""

# Python reads integers of this many digits, whatever its own limit is set to.
_MAX_DIGITS = sys.int_info.str_digits_check_threshold
_DIGITS = b"0123456789"
_ALL_DIGITS_ZERO = bytes.maketrans(_DIGITS, b"0" * len(_DIGITS))
_TOO_MANY_DIGITS = b"0" * (_MAX_DIGITS + 1)
_ESCAPED = re.compile(rb"\\.", re.DOTALL)


class UnpackedBytes:
    """Counts what is unpacked of a file, and stops when it is far more than the file holds."""

    def __init__(self, packed_bytes: int) -> None:
        self._remaining = _FREE_EXPANSION_BYTES + _MAX_EXPANSION * packed_bytes

    def add(self, unpacked_bytes: int) -> None:
        """Count; raises a ValueError when the file is a bomb."""
        self._remaining -= unpacked_bytes
        if self._remaining < 0:
            raise ValueError(f"unpacks to over {_MAX_EXPANSION} times its size; refused")


class _CheckedReader(io.RawIOBase):
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
        """Raise a ValueError if the file may not be read further."""
        raise NotImplementedError


class UnpackedReader(_CheckedReader):
    """Reads from an archive, and stops when it unpacks to far more bytes than it holds."""

    def __init__(self, inner: IO[bytes] | gzip.GzipFile, packed_bytes: int) -> None:
        super().__init__(inner)
        self._unpacked = UnpackedBytes(packed_bytes)

    def _check(self, data: bytes) -> None:
        self._unpacked.add(len(data))


class RowReader(_CheckedReader):
    """Reads a file, and stops at a row too long to be held in memory.

    Attributes:
        row_bytes: bytes read since the last row; whoever parses the rows sets it to 0 after each.
    """

    row_bytes = 0

    def _check(self, data: bytes) -> None:
        self.row_bytes += len(data)
        if self.row_bytes > MAX_ROW_BYTES:
            raise ValueError(f"a row is longer than {MAX_ROW_BYTES} bytes")


class JSONReader(RowReader):
    """Reads JSON, and stops also at a very long integer: ijson crashes on one that Python refuses to read."""

    _in_string, _escape, _digits = False, b"", b""

    def _check(self, data: bytes) -> None:
        super()._check(data)
        # Without escaped characters every quote begins or ends a string. A last backslash is kept for the next piece.
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
