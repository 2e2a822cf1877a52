"""End a process when its parent ends, even if the parent is killed."""

import os
import threading
import time


def end_with_parent() -> None:
    """Kill this process and all it has started within about a second of the parent's end.

    It polls, since Linux alone has a signal for it, which comes as soon as the parent's thread that started us ends.
    """
    import psutil  # which not every extra installs

    def watch(parent: int) -> None:
        while os.getppid() == parent:
            time.sleep(1)
        job = psutil.Process()
        for process in (*job.children(recursive=True), job):
            process.kill()

    threading.Thread(target=watch, args=(os.getppid(),), daemon=True).start()
