"""The attempts at one image: how one fails, and when the next begins."""

import random
import time
from dataclasses import dataclass

from captionflow.images.parameters import ImageParameters

# What a server says for a reason may be of any length, and is kept for each caption.
_LONGEST_DETAIL = 500
# Seconds.
_FIRST_BACKOFF, _LONGEST_BACKOFF = 0.5, 10.0


class FetchError(Exception):
    """An image could not be fetched. `reason` is a short name.

    `retryable` says if a later attempt may help, `retry_after` how many seconds the server asked to wait.
    """

    def __init__(self, reason: str, detail: str, *, retryable: bool = False, retry_after: float | None = None) -> None:
        super().__init__(detail[:_LONGEST_DETAIL])
        self.reason, self.retryable, self.retry_after = reason, retryable, retry_after


class RetryLater(Exception):  # noqa: N818 - not an error but what to do next
    """An attempt failed in passing; the next one should begin in so many `seconds`."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"again in {seconds:.1f} s")
        self.seconds = seconds


@dataclass
class Attempts:
    """The attempts at one image: how many there were, and when all of them, and the present one, must be over."""

    url: str
    made: int = 0
    due: float | None = None
    last_deadline: float = 0.0
    deadline: float = 0.0

    def begin(self, parameters: ImageParameters) -> None:
        """Begin the next one. Having waited for a thread is no fault of the image."""
        now = time.monotonic()
        if self.due is None:
            self.last_deadline = now + parameters.fetch_total_timeout
        else:
            self.last_deadline += now - self.due
        self.deadline = min(self.last_deadline, now + parameters.fetch_timeout)
        self.made += 1

    def put_off(self, seconds: float) -> None:
        """Begin to count later."""
        self.last_deadline += seconds
        self.deadline += seconds

    def retry_later(self, error: FetchError, retries: int) -> RetryLater | None:
        """Return when to try again after a failure, with full jitter unless the server said when; None for never."""
        longest = min(_LONGEST_BACKOFF, _FIRST_BACKOFF * 2 ** (self.made - 1))
        wait = random.uniform(0, longest) if error.retry_after is None else error.retry_after
        self.due = time.monotonic() + wait
        if not error.retryable or self.made > retries or self.due >= self.last_deadline:
            return None
        return RetryLater(wait)
