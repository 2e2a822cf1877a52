"""Fetch an image by its URL: politely, within bounds of time and size, and only where access is open."""

import email.utils
import http.client
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import HTTPError, LocationParseError, NewConnectionError
from urllib3.exceptions import TimeoutError as HTTPTimeoutError
from urllib3.util import Timeout, Url

from captionflow.core.errors import InvalidInputError
from captionflow.core.uris import file_system, is_local
from captionflow.images.attempts import Attempts, FetchError
from captionflow.images.hosts import HostDownError, Hosts
from captionflow.images.memory import MemoryBudget
from captionflow.images.parameters import ImageParameters
from captionflow.web.access import WEB_SCHEMES, Access, NotPublicError, real_path
from captionflow.web.client import MAX_REDIRECTS, Web, parse, redirected

_RETRY_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
_MEGABYTE = 1_000_000
_PACKED = ("gzip", "x-gzip", "deflate")
# What is larger than this waits for a share of the room, so that memory stays bounded.
_LARGE = 2 * _MEGABYTE
_ROOM = 200 * _MEGABYTE
_LONGEST_RETRY_AFTER = 30.0  # seconds


class Fetcher:
    """Fetches images, keeping connections alive; safe to share between threads."""

    def __init__(self, parameters: ImageParameters) -> None:
        self._parameters = parameters
        self._access = Access.of(parameters)
        self._hosts = Hosts(parameters.host_concurrency, parameters.host_rate, parameters.host_failures)
        self._max_bytes = parameters.max_image_megabytes * _MEGABYTE
        self._room = MemoryBudget(_ROOM)
        headers = {"User-Agent": parameters.user_agent, "Accept": "image/*", "Accept-Encoding": "identity"}
        self._web = Web(self._access, headers, connections=parameters.host_concurrency)

    @contextmanager
    def fetch(self, attempts: Attempts) -> Iterator[bytes]:
        """Make the next attempt at an image, and give its bytes to the block.

        Raises:
            RetryLater: they may be had later; call again then.
            FetchError: they cannot or may not be had.
        """
        with ExitStack() as held:
            attempts.begin(self._parameters)
            try:
                data = self._attempt(attempts, held)
            except HostDownError as error:
                # It will rest for longer than another attempt could wait.
                raise FetchError("host_down", str(error), retryable=True) from error
            except FetchError as error:
                if later := attempts.retry_later(error, self._parameters.fetch_retries):
                    raise later from error
                raise
            yield data

    def _attempt(self, attempts: Attempts, held: ExitStack) -> bytes:
        try:
            if urlsplit(attempts.url).scheme in WEB_SCHEMES:
                return self._follow(attempts, held)
            return self._bounded(self._read_file(attempts.url, held))
        except (FetchError, HostDownError, MemoryError):
            raise
        except NotPublicError as error:
            raise FetchError("url_not_allowed", str(error)) from error
        except (ValueError, LocationParseError, InvalidInputError) as error:
            raise FetchError("invalid_url", str(error)) from error
        except Exception as error:  # Each object store's client has errors of its own.
            raise _unreadable(error) from error

    def _read_file(self, url: str, held: ExitStack) -> bytes:
        if not self._access.is_open(url):
            scheme = urlsplit(url).scheme or "local"
            raise FetchError("url_not_allowed", f"{scheme} URL outside --allow-url-prefix")
        fs, path = file_system(real_path(url) if is_local(url) else url)
        try:
            # What is no file, a pipe for one, may keep its reader waiting for ever.
            if is_local(url) and not Path(path).is_file():
                raise FileNotFoundError
            with fs.open(path, "rb") as file:
                return self._read_up(file.read, getattr(file, "size", None), held)
        except FileNotFoundError as error:
            raise FetchError("not_found", "no such file") from error
        except ValueError as error:  # An odd answer is no fault of the URL.
            raise _unreadable(error) from error

    def _follow(self, attempts: Attempts, held: ExitStack) -> bytes:
        """Fetch over HTTP, through redirects."""
        url = attempts.url
        for _ in range(MAX_REDIRECTS + 1):
            body, location = self._visit(url, attempts, held)
            if location is None:
                return body
            url = redirected(url, location)
        raise FetchError("too_many_redirects", f"more than {MAX_REDIRECTS}")

    def _visit(self, url: str, attempts: Attempts, held: ExitStack) -> tuple[bytes, str | None]:
        """Make one request; returns the body, or where to go instead."""
        target = parse(url)
        host = target.netloc or ""
        came = time.monotonic()
        with self._hosts.visit(host):
            # Having to wait for its turn is no fault of the image, nor of the host.
            attempts.put_off(time.monotonic() - came)
            try:
                result = self._exchange(target, attempts.deadline, held)
            except FetchError as error:
                self._hosts.report(host, is_well=not error.retryable)
                raise
            self._hosts.report(host, is_well=True)
            return result

    def _exchange(self, target: Url, deadline: float, held: ExitStack) -> tuple[bytes, str | None]:
        response = self._request(target, deadline)
        try:
            if location := response.get_redirect_location():
                return b"", location
            self._check(response)
            encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
            data = self._read(response, encoding, held)
            return self._bounded(self._decoded(data, encoding, held)), None
        finally:
            # What was not read to its end must not be found by the connection's next user.
            response.close()
            response.release_conn()

    def _request(self, target: Url, deadline: float) -> urllib3.BaseHTTPResponse:
        seconds = max(0.001, deadline - time.monotonic())
        timeout = Timeout(connect=min(self._parameters.fetch_connect_timeout, seconds), read=seconds, total=seconds)
        try:
            return self._web.get(target, timeout)
        except (NotPublicError, LocationParseError):
            raise
        except HTTPTimeoutError as error:
            is_refused = isinstance(error, NewConnectionError)
            raise FetchError("connection_failed" if is_refused else "timeout", str(error), retryable=True) from error
        except (HTTPError, http.client.HTTPException) as error:
            raise FetchError("connection_failed", str(error), retryable=True) from error

    def _check(self, response: urllib3.BaseHTTPResponse) -> None:
        if response.status != HTTPStatus.OK:
            retryable = response.status in _RETRY_STATUSES
            wait = _retry_after(response.headers.get("Retry-After", "")) if retryable else None
            raise FetchError(f"http_{response.status}", response.reason or "", retryable=retryable, retry_after=wait)
        if self._parameters.x_robots_tag == "respect" and _forbids_learning(response.headers.get("X-Robots-Tag", "")):
            raise FetchError("robots_tag", "X-Robots-Tag asks not to use the image for machine learning")

    def _read(self, response: urllib3.BaseHTTPResponse, encoding: str, held: ExitStack) -> bytes:
        length = None if encoding in _PACKED else response.length_remaining
        try:
            return self._read_up(partial(response.read, decode_content=False), length, held)
        except HTTPTimeoutError as error:
            raise FetchError("timeout", "the body came too slowly", retryable=True) from error
        except (HTTPError, ValueError) as error:  # a chunk's size may be negative
            raise FetchError("body_broke_off", str(error), retryable=True) from error

    def _read_up(self, read: Callable[[int], bytes], length: int | None, held: ExitStack) -> bytes:
        """Read to the end or the first byte too many, what is large only once there is room; `length` if known."""
        limit = self._max_bytes + 1
        data = _read_until(read, min(_LARGE, limit))
        if len(data) == _LARGE:
            held.enter_context(self._room.take(min(length or limit, limit)))
            data += _read_until(read, limit - _LARGE)
        return data

    def _decoded(self, data: bytes, encoding: str, held: ExitStack) -> bytes:
        """Undo a Content-Encoding that nobody asked for, no further than to the first byte too many."""
        if encoding in ("", "identity"):
            return data
        if encoding not in _PACKED:
            raise FetchError("unknown_encoding", f"Content-Encoding: {encoding}")
        # 32 tells gzip and zlib apart by their headers.
        decoder = zlib.decompressobj(zlib.MAX_WBITS | 32)
        limit = self._max_bytes + 1
        try:
            unpacked = decoder.decompress(data, min(_LARGE, limit))
            if len(unpacked) == _LARGE:
                if len(data) < _LARGE:
                    held.enter_context(self._room.take(self._max_bytes))
                unpacked += decoder.decompress(decoder.unconsumed_tail, limit - _LARGE)
        except zlib.error as error:
            raise FetchError("corrupt_encoding", str(error)) from error
        if not decoder.eof and len(unpacked) < limit:
            raise FetchError("corrupt_encoding", "it breaks off")
        return unpacked

    def _bounded(self, data: bytes) -> bytes:
        if len(data) > self._max_bytes:
            raise FetchError("too_large", f"more than {self._max_bytes} bytes")
        if not data:
            raise FetchError("empty", "no bytes")
        return data


def _unreadable(error: Exception) -> FetchError:
    return FetchError("unreadable", f"{type(error).__name__}: {error}", retryable=True)


def _read_until(read: Callable[[int], bytes], size: int) -> bytes:
    """Read until there is so much or no more; a body that broke off says so only when asked for more."""
    parts = []
    while size and (part := read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _retry_after(header: str) -> float | None:
    """Seconds to wait, as the server asks (RFC 9110, section 10.2.3), but no longer than we are willing to."""
    if header.strip().isdecimal():
        return min(_LONGEST_RETRY_AFTER, float(header))
    try:
        at = email.utils.parsedate_to_datetime(header).timestamp()
    except (ValueError, OverflowError):
        return None
    return min(_LONGEST_RETRY_AFTER, max(0.0, at - time.time()))


def _forbids_learning(robots_tag: str) -> bool:
    # "noai, noindex" or "somebot: noimageai"
    words = {word.strip().lower() for part in robots_tag.split(",") for word in part.split(":")}
    return not words.isdisjoint({"noai", "noimageai"})
