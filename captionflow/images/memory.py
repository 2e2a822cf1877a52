"""Memory that threads share, so that all of them together stay within a bound."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class MemoryBudget:
    """Bytes of memory to share."""

    def __init__(self, size: int) -> None:
        self._size = self._free = size
        self._released = threading.Condition()

    @contextmanager
    def reserve(self, size: int) -> Iterator[None]:
        """Wait until `size` bytes are free and reserve them for the block.

        A thread may hold one reservation at a time; with two, all threads might wait for each other.
        """
        size = min(size, self._size)
        with self._released:
            self._released.wait_for(lambda: self._free >= size)
            self._free -= size
        try:
            yield
        finally:
            with self._released:
                self._free += size
                self._released.notify_all()
