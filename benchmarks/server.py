"""A web server for benchmarks: pictures from memory under any number of URLs, with a latency of choice.

`/N.jpg` is picture N modulo their number, so that distinct URLs may repeat pictures. One process,
one event loop: it costs the measured programs little.
"""

import asyncio
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path


@dataclass(frozen=True)
class Running:
    """A server at work; `requests` and `sent_bytes` count up as it answers."""

    url: str
    requests: "Synchronized[int]"
    sent_bytes: "Synchronized[int]"


@contextmanager
def serve(folder: Path, latency: float = 0.0) -> Iterator[Running]:
    """Serve the JPEGs of a folder from a process of its own while the block lasts.

    Args:
        folder: where the pictures are.
        latency: seconds before each answer.
    """
    context = multiprocessing.get_context("spawn")
    port, requests, sent = context.Value("i", 0), context.Value("q", 0), context.Value("q", 0)
    process = context.Process(target=_run, args=(folder, latency, port, requests, sent), daemon=True)
    process.start()
    while not port.value:
        process.join(0.02)
        if process.exitcode is not None:
            raise RuntimeError(f"the server ended with exit code {process.exitcode}")
    try:
        yield Running(f"http://127.0.0.1:{port.value}", requests, sent)
    finally:
        process.terminate()
        process.join()


def _run(
    folder: Path, latency: float, port: "Synchronized[int]", requests: "Synchronized[int]", sent: "Synchronized[int]"
) -> None:
    pictures = [path.read_bytes() for path in sorted(folder.glob("*.jpg"))]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while request := await reader.readuntil(b"\r\n\r\n"):
                number = int(request.split(b" ", 2)[1].strip(b"/").removesuffix(b".jpg"))
                body = pictures[number % len(pictures)]
                if latency:
                    await asyncio.sleep(latency)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(body))
                writer.write(body)
                await writer.drain()
                requests.value += 1
                sent.value += len(body)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def main() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=1024)
        port.value = server.sockets[0].getsockname()[1]
        await server.serve_forever()

    asyncio.run(main())
