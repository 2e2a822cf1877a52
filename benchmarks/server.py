"""A web server for benchmarks: pictures from memory under any number of URLs, with an artificial latency.

`/N.jpg` is picture N modulo the number of pictures, so any number of URLs is served. One process with one
event loop sends responses built in advance, and so takes little time from the programs that are measured.
"""

import asyncio
import multiprocessing
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import Structure, c_double, c_int64
from pathlib import Path
from typing import Any


class Traffic(Structure):
    """The server's statistics: counts, and the times (`time.time()`) of the first and the last request."""

    _fields_ = (
        ("port", c_int64),
        ("requests", c_int64),
        ("sent_bytes", c_int64),
        ("first_at", c_double),
        ("last_at", c_double),
    )


@contextmanager
def serve(folder: Path, latency: float = 0.0, cpus: set[int] | None = None) -> Iterator[Traffic]:
    """Serve the JPEGs of a folder from a process of its own while the block lasts.

    Args:
        folder: where the pictures are.
        latency: seconds before each response.
        cpus: the CPUs it may use; all if None.
    """
    context = multiprocessing.get_context("spawn")
    traffic: Any = context.Value(Traffic, lock=False)
    process = context.Process(target=_run, args=(folder, latency, cpus, traffic), daemon=True)
    process.start()
    while not traffic.port:
        process.join(0.02)
        if process.exitcode is not None:
            raise RuntimeError(f"the server ended with exit code {process.exitcode}")
    try:
        yield traffic
    finally:
        process.terminate()
        process.join()


class _Connection(asyncio.Protocol):
    def __init__(self, answers: list[bytes], latency: float, traffic: Traffic) -> None:
        self._answers, self._latency, self._traffic = answers, latency, traffic
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        # Large enough for a whole response, so that it is sent at once.
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while b"\r\n\r\n" in self._received:
            request, self._received = self._received.split(b"\r\n\r\n", 1)
            number = int(request.split(b" ", 2)[1].strip(b"/").removesuffix(b".jpg"))
            answer = self._answers[number % len(self._answers)]
            if self._latency:
                asyncio.get_running_loop().call_later(self._latency, self._transport.write, answer)
            else:
                self._transport.write(answer)
            self._traffic.last_at = time.time()
            self._traffic.first_at = self._traffic.first_at or self._traffic.last_at
            self._traffic.requests += 1
            self._traffic.sent_bytes += len(answer)


def _run(folder: Path, latency: float, cpus: set[int] | None, traffic: Traffic) -> None:
    if cpus:
        os.sched_setaffinity(0, cpus)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
    bodies = [path.read_bytes() for path in sorted(folder.glob("*.jpg"))]
    answers = [head % len(body) + body for body in bodies]

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Connection(answers, latency, traffic), "127.0.0.1", 0, backlog=1024)
        traffic.port = server.sockets[0].getsockname()[1]
        await server.serve_forever()

    asyncio.run(main())
