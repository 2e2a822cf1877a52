"""A command that a task runs as a process of its own: full pipes cannot block it, and it does not outlive the task."""

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

_KILLED = "The job was ended with its task"
_LEVEL = re.compile(r"(DEBUG|INFO|WARNING|ERROR|CRITICAL):")
_TRACEBACK = re.compile(r"[ +|]*(Exception Group )?Traceback \(most recent call last\):")
_CHUNK = 1 << 16
_LONGEST_LINE = 1 << 20
_LONGEST_MESSAGE = 500
_POLL_SECONDS = 0.1
# Airflow gives a task that it stops five seconds in all.
_GRACE_SECONDS = 3.0
# How long child processes that outlive the command may hold its pipes: without output, and in all.
_QUIET_SECONDS = 1.0
_ORPHAN_SECONDS = 5.0


class Logger(Protocol):
    """A logger, the standard library's or Airflow's."""

    def log(self, level: int, event: str, /, *arguments: object) -> object:
        """Log a message."""


def without_airflow(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without Airflow's settings, some of which are secrets."""
    return {name: value for name, value in environment.items() if not name.startswith(("AIRFLOW_", "_AIRFLOW_"))}


class LineReader:
    """Splits the bytes of a pipe into lines; it keeps the first MiB of a longer one."""

    def __init__(self, *handlers: Callable[[str], None]) -> None:
        self._handlers = handlers
        self._line = bytearray()
        self._dropped = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._keep(line)
            self._end_line()
        self._keep(rest)

    def close(self) -> None:
        """Take the end; a last line needs no line feed."""
        if self._line:
            self._end_line()

    def _keep(self, data: bytes) -> None:
        room = _LONGEST_LINE - len(self._line)
        self._line += data[:room]
        self._dropped += len(data[room:])

    def _end_line(self) -> None:
        line = self._line.removesuffix(b"\r").decode(errors="replace")
        if self._dropped:
            line += f" … (and {self._dropped} bytes)"
        self._line.clear()
        self._dropped = 0
        for handle in self._handlers:
            handle(line)


class LevelledLog:
    """Logs the lines of a pipe, each at the level that it names; a line without one has that of the line before."""

    def __init__(self, log: Logger) -> None:
        self._log = log
        self._level = logging.INFO
        self.last = ""

    def on_line(self, line: str) -> None:
        """Log a line."""
        self.last = line.strip() or self.last
        self._log.log(self._level_of(line), "%s", one_line(line))

    def _level_of(self, line: str) -> int:
        if "\r" in line:  # a progress bar
            return logging.INFO
        if found := _LEVEL.match(line):
            self._level = logging.getLevelNamesMapping()[found[1]]
        elif _TRACEBACK.match(line):
            self._level = max(self._level, logging.ERROR)
        return self._level


class LocalJob:
    """One run of a command, in a process group of its own.

    However `run` ends, no process of that group is left, unless this process itself is killed (SIGKILL); commands have
    `--exit-with-parent` for that case.

    Args:
        log: gets the command's output, line by line.
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
            stdin: the command's input, by default none.
            on_line: called with each line of the output, of which it gets the first MiB.
            on_error_line: the same for the error output.
            until: called after each output; when it returns True, `run` returns and leaves the command running.

        Raises:
            AirflowException: the command cannot be started, ended with another exit code than 0, or was killed.
        """
        output, errors = LevelledLog(self._log), LevelledLog(self._log)
        pipes = _Pipes()
        detached = False
        try:
            process = self._start(command, without_airflow(os.environ) if environment is None else environment, stdin)
            pipes.write(process.stdin, stdin or b"")
            pipes.read(process.stdout, LineReader(output.on_line, *filter(None, [on_line])))
            pipes.read(process.stderr, LineReader(errors.on_line, *filter(None, [on_error_line])))
            detached = self._follow(process, pipes, until)
        except BaseException:  # Airflow's timeout of a task is no Exception
            self.kill()
            if self._process:
                self._follow(self._process, pipes)
            raise
        finally:
            if not detached:
                self._signal(signal.SIGKILL)
                self._wait()
                self._process = None
            pipes.close()
        if not detached:
            self._raise_for(process.returncode, errors.last)

    def kill(self) -> None:
        """End the command's process group; `run` raises, even if it is called later. Safe in a signal handler."""
        if self._killed_at is None:
            self._killed_at = time.monotonic()
        self._signal(signal.SIGTERM)

    def _start(
        self, command: Sequence[str], environment: Mapping[str, str], stdin: bytes | None
    ) -> subprocess.Popen[bytes]:
        if self._killed_at is not None:
            raise AirflowException(_KILLED)
        self._log.log(logging.INFO, "Running: %s", one_line(shlex.join(command)))
        try:
            self._process = subprocess.Popen(
                command,
                # This process's own may be its connection to Airflow's supervisor.
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
        """Pass on the output until the command has ended, or `until` holds; return whether it does."""
        output_at, ended_at = 0.0, None
        while pipes.are_open or process.poll() is None:
            if pipes.serve(_POLL_SECONDS):
                output_at = time.monotonic()
                if until and until():
                    return True
            now = time.monotonic()
            if self._killed_at is not None and now > self._killed_at + _GRACE_SECONDS:
                self._signal(signal.SIGKILL)
            if process.poll() is None:
                continue
            ended_at = ended_at or now
            if now > min(max(output_at, ended_at) + _QUIET_SECONDS, ended_at + _ORPHAN_SECONDS):
                self._log.log(logging.WARNING, "The job has ended; processes that it started are ended too")
                break
        return False

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError, PermissionError):  # macOS raises the latter for a process that has ended
                os.killpg(self._process.pid, number)

    def _wait(self) -> None:
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_GRACE_SECONDS)

    def _raise_for(self, code: int | None, last_line: str) -> None:
        if self._killed_at is not None:
            raise AirflowException(_KILLED)
        if code == 0:
            return
        how = f"ended with exit code {code}"
        if code is not None and code < 0:
            how = f"was ended by signal {-code} ({signal.strsignal(-code)})"
        message = f": {one_line(last_line[:_LONGEST_MESSAGE])}" if last_line else ""
        raise AirflowException(f"The job {how}{message}")


class _Pipes:
    """The pipes of a process, read and written without blocking."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._unsent = memoryview(b"")
        self._readable = 0

    def write(self, pipe: IO[bytes] | None, data: bytes) -> None:
        """Send the process its input."""
        self._unsent = memoryview(data)
        self._register(pipe, selectors.EVENT_WRITE, None)

    def read(self, pipe: IO[bytes] | None, reader: LineReader) -> None:
        """Pass on a pipe's bytes to a reader."""
        self._register(pipe, selectors.EVENT_READ, reader)
        self._readable += 1

    @property
    def are_open(self) -> bool:
        """Whether the process, or one that it started, may still write."""
        return self._readable > 0

    def serve(self, seconds: float) -> bool:
        """Wait up to `seconds` for data and pass it on; return whether there was output."""
        has_output = False
        for key, _ in self._selector.select(seconds):
            pipe, reader = key.data
            if not reader:
                self._send(pipe)
                continue
            has_output = True
            if data := os.read(key.fd, _CHUNK):
                reader.feed(data)
            else:
                self._readable -= 1
                self._close(pipe, reader)
        return has_output

    def close(self) -> None:
        """Close the pipes; an unfinished last line is passed on."""
        for key in list(self._selector.get_map().values()):
            self._close(*key.data)
        self._selector.close()

    def _send(self, pipe: IO[bytes]) -> None:
        try:
            self._unsent = self._unsent[os.write(pipe.fileno(), self._unsent[:_CHUNK]) :]
        except BrokenPipeError:  # the process has closed its input
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
