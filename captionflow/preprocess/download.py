"""Turn image URLs into stored pictures, many at a time."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from itertools import count
from queue import PriorityQueue

from captionflow.images.attempts import Attempts, FetchError, RetryLater
from captionflow.images.decode import ImageError, StoredImage
from captionflow.images.fetch import Fetcher
from captionflow.images.sandbox import Sandbox
from captionflow.preprocess.parameters import PreprocessParameters
from captionflow.preprocess.reuse import Earlier, EarlierPictures


@dataclass(frozen=True, slots=True)
class Download:
    """What came of one image: the picture or why there is none, and the bytes that were fetched for it."""

    picture: StoredImage | None = None
    error: FetchError | ImageError | None = None
    fetched_bytes: int = 0
    is_reused: bool = False


class Downloader:
    """Threads that fetch and take turns at a sandbox; an image that waits for its next attempt holds none.

    Args:
        earlier: URI of an earlier preprocessed artifact whose pictures are taken instead of fetched.
    """

    def __init__(self, parameters: PreprocessParameters, earlier: str | None = None) -> None:
        self._sandbox = Sandbox(parameters)
        self._fetcher = Fetcher(parameters)
        self._earlier = EarlierPictures(earlier) if earlier else None
        # Retries first: images of the same shard wait for them, and their time is running.
        self._attempts: PriorityQueue[tuple[bool, int, Callable[[], None]]] = PriorityQueue()
        self._numbers = count()
        self._clock = asyncio.new_event_loop()
        for run in (self._clock.run_forever, *[self._work] * parameters.fetch_concurrency):
            threading.Thread(target=run, daemon=True).start()

    def submit(self, url: str, earlier: Earlier | None) -> "Future[Download]":
        """Begin with an image, and return what will tell how it went."""
        done: Future[Download] = Future()
        attempt = partial(self._try, done, Attempts(url), earlier)
        self._attempts.put((True, next(self._numbers), attempt))
        return done

    def _work(self) -> None:
        while True:
            _, _, attempt = self._attempts.get()
            attempt()

    def _try(self, done: "Future[Download]", attempts: Attempts, earlier: Earlier | None) -> None:
        try:
            done.set_result(self._download(attempts, earlier))
        except RetryLater as later:
            again = partial(self._try, done, attempts, earlier)
            put = partial(self._attempts.put, (False, next(self._numbers), again))
            self._clock.call_soon_threadsafe(self._clock.call_later, later.seconds, put)
        except BaseException as error:
            done.set_exception(error)

    def _download(self, attempts: Attempts, earlier: Earlier | None) -> Download:
        if self._earlier and earlier:
            if earlier.reason:
                return Download(error=FetchError(earlier.reason, earlier.detail))
            if picture := self._earlier.read(earlier):
                return Download(picture, is_reused=True)
        fetched = 0
        try:
            with self._fetcher.fetch(attempts) as data:
                fetched = len(data)
                return Download(self._sandbox.process(data), fetched_bytes=fetched)
        except (FetchError, ImageError) as error:
            # It may have to wait for its turn in the shard; its traceback would hold the image's bytes until then.
            error.__cause__ = error.__context__ = None
            return Download(error=error.with_traceback(None), fetched_bytes=fetched)
