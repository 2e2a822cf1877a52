"""Memory that threads share, so that all of them together stay within a bound."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class MemoryBudget:
    """Bytes of memory to share."""

    def __init__(self, size: int) -> None:
        self._size = self._free = size
        self._given_back = threading.Condition()

    @contextmanager
    def take(self, size: int) -> Iterator[None]:
        """Wait until so much is free; hold it during the block. Not twice at a time: all might wait for each other."""
        size = min(size, self._size)
        with self._given_back:
            self._given_back.wait_for(lambda: self._free >= size)
            self._free -= size
        try:
            yield
        finally:
            with self._given_back:
                self._free += size
                self._given_back.notify_all()
