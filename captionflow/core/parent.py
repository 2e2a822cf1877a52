"""End a process when its parent ends, even if the parent is killed."""

import os
import threading
import time

import psutil


def end_with_parent() -> None:
    """Kill this process and all it has started within about a second of the parent's end.

    It polls, since Linux alone has a signal for it, which comes as soon as the parent's thread that started us ends.
    """
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    job = psutil.Process()
    for process in (*job.children(recursive=True), job):
        process.kill()
