"""Run a program against the benchmark server and measure it from outside."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import psutil

from benchmarks.server import Traffic

_SAMPLE_SECONDS = 0.2


@dataclass(frozen=True)
class Measurement:
    """The figures of a run.

    Attributes:
        wall: seconds in all.
        startup: seconds from the start to the first request.
        steady: images per second from the first request to the last.
        peak_mb: peak resident memory of all processes together, in MB.
        peak_process_mb: peak resident memory of the largest process, in MB.
        requests: requests to the server.
        fetched_mb: MB that the server sent.
        written_mb: MB of the output.
    """

    wall: float
    startup: float
    steady: float
    peak_mb: float
    peak_process_mb: float
    requests: float
    fetched_mb: float
    written_mb: float


def median(measurements: Iterable[Measurement]) -> Measurement:
    """Return the median of each figure on its own."""
    rows = [asdict(m) for m in measurements]
    return Measurement(**{f.name: statistics.median(row[f.name] for row in rows) for f in fields(Measurement)})


def measure(
    command: list[str], images: int, traffic: Traffic, output: Path, env: dict[str, str] | None = None
) -> Measurement:
    """Run and measure a command that fetches `images` images and writes `output`."""
    traffic.requests = traffic.sent_bytes = 0
    traffic.first_at = traffic.last_at = 0.0
    log = output.with_name(f"{output.name}.log")
    start = time.time()
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, **(env or {})})
        total = largest = 0
        while process.poll() is None:
            resident = _resident(psutil.Process(process.pid))
            total, largest = max(total, sum(resident)), max(largest, *resident)
            time.sleep(_SAMPLE_SECONDS)
    wall = time.time() - start
    if process.returncode:
        sys.exit(f"{' '.join(command)}\nended with exit code {process.returncode}:\n{log.read_text()[-3000:]}")
    written = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    return Measurement(
        wall,
        traffic.first_at - start,
        images / (traffic.last_at - traffic.first_at),
        total / 1e6,
        largest / 1e6,
        traffic.requests,
        traffic.sent_bytes / 1e6,
        written / 1e6,
    )


def _resident(root: psutil.Process) -> list[int]:
    """Resident bytes of a process and of each of its descendants."""
    try:
        return [process.memory_info().rss for process in (root, *root.children(recursive=True))]
    except psutil.NoSuchProcess:
        return [0]
