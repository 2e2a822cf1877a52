"""For a process that must not outlive the one that started it, even if that is killed."""

import os
import threading
import time

import psutil


def end_with_parent() -> None:
    """Kill this process and all it has started within about a second of the parent's end.

    It polls: only Linux can signal a parent's end, and does so as soon as the thread that started the child ends.
    """
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    job = psutil.Process()
    for process in (*job.children(recursive=True), job):
        process.kill()
