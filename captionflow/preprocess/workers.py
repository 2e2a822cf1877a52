"""Processes that write shards, one for each CPU.

    python -m captionflow.preprocess.workers FILE_DESCRIPTOR PARAMETERS EARLIER    (started by ShardWorkers)

A process receives whole shards, fetches their images and decodes them in a sandbox of its own. If the process dies,
another replaces it and writes its unfinished shards from the start. A shard whose process dies twice fails. No picture
can end such a process: pictures are decoded in the sandbox.
"""

import json
import logging
import math
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from itertools import count
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from captionflow.core.errors import CaptionFlowError, StepFailedError
from captionflow.preprocess.parameters import PreprocessParameters
from captionflow.preprocess.progress import Progress
from captionflow.preprocess.shards import ShardInfo
from captionflow.preprocess.writer import SHARDS_AT_ONCE, ShardTask, ShardWriter

_PROGRESS_SECONDS = 0.5
_DIED_TWICE = "its worker died a second time; run it with more memory"

_LOG = logging.getLogger(__name__)


class ShardWorkers:
    """Writes shards in as many processes as there are CPUs.

    Args:
        earlier: URI of an earlier preprocessed artifact to take pictures from.
        total: number of images, to draw a progress bar; None writes progress to the log.

    Attributes:
        capacity: shards that can be in work at a time; more would wait, and occupy memory.
    """

    def __init__(self, parameters: PreprocessParameters, earlier: str | None = None, total: int | None = None) -> None:
        size = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        progress = Progress(total)
        arguments = [json.dumps(_share(parameters, size).to_json()), earlier or ""]
        self._workers = [_Worker(arguments, progress) for _ in range(size)]
        self.capacity = size * SHARDS_AT_ONCE
        self.close = weakref.finalize(self, _close, self._workers, progress)

    def submit(self, task: ShardTask) -> "Future[ShardInfo | None]":
        """Send a shard to the least loaded process; the future holds its ShardInfo, or None if it has no images."""
        return min(self._workers, key=lambda worker: worker.load).submit(task)


def _share(parameters: PreprocessParameters, size: int) -> PreprocessParameters:
    """Return the parameters of one of `size` processes."""
    return replace(
        parameters,
        fetch_concurrency=math.ceil(parameters.fetch_concurrency / size),
        host_concurrency=math.ceil(parameters.host_concurrency / size),
        host_rate=parameters.host_rate / size,
    )


@cache
def _warn_once(text: str) -> None:
    """Log a warning once, however many workers have it."""
    _LOG.warning(text)


def _close(workers: list["_Worker"], progress: Progress) -> None:
    for worker in workers:
        worker.close()
    progress.close()


class _Worker:
    """One process, replaced when it dies, and the thread that receives its messages."""

    def __init__(self, arguments: list[str], progress: Progress) -> None:
        self._arguments, self._progress = arguments, progress
        self._numbers = count()
        self._tasks: dict[int, tuple[ShardTask, Future[ShardInfo | None]]] = {}
        self._lock = threading.Lock()
        self._resent: set[int] = set()
        self._is_closed = False
        self._start()

    @property
    def load(self) -> int:
        return len(self._tasks)

    def submit(self, task: ShardTask) -> "Future[ShardInfo | None]":
        future: Future[ShardInfo | None] = Future()
        with self._lock:
            number = next(self._numbers)
            self._tasks[number] = task, future
            self._send((number, task))
        return future

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            self._send(None)
        self._process.wait()

    def _start(self) -> None:
        parent_end, child_end = Pipe()
        command = [sys.executable, "-m", __name__, str(child_end.fileno()), *self._arguments]
        # With many of glibc's arenas each thread would keep memory that others could use.
        environment = {**os.environ, "MALLOC_ARENA_MAX": "2"}
        self._process = subprocess.Popen(command, pass_fds=[child_end.fileno()], env=environment)
        child_end.close()
        self._connection: Connection = parent_end
        threading.Thread(target=self._listen, args=(parent_end,), daemon=True).start()

    def _send(self, message: tuple[int, ShardTask] | None) -> None:
        # If the process died, the listening thread sends the task to its replacement.
        with suppress(OSError):
            self._connection.send(message)

    def _listen(self, connection: Connection) -> None:
        try:
            while True:
                self._on_message(*connection.recv())
        except (EOFError, OSError):
            with self._lock:
                if not self._is_closed:
                    self._restart()

    def _on_message(self, kind: str, number: int, content: Any) -> None:
        if kind == "progress":
            self._progress.add(number, content)
            return
        if kind == "warning":
            _warn_once(content)
            return
        with self._lock:
            task, future = self._tasks.pop(number)
        if kind == "failed":
            future.set_exception(StepFailedError(f"{task.key.name}: {content}"))
            return
        if content:
            counts = content.counts
            _LOG.info("%s: done, %d images of %d kept", task.key.name, counts["images_out"], counts["images_in"])
        future.set_result(content)

    def _restart(self) -> None:
        _LOG.warning("a worker died (%d); its %d shards start again", self._process.wait(), len(self._tasks))
        self._start()
        for number, (task, future) in list(self._tasks.items()):
            if number in self._resent:
                del self._tasks[number]
                future.set_exception(StepFailedError(f"{task.key.name}: {_DIED_TWICE}"))
            else:
                self._resent.add(number)
                self._send((number, task))


class _Reporter(logging.Handler):
    """Sends messages to the parent: outcomes of tasks, warnings, and twice a second how many images are done."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(logging.WARNING)
        self._connection = connection
        self._lock = threading.Lock()
        self._seen = self._kept = 0
        self._sent_at = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        with self._lock:
            self._connection.send(("warning", 0, record.getMessage()))

    def on_image(self, is_kept: bool) -> None:
        with self._lock:
            self._seen += 1
            self._kept += is_kept
            if time.monotonic() - self._sent_at > _PROGRESS_SECONDS:
                self._send_progress()

    def on_done(self, number: int, future: "Future[ShardInfo | None]") -> None:
        with self._lock:
            self._send_progress()
            if error := future.exception():
                text = str(error) if isinstance(error, CaptionFlowError) else f"{type(error).__name__}: {error}"
                self._connection.send(("failed", number, text))
            else:
                self._connection.send(("done", number, future.result()))

    def _send_progress(self) -> None:
        self._connection.send(("progress", self._seen, self._kept))
        self._seen = self._kept = 0
        self._sent_at = time.monotonic()


def main() -> None:
    """Write the shards that the parent sends, until it sends None or ends."""
    connection, parameters = Connection(int(sys.argv[1])), PreprocessParameters.from_mapping(json.loads(sys.argv[2]))
    # On Ctrl-C the parent ends the job.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    reporter = _Reporter(connection)
    logging.getLogger("captionflow").addHandler(reporter)
    writer = ShardWriter(parameters, sys.argv[3] or None, reporter.on_image)
    with suppress(EOFError, OSError):
        while message := connection.recv():
            number, task = message
            writer.submit(task).add_done_callback(partial(reporter.on_done, number))
    # Without waiting for the threads, whose work is no longer needed.
    os._exit(0)


if __name__ == "__main__":
    main()
