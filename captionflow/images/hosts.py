"""Manners towards web servers: how many requests a host gets at a time and a second, and when none."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

# How long a host that fails everything is left alone before one request tries it again.
_REST_SECONDS = 60.0
# Hosts remembered for their failures alone; the oldest are forgotten first.
_MAX_REMEMBERED = 10_000


class HostDownError(Exception):
    """The host failed so often in a row that it is not asked now."""


@dataclass
class _Host:
    slots: threading.BoundedSemaphore
    visitors: int = 0
    next_at: float = 0.0
    failures: int = 0
    rests_until: float = field(default=0.0)


class Hosts:
    """The hosts being visited; safe to share between threads.

    Args:
        concurrency: requests to one host at the same time.
        rate: requests to one host per second; 0 for no limit.
        patience: failures in a row after which a host is left alone; 0 for no end of patience.
        clock: seconds that only go up.
    """

    def __init__(
        self, concurrency: int, rate: float, patience: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._concurrency, self._patience, self._clock = concurrency, patience, clock
        self._interval = 1 / rate if rate else 0.0
        self._hosts: dict[str, _Host] = {}
        self._lock = threading.Lock()

    @contextmanager
    def visit(self, name: str) -> Iterator[None]:
        """Wait for a turn at the host; hold it during the block.

        Raises:
            HostDownError: the host is resting.
        """
        host = self._enter(name)
        try:
            with host.slots:
                self._wait_or_give_up(host)
                yield
        finally:
            self._leave(name, host)

    def report(self, name: str, *, is_well: bool) -> None:
        """Tell how a request to the host went, during the visit."""
        with self._lock:
            host = self._hosts[name]
            if is_well:
                host.failures, host.rests_until = 0, 0.0
                return
            host.failures += 1
            if self._patience and host.failures >= self._patience:
                host.rests_until = self._clock() + _REST_SECONDS

    def _enter(self, name: str) -> _Host:
        with self._lock:
            host = self._hosts.setdefault(name, _Host(threading.BoundedSemaphore(self._concurrency)))
            host.visitors += 1
            return host

    def _wait_or_give_up(self, host: _Host) -> None:
        with self._lock:
            now = self._clock()
            if now < host.rests_until:
                raise HostDownError(f"{host.failures} requests to it failed in a row")
            if self._patience and host.failures >= self._patience:
                # This one tries it again; the others go on resting meanwhile.
                host.rests_until = now + _REST_SECONDS
            wait = host.next_at - now
            host.next_at = max(now, host.next_at) + self._interval
        if wait > 0:
            time.sleep(wait)

    def _leave(self, name: str, host: _Host) -> None:
        with self._lock:
            host.visitors -= 1
            if host.visitors:
                return
            if not host.failures and host.next_at <= self._clock():
                del self._hosts[name]
            elif len(self._hosts) > _MAX_REMEMBERED:
                idle = (other for other, state in self._hosts.items() if not state.visitors)
                del self._hosts[next(idle)]
