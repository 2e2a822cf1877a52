"""Progress of long work: a line in the log every few seconds, or a bar on a terminal."""

import logging
import threading
import time
from typing import NoReturn

from tqdm import tqdm

_REPORT_SECONDS = 5.0
_LOG = logging.getLogger(__name__)


class Progress:
    """Counts images as they are done; safe to share between threads.

    Args:
        total: images in all, to draw a bar; None writes to the log instead.
    """

    def __init__(self, total: int | None = None) -> None:
        self._total = total
        self._bar: tqdm[NoReturn] | None = None
        self._lock = threading.Lock()
        self._seen = self._kept = self._last_seen = 0
        self._last_at = time.monotonic()

    def add(self, seen: int, kept: int) -> None:
        """Count images seen, and how many of them were kept."""
        with self._lock:
            self._seen += seen
            self._kept += kept
            if self._total is not None:
                # Drawn with the first image, below the log of the start.
                self._bar = self._bar or tqdm(total=self._total, unit="image", desc="preprocess")
                self._bar.update(seen)
                return
            seconds = time.monotonic() - self._last_at
            if seconds >= _REPORT_SECONDS:
                rate = (self._seen - self._last_seen) / seconds
                _LOG.info("%d images, %d kept, %.0f images/s", self._seen, self._kept, rate)
                self._last_seen, self._last_at = self._seen, self._last_at + seconds

    def close(self) -> None:
        """Stop drawing the bar."""
        if self._bar is not None:
            self._bar.close()
