"""A job beside a task: its output, its end, and its processes'."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captionflow.core.terminal import one_line
from tests.processes import wait_until

ENDED = r"^The job was ended with its task$"
FLOOD = "import sys\nfor pipe in (sys.stdout, sys.stderr): pipe.write(('x' * 99 + '\\n') * 10_000); pipe.flush()"
# Processes that no SIGTERM ends, with the pids of both in files.
STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
folder = sys.argv[1]
child = subprocess.Popen(["sh", "-c", "trap '' TERM; while true; do sleep 1; done"])
open(f"{folder}/pids.part", "w").write(f"{os.getpid()} {child.pid}")
os.rename(f"{folder}/pids.part", f"{folder}/pids")
print("at work", flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def jobs() -> ModuleType:
    from captionflow.airflow import local_job  # Airflow, which it imports, takes seconds

    return local_job


class Log:
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def log(self, level: int, event: str, /, *arguments: object) -> None:
        self.lines.append((logging.getLevelName(level), event % arguments))


@pytest.fixture
def log() -> Log:
    return Log()


def run(jobs: ModuleType, log: Log, code: str, *arguments: str, **named: Any) -> None:
    jobs.LocalJob(log).run([sys.executable, "-c", code, *arguments], **named)


def pids(folder: Path) -> list[int]:
    return [int(pid) for pid in (folder / "pids").read_text().split()]


def are_gone(found: list[int]) -> bool:
    return not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in found)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where a stubborn job says who it is; nothing of it stays after a test that failed."""
    yield tmp_path
    if (tmp_path / "pids").exists():
        for pid in pids(tmp_path):
            if psutil.pid_exists(pid):
                os.kill(pid, signal.SIGKILL)


@given(pieces=st.lists(st.binary(max_size=20) | st.sampled_from([b"\n", b"\r\n", b"\xe2\x82", b"\xac\n"])))
def test_any_bytes_cut_anywhere_are_the_lines_they_are(jobs: ModuleType, pieces: list[bytes]) -> None:
    found: list[str] = []
    reader = jobs.LineReader(found.append)
    for piece in pieces:
        reader.feed(piece)
    reader.close()
    lines = b"".join(pieces).split(b"\n")
    assert found == [
        line.removesuffix(b"\r").decode(errors="replace") for line in lines[:-1] + list(filter(None, lines[-1:]))
    ]


def test_a_line_without_end_fills_no_memory(jobs: ModuleType) -> None:
    found: list[str] = []
    reader = jobs.LineReader(found.append)
    for _ in range(100):
        reader.feed(b"x" * (1 << 20))
    reader.feed(b"\nnext")
    reader.close()
    assert found == ["x" * (1 << 20) + f" … (and {99 << 20} bytes)", "next"]


@given(text=st.text())
def test_no_line_acts_on_a_log(jobs: ModuleType, text: str) -> None:
    log = Log()
    jobs.LevelledLog(log).on_line(text)
    ((_, line),) = log.lines
    assert line == one_line(text)


def test_lines_have_the_level_they_carry(jobs: ModuleType, log: Log) -> None:
    told = [
        ("INFO", "plain"),
        ("WARNING", "WARNING:root:look"),
        ("WARNING", "  at this"),
        ("INFO", "INFO:beam_jobs.preprocess:preprocess: 3 images"),
        ("ERROR", "Traceback (most recent call last):"),
        ("ERROR", '  File "job.py", line 1, in <module>'),
        ("ERROR", "ValueError: no"),
        ("DEBUG", "DEBUG:a:b"),
        ("CRITICAL", "CRITICAL:a:b"),
        ("CRITICAL", "Traceback (most recent call last):"),
        ("INFO", r" 50%\u000d100%"),
    ]
    text = "\n".join(line for _, line in told).replace(r"\u000d", "\r")
    run(jobs, log, "import sys; sys.stderr.write(sys.argv[1])", text)
    assert log.lines[1:] == told


@pytest.mark.parametrize("stdin", [None, b"", b"x" * 5_000_000])
def test_much_on_every_pipe_at_once_holds_up_nothing(jobs: ModuleType, log: Log, stdin: bytes | None) -> None:
    out: list[str] = []
    errors: list[str] = []
    code = f"{FLOOD}\nprint(len(sys.stdin.buffer.read()))\nprint('the end', end='')"
    run(jobs, log, code, stdin=stdin, on_line=out.append, on_error_line=errors.append)
    assert errors == ["x" * 99] * 10_000
    assert out == [*errors, str(len(stdin or b"")), "the end"]
    assert len(log.lines) == len(out) + len(errors) + 1


def test_what_it_does_not_read_is_nobodys_trouble(jobs: ModuleType, log: Log) -> None:
    run(jobs, log, "import os; os.close(0); print('done')", stdin=b"x" * 5_000_000)
    assert log.lines[-1] == ("INFO", "done")


def test_its_environment_is_the_one_given(jobs: ModuleType, log: Log) -> None:
    run(jobs, log, "import os; print(sorted(os.environ))", environment={"A": "b"})
    assert "'A'" in log.lines[-1][1]
    assert "'PATH'" not in log.lines[-1][1]


def test_its_environment_has_none_of_airflows_secrets(
    jobs: ModuleType, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AIRFLOW__API_AUTH__JWT_SECRET", "AIRFLOW_CONN_STORE", "_AIRFLOW_PASSWORD", "CAPTIONFLOW_HERE"):
        monkeypatch.setenv(name, "secret")
    run(jobs, log, "import os; print(*(name for name, value in os.environ.items() if value == 'secret'))")
    assert log.lines[-1] == ("INFO", "CAPTIONFLOW_HERE")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import sys; print('said'); sys.exit('what was wrong')", "The job ended with exit code 1: what was wrong"),
        ("import sys; sys.exit(7)", "The job ended with exit code 7"),
        ("raise ValueError('a\\x1bb')", r"The job ended with exit code 1: ValueError: a\u001bb"),
        ("import os; os.kill(os.getpid(), 9)", "The job was ended by signal 9 (Killed)"),
    ],
)
def test_a_job_that_fails_gives_one_clear_line(jobs: ModuleType, log: Log, code: str, message: str) -> None:
    with pytest.raises(jobs.AirflowException) as raised:
        run(jobs, log, code)
    assert str(raised.value) == message


def test_a_command_that_is_not_there_is_told(jobs: ModuleType, log: Log) -> None:
    with pytest.raises(jobs.AirflowException, match=r"^/none: cannot be run \(No such file or directory\)$"):
        jobs.LocalJob(log).run(["/none"])


@pytest.mark.parametrize("session", ["", "setsid "])
@pytest.mark.parametrize("chatter", ["sleep 600", "while true; do echo still here; sleep 0.1; done"])
def test_what_a_job_leaves_behind_holds_up_nothing(
    jobs: ModuleType, log: Log, folder: Path, chatter: str, session: str
) -> None:
    code = "import subprocess, sys; child = subprocess.Popen(sys.argv[1:]); print(child.pid)"
    out: list[str] = []
    run(jobs, log, code, *session.split(), "sh", "-c", chatter, on_line=out.append)
    # On a busy machine the child may speak first.
    (folder / "pids").write_text(next(line for line in out if line.strip().isdigit()))
    assert log.lines[-1] == ("WARNING", "The job has ended; processes that it started are ended too")
    if not session:
        wait_until(lambda: are_gone(pids(folder)))


def test_a_job_that_hides_its_pipes_is_waited_for(jobs: ModuleType, log: Log, tmp_path: Path) -> None:
    code = "import os, sys, time; os.close(1); os.close(2); time.sleep(2); open(sys.argv[1], 'w')"
    run(jobs, log, code, str(tmp_path / "done"))
    assert (tmp_path / "done").exists()


class OutOfTimeError(BaseException):
    """Like AirflowTaskTimeout, no Exception."""


@pytest.mark.parametrize("error", [OutOfTimeError, KeyboardInterrupt, ValueError])
def test_no_process_outlives_an_error(jobs: ModuleType, log: Log, folder: Path, error: type[BaseException]) -> None:
    def fail(_: str) -> None:
        raise error

    with pytest.raises(error):
        run(jobs, log, STUBBORN, str(folder), on_line=fail)
    wait_until(lambda: are_gone(pids(folder)))


def test_an_error_waits_for_the_jobs_last_words(jobs: ModuleType, log: Log) -> None:
    def out_of_time(*_: object) -> None:
        raise OutOfTimeError

    code = (
        "import signal, sys, time\n"
        "def end(*_): sys.stderr.write('x' * 300_000 + '\\nERROR:root:cleaned up\\n'); sys.exit(1)\n"
        "signal.signal(15, end); print('ready', flush=True); time.sleep(600)"
    )
    before = signal.signal(signal.SIGUSR1, out_of_time)
    try:
        with pytest.raises(OutOfTimeError):
            run(jobs, log, code, on_line=lambda _: threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGUSR1)).start())
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert log.lines[-1] == ("ERROR", "ERROR:root:cleaned up")


def test_a_handlers_kill_ends_the_job_and_its_children_and_fails(jobs: ModuleType, log: Log, folder: Path) -> None:
    job = jobs.LocalJob(log)
    before = signal.signal(signal.SIGUSR1, lambda *_: job.kill())
    try:
        with pytest.raises(jobs.AirflowException, match=ENDED):
            job.run(
                [sys.executable, "-c", STUBBORN, str(folder)],
                on_line=lambda _: threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGUSR1)).start(),
            )
    finally:
        signal.signal(signal.SIGUSR1, before)
    wait_until(lambda: are_gone(pids(folder)))
    job.kill()


def test_a_job_that_ends_well_when_told_to_end_has_failed(jobs: ModuleType, log: Log) -> None:
    code = "import signal, time; signal.signal(15, lambda *_: exit(0)); print('ready', flush=True); time.sleep(600)"
    job = jobs.LocalJob(log)
    with pytest.raises(jobs.AirflowException, match=ENDED):
        job.run([sys.executable, "-c", code], on_line=lambda _: job.kill())


def test_a_job_that_was_killed_before_it_began_does_not_begin(jobs: ModuleType, log: Log) -> None:
    job = jobs.LocalJob(log)
    job.kill()
    with pytest.raises(jobs.AirflowException, match=ENDED):
        job.run([sys.executable, "-c", "print('begun')"])
    assert log.lines == []


def test_a_job_is_left_to_itself_once_it_may_be(jobs: ModuleType, log: Log, folder: Path) -> None:
    job = jobs.LocalJob(log)
    job.run([sys.executable, "-c", STUBBORN, str(folder)], until=lambda: ("INFO", "at work") in log.lines)
    assert not are_gone(pids(folder))
    job.kill()
