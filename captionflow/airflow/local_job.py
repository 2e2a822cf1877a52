"""A command that a task runs as a process beside itself: it cannot hang on its output, nor outlive its task."""

import logging
import os
import re
import selectors
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import IO, Protocol

from airflow.providers.common.compat.sdk import AirflowException

from captionflow.core.terminal import one_line

_WAS_ENDED = "The job was ended with its task"
_LEVEL = re.compile(r"(DEBUG|INFO|WARNING|ERROR|CRITICAL):")
_TRACEBACK = re.compile(r"[ +|]*(Exception Group )?Traceback \(most recent call last\):")
_CHUNK = 1 << 16
_LONGEST_LINE = 1 << 20
_LONGEST_REASON = 500
_POLL_SECONDS = 0.1
# Airflow gives a task that it stops five seconds in all.
_GRACE_SECONDS = 3.0
# How long processes that the job has left behind may hold its pipes: without a word, and in all.
_QUIET_SECONDS = 1.0
_LEFT_BEHIND_SECONDS = 5.0


class Logger(Protocol):
    """What is asked of a logger, the standard library's or Airflow's."""

    def log(self, level: int, event: str, /, *arguments: object) -> object:
        """Log a message."""


def without_airflow(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without Airflow's settings, among which are its secrets."""
    return {name: value for name, value in environment.items() if not name.startswith(("AIRFLOW_", "_AIRFLOW_"))}


class LineReader:
    """Cuts what comes through a pipe into lines; of one that is too long it keeps the beginning."""

    def __init__(self, *takers: Callable[[str], None]) -> None:
        self._takers = takers
        self._begun = bytearray()
        self._left_out = 0

    def feed(self, data: bytes) -> None:
        """Take what has come, wherever it is cut."""
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._keep(line)
            self._end_line()
        self._keep(rest)

    def close(self) -> None:
        """Take the end; what no line feed ends is a line too."""
        if self._begun:
            self._end_line()

    def _keep(self, data: bytes) -> None:
        room = _LONGEST_LINE - len(self._begun)
        self._begun += data[:room]
        self._left_out += len(data[room:])

    def _end_line(self) -> None:
        line = self._begun.removesuffix(b"\r").decode(errors="replace")
        if self._left_out:
            line += f" … (and {self._left_out} bytes)"
        self._begun.clear()
        self._left_out = 0
        for take in self._takers:
            take(line)


class LevelledLog:
    """Logs the lines of one pipe, each at the level it carries; a line without one belongs to the line before."""

    def __init__(self, log: Logger) -> None:
        self._log = log
        self._level = logging.INFO
        self.last = ""

    def take(self, line: str) -> None:
        """Log a line."""
        self.last = line.strip() or self.last
        self._log.log(self._level_of(line), "%s", one_line(line))

    def _level_of(self, line: str) -> int:
        if "\r" in line:  # a bar that is drawn anew and anew
            return logging.INFO
        if found := _LEVEL.match(line):
            self._level = logging.getLevelNamesMapping()[found[1]]
        elif _TRACEBACK.match(line):
            self._level = max(self._level, logging.ERROR)
        return self._level


class LocalJob:
    """One run of a command, in a process group of its own, which ends with it.

    However `run` ends, nothing of that group is left. Only when this process itself is killed can it not see to that; a
    command that matters looks whether its parent is still there.

    Args:
        log: gets what the command says, line by line.
    """

    def __init__(self, log: Logger) -> None:
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._killed_at: float | None = None

    def run(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        stdin: bytes | None = None,
        on_line: Callable[[str], None] | None = None,
        on_error_line: Callable[[str], None] | None = None,
        until: Callable[[], bool] | None = None,
    ) -> None:
        """Run the command to its end; to be called once.

        Args:
            command: the program and its arguments.
            environment: by default this process's own, without Airflow's settings and secrets.
            stdin: what the command reads, by default nothing.
            on_line: gets the lines of its output as they are, the first MiB of each.
            on_error_line: the same for its error output.
            until: asked whenever the command has said something; once it holds, the command is left to itself.

        Raises:
            AirflowException: the command cannot be started, ended with another exit code than 0, or was killed.
        """
        output, errors = LevelledLog(self._log), LevelledLog(self._log)
        pipes = _Pipes()
        left_alone = False
        try:
            process = self._start(command, without_airflow(os.environ) if environment is None else environment, stdin)
            pipes.write(process.stdin, stdin or b"")
            pipes.read(process.stdout, LineReader(output.take, *filter(None, [on_line])))
            pipes.read(process.stderr, LineReader(errors.take, *filter(None, [on_error_line])))
            left_alone = self._follow(process, pipes, until)
        except BaseException:  # what tells a task that its time is over is no Exception
            self.kill()
            if self._process:
                self._follow(self._process, pipes)
            raise
        finally:
            if not left_alone:
                self._signal(signal.SIGKILL)
                self._wait()
                self._process = None
            pipes.close()
        if not left_alone:
            self._judge(process.returncode, errors.last)

    def kill(self) -> None:
        """End the command's process group; `run` raises, now or when it is called. A signal's handler may call this."""
        if self._killed_at is None:
            self._killed_at = time.monotonic()
        self._signal(signal.SIGTERM)

    def _start(
        self, command: Sequence[str], environment: Mapping[str, str], stdin: bytes | None
    ) -> subprocess.Popen[bytes]:
        if self._killed_at is not None:
            raise AirflowException(_WAS_ENDED)
        self._log.log(logging.INFO, "Running: %s", one_line(shlex.join(command)))
        try:
            self._process = subprocess.Popen(
                command,
                # This process's own may be its line to Airflow.
                stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            raise AirflowException(f"{command[0]}: cannot be run ({error.strerror})") from error
        if self._killed_at is not None:
            self._signal(signal.SIGTERM)
        return self._process

    def _follow(
        self, process: subprocess.Popen[bytes], pipes: "_Pipes", until: Callable[[], bool] | None = None
    ) -> bool:
        """Pass on what the command says to its end, and tell whether it is to be left alone."""
        said_at, ended_at = 0.0, None
        while pipes.are_open or process.poll() is None:
            if pipes.serve(_POLL_SECONDS):
                said_at = time.monotonic()
                if until and until():
                    return True
            now = time.monotonic()
            if self._killed_at is not None and now > self._killed_at + _GRACE_SECONDS:
                self._signal(signal.SIGKILL)
            if process.poll() is None:
                continue
            ended_at = ended_at or now
            if now > min(max(said_at, ended_at) + _QUIET_SECONDS, ended_at + _LEFT_BEHIND_SECONDS):
                self._log.log(logging.WARNING, "The job has ended, and what it left behind is ended too")
                break
        return False

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError, PermissionError):  # the latter is macOS's word for one that has ended
                os.killpg(self._process.pid, number)

    def _wait(self) -> None:
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_GRACE_SECONDS)

    def _judge(self, code: int | None, reason: str) -> None:
        if self._killed_at is not None:
            raise AirflowException(_WAS_ENDED)
        if code == 0:
            return
        how = f"ended with exit code {code}"
        if code is not None and code < 0:
            how = f"was ended by signal {-code} ({signal.strsignal(-code)})"
        said = f": {one_line(reason[:_LONGEST_REASON])}" if reason else ""
        raise AirflowException(f"The job {how}{said}")


class _Pipes:
    """What is said to a process and by it; neither waits for the other."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._unsent = memoryview(b"")
        self._readable = 0

    def write(self, pipe: IO[bytes] | None, data: bytes) -> None:
        """Send what a process reads, and then the end."""
        self._unsent = memoryview(data)
        self._register(pipe, selectors.EVENT_WRITE, None)

    def read(self, pipe: IO[bytes] | None, reader: LineReader) -> None:
        """Pass on to a reader what a process says."""
        self._register(pipe, selectors.EVENT_READ, reader)
        self._readable += 1

    @property
    def are_open(self) -> bool:
        """Whether the process, or one of its own, may still say something."""
        return self._readable > 0

    def serve(self, seconds: float) -> bool:
        """Pass on what there is, waiting a while for it; tell whether the process has said something."""
        said = False
        for key, _ in self._selector.select(seconds):
            pipe, reader = key.data
            if not reader:
                self._send(pipe)
                continue
            said = True
            if data := os.read(key.fd, _CHUNK):
                reader.feed(data)
            else:
                self._readable -= 1
                self._close(pipe, reader)
        return said

    def close(self) -> None:
        """Let go of the process; what it said last is passed on."""
        for key in list(self._selector.get_map().values()):
            self._close(*key.data)
        self._selector.close()

    def _send(self, pipe: IO[bytes]) -> None:
        try:
            self._unsent = self._unsent[os.write(pipe.fileno(), self._unsent[:_CHUNK]) :]
        except BrokenPipeError:  # it reads no more
            self._unsent = memoryview(b"")
        if not self._unsent:
            self._close(pipe, None)

    def _close(self, pipe: IO[bytes], reader: LineReader | None) -> None:
        self._selector.unregister(pipe)
        pipe.close()
        if reader:
            reader.close()

    def _register(self, pipe: IO[bytes] | None, events: int, reader: LineReader | None) -> None:
        if pipe:
            os.set_blocking(pipe.fileno(), False)
            self._selector.register(pipe, events, (pipe, reader))
