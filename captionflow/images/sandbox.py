"""Decode pictures in a process of their own, bounded in time and memory, that holds no secret and reaches nothing.

A file may be made to crash, hang or balloon the native code that decodes it, or to take it over. Here such a file is
rejected and no other is affected. Pictures are decoded in a process of their own: the kernel limits its memory and ends
it when its CPU time is up, it starts without this process's environment, and it can open no file and no connection from
before it receives the first picture.

    python -m captionflow.images.sandbox FILE_DESCRIPTOR PARAMETERS    (started by Sandbox)

A picture goes in and comes out through shared memory; a request on the process's stdin announces each, an answer on its
stdout says that it is done.
"""

import fcntl
import json
import logging
import mmap
import os
import select
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import cycle
from typing import IO

from captionflow.images.confinement import confine, limit_memory, minimal_environment
from captionflow.images.decode import REASONS, ImageError, StoredImage, is_stored_form, load_decoders, process
from captionflow.images.parameters import ImageParameters

_READY = struct.Struct("256p")  # why seccomp is not used, or nothing
_REQUEST = struct.Struct("<?Q")  # slot of the shared memory; bytes of the picture
_ANSWER = struct.Struct("<?QII")  # stored?, bytes of the picture or of the reason
_TIMEOUT = "decode_timeout"
_LONGEST_REASON = 500
# Seconds of the clock, for each of CPU time allowed, after which a decoder counts as hanging.
_SECONDS_PER_CPU_SECOND = 20
MEGABYTE = 1_000_000

_LOG = logging.getLogger(__name__)


class Sandbox:
    """A decoding process, replaced when it dies; safe to share between threads.

    It holds two pictures: while one is decoded the next is sent, so that the decoder waits for no thread.
    """

    def __init__(self, parameters: ImageParameters) -> None:
        self._parameters = parameters
        self._decoder = _Decoder(parameters)
        self._sending, self._receiving = threading.Lock(), threading.Lock()

    def process(self, data: bytes) -> StoredImage:
        """Decode, resize and encode one picture, as `decode.process` does.

        Raises:
            ImageError: as there, or `decode_timeout`, `decode_out_of_memory` or `decoder_crashed`.
        """
        try:
            return self._try(data)
        except _DecoderDiedError as error:
            if error.args[0] == _TIMEOUT:
                raise ImageError(*error.args) from error
            # The kernel may have ended it for want of memory, which no picture is to blame for: once more.
            try:
                return self._try(data)
            except _DecoderDiedError as error:
                raise ImageError(*error.args) from error

    def _try(self, data: bytes) -> StoredImage:
        with ExitStack() as receiving:
            with self._sending:
                decoder, slot = self._send(data)
                # Answers come in the order of the pictures, so this thread must receive before the next one does.
                receiving.enter_context(self._receiving)
                if decoder.is_dead:  # over the picture before this one
                    decoder, slot = self._send(data)
            return decoder.receive(slot)

    def _send(self, data: bytes) -> "tuple[_Decoder, int]":
        if self._decoder.is_dead:
            self._decoder.close()
            self._decoder = _Decoder(self._parameters)
        return self._decoder, self._decoder.send(data)

    def close(self) -> None:
        """End the process, once it has finished its picture."""
        with self._sending, self._receiving:
            self._decoder.close()


@contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
    """Let the kernel end this process if the block takes more than `seconds` of CPU time.

    The signal has no handler, so it also ends native code. CPU time does not depend on how busy the machine is.
    """
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


class _DecoderDiedError(Exception):
    """A process ended over a picture; the arguments are reason and detail."""


class _Decoder:
    """One decoding process, with room for two pictures. Its answers are not trusted: it may have been taken over."""

    def __init__(self, parameters: ImageParameters) -> None:
        self.is_dead = False
        self._parameters = parameters
        self._slots = cycle((0, 1))
        self._is_new = True
        with _shared_file() as shared:
            shared.truncate(2 * _slot_bytes(parameters))
            _seal_size(shared)
            self._memory = mmap.mmap(shared.fileno(), 0)
            # -P: what is imported comes from sys.path alone, which is in the environment.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, str(shared.fileno()), json.dumps(parameters.to_json())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                pass_fds=[shared.fileno()],
                env=minimal_environment(),
            )
        assert self._process.stdin
        assert self._process.stdout
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._poll = select.poll()
        self._poll.register(self._stdout, select.POLLIN)

    def send(self, data: bytes) -> int:
        """Send a picture; returns the slot to receive it from. At most two may be unreceived."""
        slot = next(self._slots)
        begin = slot * _slot_bytes(self._parameters)
        self._memory[begin : begin + len(data)] = data
        with suppress(BrokenPipeError):
            self._stdin.write(_REQUEST.pack(slot, len(data)))
        return slot

    def receive(self, slot: int) -> StoredImage:
        """Return the result for the picture that was sent first of those not yet received."""
        if self._is_new:
            (seccomp_error,) = _READY.unpack(self._read(_READY.size))
            self._is_new = False
            if seccomp_error:
                _LOG.warning(
                    "pictures are decoded without seccomp, so with less protection: %s", seccomp_error.decode()
                )
        is_stored, length, height, width = _ANSWER.unpack(self._read(_ANSWER.size))
        begin = slot * _slot_bytes(self._parameters)
        longest = _slot_bytes(self._parameters) if is_stored else _LONGEST_REASON
        content = self._memory[begin : begin + min(length, longest)]
        if not is_stored:
            reason, _, detail = content.decode(errors="replace").partition("\n")
            if reason in REASONS:
                raise ImageError(reason, detail)
        if not is_stored or not is_stored_form(content, self._parameters):
            raise ImageError("decoder_crashed", "the decoder's answer is no picture and no error")
        return StoredImage(content, self._parameters.image_size, self._parameters.image_size, height, width)

    def _read(self, size: int) -> bytes:
        is_awake = self._poll.poll(1000 * _SECONDS_PER_CPU_SECOND * self._parameters.decode_seconds)
        answer = self._stdout.read(size) if is_awake else b""
        if len(answer) == size:
            return answer
        self._process.kill()  # no effect if it is dead
        code, self.is_dead = self._process.wait(), True
        if not is_awake:
            raise _DecoderDiedError(_TIMEOUT, "the decoder hangs")
        if code == -signal.SIGPROF:
            raise _DecoderDiedError(_TIMEOUT, "decoding took longer than --decode-seconds")
        name = signal.Signals(-code).name if code < 0 else code
        raise _DecoderDiedError("decoder_crashed", f"the decoder ended with {name}")

    def close(self) -> None:
        self._stdin.close()
        self._process.wait()
        self._stdout.close()
        self._memory.close()


def _shared_file() -> IO[bytes]:
    """Return a file without a name, in memory on Linux."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("captionflow-picture", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "r+b")
    return tempfile.TemporaryFile()


def _seal_size(shared: IO[bytes]) -> None:
    """Fix the size: a decoder that was taken over could otherwise fill the memory, or truncate the file under us."""
    if hasattr(os, "memfd_create"):
        fcntl.fcntl(shared, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)


def _slot_bytes(parameters: ImageParameters) -> int:
    # Room for any picture that is let in, and for a stored one that did not compress. Pages unused cost nothing.
    return max(parameters.max_image_megabytes * MEGABYTE, 4 * parameters.image_size**2) + MEGABYTE


def main() -> None:
    """Decode what comes in until stdin closes."""
    memory, parameters = mmap.mmap(int(sys.argv[1]), 0), ImageParameters.from_mapping(json.loads(sys.argv[2]))
    # On Ctrl-C the parent ends the job, and closes stdin.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    load_decoders()
    # What libraries print about broken files is not for the log.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    limit_memory(parameters.decode_megabytes * MEGABYTE)
    seccomp_error = confine()
    with suppress(BrokenPipeError):  # The parent is gone.
        os.write(1, _READY.pack(seccomp_error.encode("ascii", "replace")))
        while request := os.read(0, _REQUEST.size):
            slot, length = _REQUEST.unpack(request)
            begin = slot * _slot_bytes(parameters)
            with cpu_limit(parameters.decode_seconds):
                stored, content = _decoded(memory[begin : begin + length], parameters)
            memory[begin : begin + len(content)] = content
            size = (stored.original_height, stored.original_width) if stored else (0, 0)
            os.write(1, _ANSWER.pack(stored is not None, len(content), *size))


def _decoded(data: bytes, parameters: ImageParameters) -> tuple[StoredImage | None, bytes]:
    try:
        stored = process(data, parameters)
        return stored, stored.data
    except ImageError as error:
        return None, f"{error.reason}\n{error}".encode("utf-8", "backslashreplace")[:_LONGEST_REASON]
    except MemoryError:
        return None, b"decode_out_of_memory\ndecoding takes more than --decode-megabytes"


if __name__ == "__main__":
    main()
