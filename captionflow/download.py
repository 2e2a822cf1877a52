"""Turn image URLs into stored pictures, many at a time."""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from captionflow.fetch import Fetcher, FetchError
from captionflow.images import ImageError, StoredImage
from captionflow.parameters import PreprocessParameters
from captionflow.reuse import Earlier, EarlierPictures
from captionflow.sandbox import Sandbox


@dataclass(frozen=True, slots=True)
class Download:
    """What came of one image: the picture or why there is none, and the bytes that were fetched for it."""

    picture: StoredImage | None = None
    error: FetchError | ImageError | None = None
    fetched_bytes: int = 0
    is_reused: bool = False


class Downloader:
    """Threads that fetch, each handing its picture to one of the decoding processes.

    Args:
        earlier: URI of an earlier preprocessed artifact whose pictures are taken instead of fetched.
    """

    def __init__(self, parameters: PreprocessParameters, earlier: str | None = None) -> None:
        self._fetcher, self._sandbox = Fetcher(parameters), Sandbox(parameters)
        self._earlier = EarlierPictures(earlier) if earlier else None
        self._threads = ThreadPoolExecutor(parameters.fetch_concurrency, "fetch")

    def submit(self, url: str, earlier: Earlier | None = None) -> "Future[Download]":
        """Begin with an image, and return what will tell how it went."""
        return self._threads.submit(self._download, url, earlier)

    def close(self) -> None:
        """Finish what was begun and end all threads and processes."""
        self._threads.shutdown()
        self._sandbox.close()

    def _download(self, url: str, earlier: Earlier | None) -> Download:
        if self._earlier and earlier:
            if earlier.reason:
                return Download(error=FetchError(earlier.reason, earlier.detail), is_reused=True)
            if picture := self._earlier.read(earlier):
                return Download(picture, is_reused=True)
        fetched = 0
        try:
            with self._fetcher.fetch(url) as data:
                fetched = len(data)
                return Download(self._sandbox.process(data), fetched_bytes=fetched)
        except (FetchError, ImageError) as error:
            return Download(error=error, fetched_bytes=fetched)
