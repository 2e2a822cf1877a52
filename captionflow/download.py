"""Turn image URLs into stored pictures, many at a time."""

import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from captionflow.fetch import Fetcher, FetchError
from captionflow.images import ImageError, StoredImage, process
from captionflow.parameters import PreprocessParameters
from captionflow.reuse import Earlier, EarlierPictures
from captionflow.sandbox import Sandbox, cpu_limit


@dataclass(frozen=True, slots=True)
class Download:
    """What came of one image: the picture or why there is none, and the bytes that were fetched for it."""

    picture: StoredImage | None = None
    error: FetchError | ImageError | None = None
    fetched_bytes: int = 0
    is_reused: bool = False


class Downloader:
    """Threads that fetch and take turns at decoding.

    Args:
        earlier: URI of an earlier preprocessed artifact whose pictures are taken instead of fetched.
    """

    def __init__(self, parameters: PreprocessParameters, earlier: str | None = None) -> None:
        self._parameters = parameters
        self._fetcher = Fetcher(parameters)
        self._earlier = EarlierPictures(earlier) if earlier else None
        self._threads = ThreadPoolExecutor(parameters.fetch_concurrency, "fetch")
        self._turn = threading.Lock()
        self._sandbox: Sandbox | None = None

    def submit(self, url: str, earlier: Earlier | None, *, is_careful: bool) -> "Future[Download]":
        """Begin with an image, and return what will tell how it went.

        Args:
            is_careful: decode in a sandbox. Otherwise a picture whose decoding crashes, hangs or takes
                too much memory ends this process.
        """
        return self._threads.submit(self._download, url, earlier, is_careful)

    def _download(self, url: str, earlier: Earlier | None, is_careful: bool) -> Download:
        if self._earlier and earlier:
            if earlier.reason:
                return Download(error=FetchError(earlier.reason, earlier.detail))
            if picture := self._earlier.read(earlier):
                return Download(picture, is_reused=True)
        fetched = 0
        try:
            with self._fetcher.fetch(url) as data:
                fetched = len(data)
                return Download(self._process(data, is_careful), fetched_bytes=fetched)
        except (FetchError, ImageError) as error:
            # It may have to wait for its turn in the shard; its traceback would hold the image's bytes until then.
            error.__cause__ = error.__context__ = None
            return Download(error=error.with_traceback(None), fetched_bytes=fetched)

    def _process(self, data: bytes, is_careful: bool) -> StoredImage:
        # One at a time: there are as many processes like this one as CPUs.
        with self._turn:
            if is_careful:
                self._sandbox = self._sandbox or Sandbox(self._parameters)
                return self._sandbox.process(data)
            try:
                with cpu_limit(self._parameters.decode_seconds):
                    return process(data, self._parameters)
            except MemoryError:
                os.abort()
