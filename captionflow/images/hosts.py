"""Limits for each web server: requests at a time, requests a second, and a circuit breaker."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

# How long a circuit stays open before one request probes the host.
_OPEN_SECONDS = 60.0
# Hosts remembered for their failures alone; the oldest are forgotten first.
_MAX_REMEMBERED = 10_000


class CircuitOpenError(Exception):
    """The last requests to the host all failed, so it gets none for now."""


@dataclass
class _Host:
    slots: threading.BoundedSemaphore
    users: int = 0
    next_at: float = 0.0
    failures: int = 0
    circuit_open_until: float = 0.0


class Hosts:
    """The hosts that requests are made to; safe to share between threads.

    Args:
        concurrency: requests to one host at the same time.
        rate: requests to one host per second; 0 for no limit.
        failure_threshold: failures in a row that open a host's circuit; 0 never opens it.
        clock: seconds that only go up.
    """

    def __init__(
        self, concurrency: int, rate: float, failure_threshold: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._concurrency, self._failure_threshold, self._clock = concurrency, failure_threshold, clock
        self._interval = 1 / rate if rate else 0.0
        self._hosts: dict[str, _Host] = {}
        self._lock = threading.Lock()

    @contextmanager
    def slot(self, name: str) -> Iterator[None]:
        """Wait until a request to the host may be made; the block makes it.

        Raises:
            CircuitOpenError: the host's circuit is open.
        """
        host = self._enter(name)
        try:
            with host.slots:
                self._wait_or_refuse(host)
                yield
        finally:
            self._leave(name, host)

    def record(self, name: str, *, succeeded: bool) -> None:
        """Count the outcome of a request, within its slot."""
        with self._lock:
            host = self._hosts[name]
            if succeeded:
                host.failures, host.circuit_open_until = 0, 0.0
                return
            host.failures += 1
            if self._has_failed(host):
                host.circuit_open_until = self._clock() + _OPEN_SECONDS

    def _has_failed(self, host: _Host) -> bool:
        return 0 < self._failure_threshold <= host.failures

    def _enter(self, name: str) -> _Host:
        with self._lock:
            host = self._hosts.setdefault(name, _Host(threading.BoundedSemaphore(self._concurrency)))
            host.users += 1
            return host

    def _wait_or_refuse(self, host: _Host) -> None:
        with self._lock:
            now = self._clock()
            if now < host.circuit_open_until:
                raise CircuitOpenError(f"{host.failures} requests to it failed in a row")
            if self._has_failed(host):
                # This request is the probe; the circuit stays open for the others meanwhile.
                host.circuit_open_until = now + _OPEN_SECONDS
            wait = host.next_at - now
            host.next_at = max(now, host.next_at) + self._interval
        if wait > 0:
            time.sleep(wait)

    def _leave(self, name: str, host: _Host) -> None:
        with self._lock:
            host.users -= 1
            if host.users:
                return
            if not host.failures and host.next_at <= self._clock():
                del self._hosts[name]
            elif len(self._hosts) > _MAX_REMEMBERED:
                idle = (other for other, state in self._hosts.items() if not state.users)
                del self._hosts[next(idle)]
