"""A picture that takes over its decoder finds no secret there, and no way out."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from PIL import Image

from beam_jobs.preprocess import run
from captionflow.images.decode import ImageError, process
from captionflow.images.sandbox import Sandbox, _slot_bytes
from captionflow.preprocess.parameters import PreprocessParameters
from tests.fuzz_images import LIMITS
from tests.ingesting import CAPTION, ingest_records
from tests.processes import captionflow, wait_until
from tests.servers import Site
from tests.test_images import saved
from tests.test_preprocess import content
from tests.test_sandbox import GOOD, many_scans

pytestmark = pytest.mark.security

SECRETS = {
    "AIRFLOW__CORE__FERNET_KEY": "s3cret-fernet",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "postgresql://airflow:s3cret@database/airflow",
    "AWS_SECRET_ACCESS_KEY": "s3cret-aws",
    "GOOGLE_APPLICATION_CREDENTIALS": "/s3cret/google.json",
    "SOME_TOKEN": "s3cret-token",
}
# What a picture may try for which there is no library function at hand, by the number of its system call.
SYSTEM_CALLS = "ctypes.CDLL(None, use_errno=True).syscall"
TAKEN_OVER = {
    "sitecustomize": f"""
import ctypes, os, resource, signal, socket, subprocess  # before the process gives up opening files
from captionflow.images import decode as images

def shared():
    # The number of the memory that is shared with the parent, and its size.
    for number in range(3, 1000):
        try:
            return number, os.lseek(number, 0, os.SEEK_END)
        except OSError:
            pass

def run(code, parameters):
    try:
        result = eval(code, {{**globals(), "syscall": {SYSTEM_CALLS}}})
    except BaseException as error:
        result = f"refused: {{type(error).__name__}}: {{error}}"
    return images.StoredImage(b"\\xff\\xd8\\xff" + str(result).encode(), 0, 0)

images.process = run
"""
}
JPEG = b"\xff\xd8\xff"
NO_SECCOMP = {"pyseccomp": "raise RuntimeError('Unable to find libseccomp')"}
# Numbers of the system calls that are tried: 64-bit x86, and the numbers that other machines have in common.
NUMBERS = {"ptrace": 101, "process_vm_readv": 310} if os.uname().machine == "x86_64" else {}


@contextmanager
def first(folder: Path, modules: dict[str, str]) -> Iterator[None]:
    """Have the processes that are started in the block import these before all others, and find secrets if they can."""
    for name, code in modules.items():
        (folder / f"{name}.py").write_text(code)
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name, value in SECRETS.items():
            monkeypatch.setenv(name, value)
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(folder), os.environ.get("PYTHONPATH", ""))))
        yield


TakenOver = Callable[[str], str]


@contextmanager
def decoder(folder: Path, modules: dict[str, str]) -> Iterator[TakenOver]:
    """Give what runs code in a decoder, in the place of the native code that a picture would take over."""
    with first(folder, modules):
        sandbox = Sandbox(LIMITS)
    with closing(sandbox):
        yield lambda code: sandbox.process(code.encode()).data.removeprefix(JPEG).decode()


@pytest.fixture(scope="module")
def taken_over(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TakenOver]:
    with decoder(tmp_path_factory.mktemp("modules"), TAKEN_OVER) as run_there:
        yield run_there


@pytest.fixture(scope="module")
def taken_over_without_seccomp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TakenOver]:
    with decoder(tmp_path_factory.mktemp("modules"), TAKEN_OVER | NO_SECCOMP) as run_there:
        yield run_there


@pytest.fixture
def others() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def busy(others: list[psutil.Process]) -> list[psutil.Process]:
    """Processes of this test that have worked for longer than starting takes."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # Some are soon gone.
            if child not in others and child.cpu_times().user > 3:
                found.append(child)
    return found


def test_the_process_that_decodes_has_nothing_of_the_environment(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: list[psutil.Process]
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    site.pages["/a"] = many_scans(10_000)
    parameters = PreprocessParameters(allow_url_prefix=(site.url,), image_size=32, decode_seconds=60.0, split="1,0,0")
    source = ingest_records([replace(CAPTION, image_url=f"{site.url}/a")], tmp_path)
    with ThreadPoolExecutor(1) as thread:
        job = thread.submit(run, source, str(tmp_path / "out"), parameters, [])
        try:
            wait_until(lambda: bool(busy(others)))
            (decoder,) = busy(others)
            assert decoder.environ().keys() <= {"PYTHONPATH", "LD_LIBRARY_PATH", "PYTHONHOME"} | {
                name for name in decoder.environ() if name.startswith(("MALLOC_", "LC_"))
            }
            assert "s3cret" not in Path(f"/proc/{decoder.pid}/environ").read_text()
            opened = {str(path.readlink()) for path in Path(f"/proc/{decoder.pid}/fd").iterdir()}
            assert all(name.startswith(("pipe:", "/dev/null", "/memfd:captionflow")) for name in opened), opened
        finally:
            for process in psutil.Process().children(recursive=True):
                if process not in others and "captionflow.images.sandbox" in process.cmdline():
                    process.send_signal(signal.SIGPROF)
    with pytest.raises(Exception, match="no image"):
        job.result()


def test_a_picture_finds_no_secret_in_its_process(taken_over: TakenOver) -> None:
    assert "PYTHONPATH" in taken_over("dict(os.environ)")
    assert "s3cret" not in taken_over("dict(os.environ)")


ATTEMPTS = {
    "connect": "socket.create_connection(('127.0.0.1', {port}))",
    "a socket": "socket.socket(socket.AF_UNIX)",
    "resolve a name": "socket.getaddrinfo('localhost', 80)",
    "the parent's environment": "open(f'/proc/{{os.getppid()}}/environ').read()",
    "its own environment": "open('/proc/self/environ').read()",
    "a file": "open('/etc/passwd').read()",
    "a file to write": "open({path!r}, 'w')",
    "a pipe": "os.pipe()",
    "a program": "subprocess.run(['/bin/true'], check=True)",
}
# Without seccomp these are open to a picture.
MORE = {
    "a process": "os.fork()",
    "another program in its place": "os.execv('/bin/true', ['true'])",
    "end another process": "os.kill(os.getppid(), signal.SIGTERM)",
    "higher limits": "resource.setrlimit(resource.RLIMIT_NOFILE, (99, 99))",
    "a shorter memory": "os.ftruncate({memory}, 0)",
    "remove a file": "os.unlink({path!r})",
}


@pytest.mark.parametrize("name", [*ATTEMPTS, *MORE])
def test_a_picture_reaches_nothing(taken_over: TakenOver, site: Site, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("here")
    port, memory = site.url.rpartition(":")[2], 3
    attempt = (ATTEMPTS | MORE)[name].format(port=port, path=str(tmp_path / "file"), memory=memory)
    assert taken_over(attempt).startswith("refused: ")
    # It goes on to decode: it was refused, not ended.
    assert taken_over("'well'") == "well"
    assert (tmp_path / "file").read_text() == "here"
    assert not site.hits


@pytest.mark.skipif(not NUMBERS, reason="their numbers are those of x86")
@pytest.mark.parametrize("name", NUMBERS)
def test_a_picture_looks_into_no_other_process(taken_over: TakenOver, name: str) -> None:
    # PTRACE_ATTACH, or no bytes of the parent.
    arguments = "16, os.getppid(), 0, 0" if name == "ptrace" else "os.getppid(), None, 0, None, 0, 0"
    assert taken_over(f"(syscall({NUMBERS[name]}, {arguments}), ctypes.get_errno())") == "(-1, 1)"


@pytest.mark.parametrize("name", ATTEMPTS)
def test_without_seccomp_a_picture_still_opens_nothing(
    taken_over_without_seccomp: TakenOver, site: Site, tmp_path: Path, name: str
) -> None:
    port = site.url.rpartition(":")[2]
    attempt = ATTEMPTS[name].format(port=port, path=str(tmp_path / "new"))
    assert taken_over_without_seccomp(attempt).startswith("refused: ")
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_without_seccomp_a_job_says_so_once_and_makes_the_same(small_sample: Path, tmp_path: Path) -> None:
    paths = sorted((small_sample / "images").iterdir())
    records = [replace(CAPTION, image_id=i, id=i, image_url=str(path)) for i, path in enumerate(paths)]
    ingested = ingest_records(records, tmp_path)

    def made(name: str, times: int) -> dict[str, bytes]:
        options = [f"--ingested={ingested}", f"--allow-url-prefix={small_sample}", "--image-size=32"]
        done = captionflow("preprocess", f"--output={tmp_path / name}", *options)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("Unable to find libseccomp") == times
        return content(done.stdout.strip())

    confined = made("confined", 0)
    with first(tmp_path, NO_SECCOMP):
        assert made("less_confined", 1) == confined


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param("b'x'", id="too short"),
        pytest.param("bytes(9)", id="no reason"),
        pytest.param("bytes([0]) + b'\\xff' * 8", id="longer than there is room"),
        pytest.param("bytes([0]) + (5_000_000).to_bytes(8, 'little')", id="a reason of five megabytes"),
        pytest.param("bytes([1]) + (500).to_bytes(8, 'little')", id="a stored picture that is none"),
    ],
)
def test_whatever_a_picture_answers_is_its_own_reject(tmp_path: Path, answer: str) -> None:
    with first(tmp_path, TAKEN_OVER), closing(Sandbox(LIMITS)) as sandbox:
        with pytest.raises(ImageError) as caught:
            sandbox.process(f"(os.write(1, {answer}), os._exit(0))".encode())
        assert caught.value.reason == "decoder_crashed"
        assert len(str(caught.value)) < 1000
        # The decoder that is left may be of no use: it has answered, and can no more.
        with suppress(ImageError):
            sandbox.process(b"'well'")
        assert sandbox.process(b"'well'").data == JPEG + b"well"


def test_a_picture_that_makes_its_decoder_sleep_is_given_up(tmp_path: Path) -> None:
    """It takes no CPU time, so that the kernel does not end it."""
    with (
        first(tmp_path, TAKEN_OVER),
        closing(Sandbox(replace(LIMITS, decode_seconds=0.1))) as sandbox,
        ThreadPoolExecutor(1) as thread,
    ):
        asleep = thread.submit(sandbox.process, b"os.read(0, 1)")
        try:
            with pytest.raises(ImageError) as caught:
                asleep.result(60)
        finally:
            for child in psutil.Process().children():
                if "captionflow.images.sandbox" in child.cmdline() and not asleep.done():
                    child.kill()
        assert caught.value.reason == "decode_timeout"
        assert sandbox.process(b"'well'").data == JPEG + b"well"


@pytest.mark.parametrize("size", ["os.ftruncate(3, 0)", "os.ftruncate(3, 10**9)", "os.posix_fallocate(3, 0, 10**9)",
                                  "(os.lseek(3, 0, 2), [os.write(3, b'x' * 10**7) for _ in range(10)])"])  # fmt: skip
def test_a_picture_cannot_fill_the_memory_that_is_shared_nor_take_it_away(
    taken_over: TakenOver, taken_over_without_seccomp: TakenOver, size: str
) -> None:
    """Its limit of memory does not count what is in a file."""
    for run_there in (taken_over, taken_over_without_seccomp):
        assert run_there("shared()[1]") == str(2 * _slot_bytes(LIMITS))
        assert run_there(size.replace("(3, ", "(shared()[0], ")).startswith("refused: ")


def test_packages_are_found_where_this_process_finds_them(tmp_path: Path) -> None:
    """Airflow adds its folders to sys.path alone; and a decoder has no HOME."""
    code = f"""
import sys
sys.path[:0] = {sys.path!r}
from captionflow.preprocess.parameters import PreprocessParameters
from captionflow.images.sandbox import Sandbox, _slot_bytes
sandbox = Sandbox(PreprocessParameters(image_size=32))
print(sandbox.process(open({str(tmp_path / "good")!r}, "rb").read()).width)
sandbox.close()
"""
    (tmp_path / "good").write_bytes(GOOD)
    # -S and no PYTHONPATH: not even the environment's own packages are found.
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, env=bare, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("32\n", "")


@pytest.mark.parametrize("image_format", ["WEBP", "JPEG", "PNG", "TIFF", "GIF"])
def test_large_pictures_come_out_as_they_do_without_a_sandbox(image_format: str) -> None:
    """Some decoders use threads from some size on."""
    picture = Image.effect_noise((2000, 1500), 80).convert("RGB")
    data, parameters = saved(picture, image_format), PreprocessParameters(image_size=64)
    with closing(Sandbox(parameters)) as sandbox:
        assert sandbox.process(data) == process(data, parameters)
