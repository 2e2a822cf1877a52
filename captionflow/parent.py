"""A process that ends when the one that started it ends, however that was."""

import os
import threading
import time

import psutil


def end_with_parent() -> None:
    """Watch the parent, once a second; when it is gone, kill this process and all it has started."""
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    job = psutil.Process()
    for process in (*job.children(recursive=True), job):
        process.kill()
