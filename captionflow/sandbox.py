"""Decode pictures in a process of their own, bounded in time and memory.

A file may be made to crash, hang or balloon the native code that decodes it. Here that costs the
file its place in the dataset and nobody else anything: each picture is decoded by a small process
whose memory is limited by the kernel and which the kernel kills when its time is up.

    python -m captionflow.sandbox FILE_DESCRIPTOR PARAMETERS    (started by Sandbox)

A picture goes in and comes out through memory shared with that process; its stdin says when one is
there, its stdout when it is done.
"""

import json
import mmap
import os
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from captionflow.images import ImageError, StoredImage, process
from captionflow.parameters import PreprocessParameters

_REQUEST = struct.Struct("<Q")  # bytes of the picture
_ANSWER = struct.Struct("<?QII")  # stored?, bytes of the picture or of the reason; height, width
_TIMEOUT = "decode_timeout"
MEGABYTE = 1_000_000


class Sandbox:
    """A decoding process, replaced when it dies; safe to share between threads, which take turns."""

    def __init__(self, parameters: PreprocessParameters) -> None:
        self._parameters = parameters
        self._decoder = _Decoder(parameters)
        self._turn = threading.Lock()

    def process(self, data: bytes) -> StoredImage:
        """Do as `images.process` does.

        Raises:
            ImageError: as there, or `decode_timeout`, `decode_out_of_memory` or `decoder_crashed`.
        """
        with self._turn:
            try:
                return self._try(data)
            except _DecoderDiedError as error:
                if error.args[0] == _TIMEOUT:
                    raise ImageError(*error.args) from error
                # It may have been somebody else's doing, the kernel's when memory is short: a second chance.
                try:
                    return self._try(data)
                except _DecoderDiedError as error:
                    raise ImageError(*error.args) from error

    def _try(self, data: bytes) -> StoredImage:
        try:
            return self._decoder.process(data)
        except _DecoderDiedError:
            self._decoder = _Decoder(self._parameters)
            raise

    def close(self) -> None:
        """End the process, once it has finished its picture."""
        with self._turn:
            self._decoder.close()


@contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
    """Let the kernel end this process if it works for longer than `seconds` in the block.

    The signal is not handled, so it also comes in the middle of native code. It counts CPU time:
    a busy machine ends no more than an idle one.
    """
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def silence_native_code() -> None:
    """Keep what libraries print about broken files out of the log, but not what Python prints."""
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def limit_memory(size: int) -> None:
    """Allow this process `size` bytes beyond what it has mapped by now, where the system can tell."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        mapped = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + size, mapped + size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class _DecoderDiedError(Exception):
    """A process ended over a picture; the arguments are reason and detail."""


class _Decoder:
    """One decoding process."""

    def __init__(self, parameters: PreprocessParameters) -> None:
        with _shared_file() as shared:
            shared.truncate(_shared_bytes(parameters))
            self._memory = mmap.mmap(shared.fileno(), 0)
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(shared.fileno()), json.dumps(parameters.to_json())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                pass_fds=[shared.fileno()],
            )

    def process(self, data: bytes) -> StoredImage:
        assert self._process.stdin
        assert self._process.stdout
        self._memory[: len(data)] = data
        try:
            self._process.stdin.write(_REQUEST.pack(len(data)))
            answer = self._process.stdout.read(_ANSWER.size)
        except BrokenPipeError:
            answer = b""
        if not answer:
            raise _DecoderDiedError(*self._death())
        is_stored, length, height, width = _ANSWER.unpack(answer)
        content = self._memory[:length]
        if not is_stored:
            reason, detail = content.decode().split("\n", 1)
            raise ImageError(reason, detail)
        return StoredImage(content, height, width)

    def _death(self) -> tuple[str, str]:
        self.close()
        code = self._process.returncode
        if code == -signal.SIGPROF:
            return _TIMEOUT, "decoding took longer than --decode-seconds"
        return "decoder_crashed", f"the decoder ended with {signal.Signals(-code).name if code < 0 else code}"

    def close(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._memory.close()


def _shared_file() -> IO[bytes]:
    """Return a file without a name, in memory where the system knows such."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("captionflow-picture"), "r+b")
    return tempfile.TemporaryFile()


def _shared_bytes(parameters: PreprocessParameters) -> int:
    # Room for any picture that is let in, and for a stored one that did not compress. Pages unused cost nothing.
    return max(parameters.max_image_megabytes * MEGABYTE, 4 * parameters.image_size**2) + MEGABYTE


def main() -> None:
    """Decode what comes in until stdin closes."""
    memory, parameters = mmap.mmap(int(sys.argv[1]), 0), PreprocessParameters.from_mapping(json.loads(sys.argv[2]))
    # Interrupting the job in a terminal is the parent's affair; stdin closes then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    silence_native_code()
    limit_memory(parameters.decode_megabytes * MEGABYTE)
    with suppress(BrokenPipeError):  # The parent is gone.
        while request := os.read(0, _REQUEST.size):
            (length,) = _REQUEST.unpack(request)
            with cpu_limit(parameters.decode_seconds):
                is_stored, content, height, width = _answer(memory, length, parameters)
            memory[: len(content)] = content
            os.write(1, _ANSWER.pack(is_stored, len(content), height, width))


def _answer(memory: mmap.mmap, length: int, parameters: PreprocessParameters) -> tuple[bool, bytes, int, int]:
    try:
        stored = process(memory[:length], parameters)
    except ImageError as error:
        return False, f"{error.reason}\n{error}".encode("utf-8", "backslashreplace")[:MEGABYTE], 0, 0
    except MemoryError:
        return False, b"decode_out_of_memory\ndecoding takes more than --decode-megabytes", 0, 0
    return True, stored.data, stored.height, stored.width


if __name__ == "__main__":
    main()
