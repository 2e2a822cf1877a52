"""Open a file of a source: fetch it if it is remote, and recognise its format."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from captionflow.core.errors import InvalidInputError, StepFailedError
from captionflow.core.manifest import Parent
from captionflow.core.uris import is_local, resolve
from captionflow.sources.caption_file import CaptionFile, choose_member
from captionflow.sources.download import download
from captionflow.sources.expansion import SourceFile
from captionflow.sources.formats import EXPECTED, UNREADABLE, Format, reason_of, recognise
from captionflow.sources.parameters import IngestParameters
from captionflow.sources.rows import Rows, reject_long_text

_HEAD_BYTES = 1 << 16


@dataclass(frozen=True)
class Source:
    """A file of a source, which is on this machine and whose format is known.

    Attributes:
        image_root: folder URI that replaces the URLs of COCO images, and where others are by name; None if not given.
    """

    file: CaptionFile
    format: Format
    image_root: str | None = None

    @property
    def uri(self) -> str:
        """The file's URI, as the user gave it or as it was found, resolved."""
        return self.file.uri

    @property
    def parent(self) -> Parent:
        """The source as a parent in a manifest: its URI and the sha256 of its bytes."""
        return Parent("source", self.uri, self.file.sha256)

    @property
    def size(self) -> int:
        """The file's size in bytes, not unpacked."""
        return self.file.path.stat().st_size

    def read(self, parameters: IngestParameters) -> Rows:
        """Yield the rows in the order of the file, each checked by itself.

        Raises:
            InvalidInputError: the file is cut off or broken.
        """
        try:
            for record in self.format.read(self.file, parameters, self.image_root):
                yield reject_long_text(record, parameters.max_text_bytes)
        except UNREADABLE as error:
            raise InvalidInputError(f"{self.uri}: cannot be read to its end: {reason_of(error)}") from error


@contextmanager
def open_file(given: SourceFile, parameters: IngestParameters) -> Iterator[Source]:
    """Fetch a file of a source if it is remote, and recognise its format.

    Raises:
        InvalidInputError: it cannot be read or is in no known format; the message names those that are.
        StepFailedError: there is no room for a remote file.
    """
    uri = given.uri
    with _local_copy(uri, parameters) as path:
        try:
            file = CaptionFile(resolve(uri), path, choose_member(uri, path, parameters.member), given.split)
            with file.open() as opened:
                format_ = recognise(opened.read(_HEAD_BYTES), parameters)
        except UNREADABLE as error:
            raise InvalidInputError(f"{uri}: cannot be read ({reason_of(error)}); {EXPECTED}") from error
        if format_ is None:
            raise InvalidInputError(f"{uri}: {EXPECTED}")
        yield Source(file, format_, given.image_root)


@contextmanager
def _local_copy(uri: str, parameters: IngestParameters) -> Iterator[Path]:
    if is_local(uri):
        path = Path(resolve(uri))
        try:
            is_special = path.exists() and not path.is_file()
        except OSError as error:
            raise InvalidInputError(f"{uri}: cannot be read ({error.strerror})") from error
        if is_special:
            raise InvalidInputError(f"{uri}: is not a file; {EXPECTED}")
        yield path
        return
    with ExitStack() as stack:
        try:
            # A file without a name leaves nothing behind when this process is killed. Until then its path is in /proc.
            copy = stack.enter_context(tempfile.TemporaryFile())
        except OSError as error:
            raise StepFailedError(
                f"{uri}: cannot be kept in {tempfile.gettempdir()}: {error.strerror}; each remote file takes one open "
                "file (ulimit -n)"
            ) from error
        download(uri, copy, parameters)
        yield Path(f"/proc/self/fd/{copy.fileno()}")
