"""Turn image URLs into stored pictures, many at a time."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from queue import PriorityQueue

from captionflow.images.attempts import Attempts, FetchError, TransientError
from captionflow.images.decode import ImageError, StoredImage
from captionflow.images.fetch import Fetcher
from captionflow.images.sandbox import Sandbox
from captionflow.preprocess.parameters import PreprocessParameters
from captionflow.preprocess.reuse import Earlier, EarlierPictures


@dataclass(frozen=True, slots=True)
class Download:
    """The outcome of one image: the picture or the error, and the bytes that were fetched for it."""

    picture: StoredImage | None = None
    error: FetchError | ImageError | None = None
    fetched_bytes: int = 0
    is_reused: bool = False


class Downloader:
    """Threads that fetch images and share one sandbox. An image that waits for its next attempt occupies no thread.

    Args:
        earlier: URI of an earlier preprocessed artifact whose pictures are taken instead of fetched.
    """

    def __init__(self, parameters: PreprocessParameters, earlier: str | None = None) -> None:
        self._sandbox = Sandbox(parameters)
        self._is_hashed = parameters.duplicates == "near"
        self._fetcher = Fetcher(parameters)
        self._earlier = EarlierPictures(earlier) if earlier else None
        # Retries come first: images of the same shard wait for them, and their deadline is near.
        self._attempts: PriorityQueue[tuple[bool, int, Callable[[], None]]] = PriorityQueue()
        self._numbers = count()
        self._timer = asyncio.new_event_loop()
        for run in (self._timer.run_forever, *[self._work] * parameters.fetch_concurrency):
            threading.Thread(target=run, daemon=True).start()

    def submit(self, url: str, earlier: Earlier | None) -> "Future[Download]":
        """Queue an image; the future holds its outcome."""
        future: Future[Download] = Future()
        self._queue(True, partial(self._attempt, future, Attempts(url), earlier))
        return future

    def _queue(self, is_first: bool, attempt: Callable[[], None]) -> None:
        self._attempts.put((is_first, next(self._numbers), attempt))

    def _work(self) -> None:
        while True:
            _, _, attempt = self._attempts.get()
            attempt()

    def _attempt(self, future: "Future[Download]", attempts: Attempts, earlier: Earlier | None) -> None:
        try:
            future.set_result(self._download(attempts, earlier))
        except TransientError as error:
            again = partial(self._attempt, future, attempts, earlier)
            self._timer.call_soon_threadsafe(self._timer.call_later, error.backoff, self._queue, False, again)
        except BaseException as error:  # The future's owner would wait for ever.
            future.set_exception(error)

    def _download(self, attempts: Attempts, earlier: Earlier | None) -> Download:
        if self._earlier and earlier:
            if earlier.reason:
                return Download(error=FetchError(earlier.reason, earlier.detail))
            if picture := self._reused(self._earlier, earlier):
                return Download(picture, is_reused=True)
        fetched = 0
        try:
            with self._fetcher.fetch(attempts) as data:
                fetched = len(data)
                return Download(self._sandbox.process(data), fetched_bytes=fetched)
        except (FetchError, ImageError) as error:
            # The error waits for the shard's earlier images; with its traceback it would keep this image's bytes.
            error.__cause__ = error.__context__ = None
            return Download(error=error.with_traceback(None), fetched_bytes=fetched)

    def _reused(self, pictures: EarlierPictures, earlier: Earlier) -> StoredImage | None:
        """Return the picture of an earlier artifact, its hash only if that is wanted; None if it cannot be read."""
        picture = pictures.read(earlier)
        if picture is None or bool(picture.perceptual_hash) == self._is_hashed:
            return picture
        try:
            return self._sandbox.hash(picture) if self._is_hashed else replace(picture, perceptual_hash=b"")
        except ImageError:
            return None
