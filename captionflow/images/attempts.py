"""The attempts at one image: how one fails, and when the next begins."""

import random
import time
from dataclasses import dataclass

from captionflow.images.parameters import ImageParameters

# A server's reason may be of any length, and a Reject holds it for each caption.
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


class TransientError(Exception):
    """An attempt failed and another may help: begin it after `backoff` seconds."""

    def __init__(self, backoff: float) -> None:
        super().__init__(f"again in {backoff:.1f} s")
        self.backoff = backoff


@dataclass
class Attempts:
    """The attempts at one image: their number, the deadline of all of them and that of the present one.

    A thread is given back between two attempts, so the waiting is done by who calls, not here by a retry library.
    Times are those of `time.monotonic`.
    """

    url: str
    number: int = 0
    next_at: float | None = None
    last_deadline: float = 0.0
    deadline: float = 0.0

    def begin(self, parameters: ImageParameters) -> None:
        """Begin the next attempt. The time it waited for a free thread is not counted."""
        now = time.monotonic()
        if self.next_at is None:
            self.last_deadline = now + parameters.fetch_total_timeout
        else:
            self.last_deadline += now - self.next_at
        self.deadline = min(self.last_deadline, now + parameters.fetch_timeout)
        self.number += 1

    def extend(self, seconds: float) -> None:
        """Move the deadlines by the time that an attempt has waited for its turn."""
        self.last_deadline += seconds
        self.deadline += seconds

    def transient_error(self, error: FetchError, retries: int) -> TransientError | None:
        """Return with which backoff to try again after `error`; None if no further attempt is due.

        The backoff is the server's Retry-After, or else exponential with full jitter.
        """
        longest = min(_LONGEST_BACKOFF, _FIRST_BACKOFF * 2 ** (self.number - 1))
        backoff = random.uniform(0, longest) if error.retry_after is None else error.retry_after
        self.next_at = time.monotonic() + backoff
        if not error.retryable or self.number > retries or self.next_at >= self.last_deadline:
            return None
        return TransientError(backoff)
