"""Processes of tests, and how to kill them at a chosen moment."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from urllib.request import urlopen


def captionflow(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line, as a user does."""
    command = [sys.executable, "-m", "captionflow", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def kill_when(command: list[str], condition: Callable[[], bool], env: Mapping[str, str] | None = None) -> None:
    """Start a command in a process group of its own and SIGKILL all of it once the condition holds."""
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, env=env
    )
    try:
        while not condition():
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.005)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def kill_after(command: list[str], seconds: float | None, condition: Callable[[], bool]) -> None:
    """Start a command and SIGKILL it, but not its children, after some seconds or once the condition holds."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        if seconds is None:
            wait_until(lambda: condition() or process.poll() is not None)
            assert process.poll() is None, "it ended before it could be killed"
        else:
            time.sleep(seconds)
    finally:
        process.kill()
        process.wait()


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for a condition; fail when it does not come true in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def free_port() -> int:
    """Return a port of the loopback interface that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def answers(url: str) -> bool:
    """Tell whether a server answers a URL with 200."""
    try:
        with urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
