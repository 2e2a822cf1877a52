"""Counting integers that are more than memory holds: they are parted into files, and each file is sorted by itself."""

from array import array
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Groups = NDArray[np.void]
"""Records of `key`, the `count` of its occurrences, and the `note` of its first one; the keys ascend."""

_RECORD = np.dtype([("key", "<i8"), ("count", "<i8"), ("note", "<i8")])
_ADDED_AT_A_TIME = 1 << 20
# 2^64 divided by the golden ratio, which scatters neighbouring keys (Knuth, The Art of Computer Programming, 6.4).
_SCATTER = np.uint64(0x9E3779B97F4A7C15)


def fingerprint(text: str) -> int:
    """Return a hash of a text, in 64 bits with a sign, the same in every process: BLAKE2b of 8 bytes.

    Of n texts, two share one with a probability of n² / 2⁶⁵: 3 · 10⁻⁶ for 10⁷ texts.
    """
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


class Keys:
    """Integers of 64 bits, each with a note, which is one too. They go to files of 24 bytes a key.

    Args:
        folder: where the files go, which nothing else does.
        parts: number of files. One at a time is read, so memory is that of the largest.
    """

    def __init__(self, folder: Path, parts: int) -> None:
        folder.mkdir()
        self._files = [folder / str(part) for part in range(parts)]
        self._keys, self._notes = array("q"), array("q")

    def add(self, key: int, note: int = 0) -> None:
        """Add a key."""
        self._keys.append(key)
        self._notes.append(note)
        if len(self._keys) == _ADDED_AT_A_TIME:
            self._write()

    def groups(self) -> Iterator[Groups]:
        """Yield all distinct keys, a part at a time."""
        self._write()
        for file in self._files:
            if file.exists():
                yield _grouped(np.fromfile(file, _RECORD))

    def _write(self) -> None:
        records: Any = np.ones(len(self._keys), _RECORD)
        records["key"], records["note"] = self._keys, self._notes
        self._keys, self._notes = array("q"), array("q")
        if not len(records):
            return
        records = _grouped(records)
        parts = (records["key"].view(np.uint64) * _SCATTER >> np.uint64(32)) % np.uint64(len(self._files))
        for part, file in enumerate(self._files):
            if len(of_part := records[parts == part]):
                with file.open("ab") as out:
                    out.write(of_part.tobytes())


def _grouped(records: Groups) -> Groups:
    """Make one record of all that have the same key."""
    records = records[np.argsort(records["key"], kind="stable")]
    keys: NDArray[np.int64] = records["key"]
    starts = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
    found = records[starts]
    found["count"] = np.add.reduceat(records["count"], starts)
    return found
