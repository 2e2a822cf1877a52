"""Open a source: find its files, fetch those that are remote, and recognise their formats."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from captionflow.core.errors import InvalidInputError, StepFailedError
from captionflow.core.manifest import Parent
from captionflow.core.records import part_source
from captionflow.core.uris import is_local, resolve
from captionflow.sources.caption_file import CaptionFile, choose_member
from captionflow.sources.download import download
from captionflow.sources.expansion import files_of
from captionflow.sources.formats import EXPECTED, UNREADABLE, Format, reason_of, recognise
from captionflow.sources.parameters import IngestParameters
from captionflow.sources.rows import Rows

_HEAD_BYTES = 1 << 16


@dataclass(frozen=True)
class Source:
    """A file of a source, which is on this machine and whose format is known."""

    file: CaptionFile
    format: Format

    @property
    def uri(self) -> str:
        """The file's URI, as the user gave it or as it was found, resolved."""
        return self.file.uri

    @property
    def parent(self) -> Parent:
        """The source as a parent in a manifest: its URI and the sha256 of its bytes."""
        return Parent("source", self.uri, self.file.sha256)

    def read(self, parameters: IngestParameters, image_root: str | None) -> Rows:
        """Yield the rows in the order of the file.

        Args:
            image_root: folder URI that replaces the URLs of COCO images.

        Raises:
            InvalidInputError: the file is cut off or broken.
        """
        try:
            yield from self.format.read(self.file, parameters, image_root)
        except UNREADABLE as error:
            raise InvalidInputError(f"{self.uri}: cannot be read to its end: {reason_of(error)}") from error


@contextmanager
def open_source(given: str, parameters: IngestParameters) -> Iterator[list[Source]]:
    """Fetch the files of a source if they are remote, and recognise their formats.

    Args:
        given: its URI, or `SPLIT=URI`; see `files_of`.

    Raises:
        InvalidInputError: a file cannot be read or is in no known format; the message names those that are.
        StepFailedError: there is no room for a remote file.
    """
    split, uri = part_source(given)
    with ExitStack() as stack:
        yield [stack.enter_context(_open_file(file, split, parameters)) for file in files_of(uri)]


@contextmanager
def _open_file(uri: str, split: str | None, parameters: IngestParameters) -> Iterator[Source]:
    with _local_copy(uri, parameters) as path:
        try:
            file = CaptionFile(resolve(uri), path, choose_member(uri, path, parameters.member), split)
            with file.open() as opened:
                format_ = recognise(opened.read(_HEAD_BYTES), parameters)
        except UNREADABLE as error:
            raise InvalidInputError(f"{uri}: cannot be read ({reason_of(error)}); {EXPECTED}") from error
        if format_ is None:
            raise InvalidInputError(f"{uri}: {EXPECTED}")
        yield Source(file, format_)


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
