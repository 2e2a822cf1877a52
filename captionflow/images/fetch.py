"""Fetch an image by its URL: within limits for each host, of time and of size, and only where access is open."""

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
from urllib3.util import Url

from captionflow.core.errors import InvalidInputError
from captionflow.core.uris import file_system, is_local
from captionflow.images.attempts import Attempts, FetchError
from captionflow.images.hosts import CircuitOpenError, Hosts
from captionflow.images.memory import MemoryBudget
from captionflow.images.parameters import ROBOTS_TAGS, ImageParameters
from captionflow.images.robots import RobotsTxt
from captionflow.web.access import WEB_SCHEMES, Access, NotPublicError, real_path
from captionflow.web.client import MAX_REDIRECTS, Web, parse, redirect_target

_RETRY_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
_MEGABYTE = 1_000_000
_COMPRESSIONS = ("gzip", "x-gzip", "deflate")
# A larger image waits until enough of what all large images share is free, so that memory stays bounded.
_LARGE = 2 * _MEGABYTE
_LARGE_IMAGES_BYTES = 200 * _MEGABYTE
_LONGEST_RETRY_AFTER = 30.0  # seconds


class Fetcher:
    """Fetches images, keeping connections alive; safe to share between threads."""

    def __init__(self, parameters: ImageParameters) -> None:
        self._parameters = parameters
        self._access = Access.of(parameters)
        self._hosts = Hosts(parameters.host_concurrency, parameters.host_rate, parameters.host_failures)
        self._max_bytes = parameters.max_image_megabytes * _MEGABYTE
        self._large_images = MemoryBudget(_LARGE_IMAGES_BYTES)
        headers = {"User-Agent": parameters.user_agent, "Accept": "image/*", "Accept-Encoding": "identity"}
        self._web = Web(self._access, headers, connections=parameters.host_concurrency)
        self._robots_txt = RobotsTxt(parameters.user_agent) if parameters.robots_txt == "respect" else None

    @contextmanager
    def fetch(self, attempts: Attempts) -> Iterator[bytes]:
        """Make the next attempt at an image, and give its bytes to the block.

        Raises:
            TransientError: call again after its backoff.
            FetchError: the image cannot or may not be fetched.
        """
        with ExitStack() as resources:
            attempts.begin(self._parameters)
            try:
                data = self._attempt(attempts, resources)
            except CircuitOpenError as error:
                # The circuit stays open for longer than another attempt could wait.
                raise FetchError("host_down", str(error), retryable=True) from error
            except FetchError as error:
                if transient := attempts.transient_error(error, self._parameters.fetch_retries):
                    raise transient from error
                raise
            yield data

    def _attempt(self, attempts: Attempts, resources: ExitStack) -> bytes:
        try:
            if urlsplit(attempts.url).scheme in WEB_SCHEMES:
                return self._follow(attempts.url, attempts, resources, self._robots_txt)
            return self._checked_size(self._read_file(attempts.url, resources))
        except (FetchError, CircuitOpenError, MemoryError):
            raise
        except NotPublicError as error:
            raise FetchError("url_not_allowed", str(error)) from error
        except (ValueError, LocationParseError, InvalidInputError) as error:
            raise FetchError("invalid_url", str(error)) from error
        except Exception as error:  # Each object store's client has errors of its own.
            raise _unreadable(error) from error

    def _read_file(self, url: str, resources: ExitStack) -> bytes:
        if not self._access.is_open(url):
            scheme = urlsplit(url).scheme or "local"
            raise FetchError("url_not_allowed", f"{scheme} URL outside --allow-url-prefix")
        fs, path = file_system(real_path(url) if is_local(url) else url)
        try:
            # Opening a pipe, for one, would wait for ever.
            if is_local(url) and not Path(path).is_file():
                raise FileNotFoundError
            with fs.open(path, "rb") as file:
                return self._read_bounded(file.read, getattr(file, "size", None), resources)
        except FileNotFoundError as error:
            raise FetchError("not_found", "no such file") from error
        except ValueError as error:  # of what the store answered, not of the URL
            raise _unreadable(error) from error

    def _follow(self, url: str, attempts: Attempts, resources: ExitStack, robots_txt: RobotsTxt | None) -> bytes:
        """Fetch over HTTP, through redirects, what `robots_txt` lets this robot fetch."""
        for _ in range(MAX_REDIRECTS + 1):
            if robots_txt and not robots_txt.allows(url, partial(self._read_robots_txt, attempts)):
                raise FetchError("robots_txt", "the server's robots.txt forbids robots to fetch it")
            body, location = self._get(url, attempts, resources)
            if location is None:
                return body
            url = redirect_target(url, location)
        raise FetchError("too_many_redirects", f"more than {MAX_REDIRECTS}")

    def _read_robots_txt(self, attempts: Attempts, url: str) -> bytes:
        with ExitStack() as resources:
            try:
                return self._follow(url, attempts, resources, None)
            except FetchError as error:
                if not error.retryable:
                    return b""  # RFC 9309, section 2.3.1.3
                raise FetchError(
                    error.reason, f"robots.txt: {error}", retryable=True, retry_after=error.retry_after
                ) from error

    def _get(self, url: str, attempts: Attempts, resources: ExitStack) -> tuple[bytes, str | None]:
        """Make one request; returns the body, or where to go instead."""
        target = parse(url)
        host = target.netloc or ""
        asked_at = time.monotonic()
        with self._hosts.slot(host):
            # The time it waited for a slot is not counted.
            attempts.extend(time.monotonic() - asked_at)
            try:
                result = self._body_or_redirect(target, attempts.deadline, resources)
            except FetchError as error:
                self._hosts.record(host, succeeded=not error.retryable)
                raise
            self._hosts.record(host, succeeded=True)
            return result

    def _body_or_redirect(self, target: Url, deadline: float, resources: ExitStack) -> tuple[bytes, str | None]:
        response = self._request(target, deadline)
        try:
            if location := response.get_redirect_location():
                return b"", location
            self._check_headers(response)
            encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
            data = self._read(response, encoding, resources)
            return self._checked_size(self._decompressed(data, encoding, resources)), None
        finally:
            # The next request on the connection must not read the rest of this body.
            response.close()
            response.release_conn()

    def _request(self, target: Url, deadline: float) -> urllib3.BaseHTTPResponse:
        try:
            return self._web.get(target, deadline, self._parameters.fetch_connect_timeout)
        except (NotPublicError, LocationParseError):
            raise
        except HTTPTimeoutError as error:
            is_refused = isinstance(error, NewConnectionError)
            raise FetchError("connection_failed" if is_refused else "timeout", str(error), retryable=True) from error
        except (HTTPError, http.client.HTTPException) as error:
            raise FetchError("connection_failed", str(error), retryable=True) from error

    def _check_headers(self, response: urllib3.BaseHTTPResponse) -> None:
        if response.status != HTTPStatus.OK:
            retryable = response.status in _RETRY_STATUSES
            wait = _retry_after(response.headers.get("Retry-After", "")) if retryable else None
            raise FetchError(f"http_{response.status}", response.reason or "", retryable=retryable, retry_after=wait)
        forbidden = ROBOTS_TAGS[self._parameters.x_robots_tag] & _words(response.headers.get("X-Robots-Tag", ""))
        if forbidden:
            raise FetchError("robots_tag", f"its X-Robots-Tag says {', '.join(sorted(forbidden))}")

    def _read(self, response: urllib3.BaseHTTPResponse, encoding: str, resources: ExitStack) -> bytes:
        length = None if encoding in _COMPRESSIONS else response.length_remaining
        try:
            return self._read_bounded(partial(response.read, decode_content=False), length, resources)
        except HTTPTimeoutError as error:
            raise FetchError("timeout", "the body came too slowly", retryable=True) from error
        except (HTTPError, ValueError) as error:  # a chunk's size may be negative
            raise FetchError("body_broke_off", str(error), retryable=True) from error

    def _read_bounded(self, read: Callable[[int], bytes], length: int | None, resources: ExitStack) -> bytes:
        """Read to the end, or to the first byte over the limit; reserves memory for a large image.

        Args:
            length: the bytes to come, if known.
        """
        limit = self._max_bytes + 1
        data = _read_until(read, min(_LARGE, limit))
        if len(data) == _LARGE:
            resources.enter_context(self._large_images.reserve(min(length or limit, limit)))
            data += _read_until(read, limit - _LARGE)
        return data

    def _decompressed(self, data: bytes, encoding: str, resources: ExitStack) -> bytes:
        """Undo a Content-Encoding that was not asked for, up to the first byte over the limit."""
        if encoding in ("", "identity"):
            return data
        if encoding not in _COMPRESSIONS:
            raise FetchError("unknown_encoding", f"Content-Encoding: {encoding}")
        # 32 tells gzip and zlib apart by their headers.
        decoder = zlib.decompressobj(zlib.MAX_WBITS | 32)
        limit = self._max_bytes + 1
        try:
            decompressed = decoder.decompress(data, min(_LARGE, limit))
            if len(decompressed) == _LARGE:
                if len(data) < _LARGE:
                    resources.enter_context(self._large_images.reserve(self._max_bytes))
                decompressed += decoder.decompress(decoder.unconsumed_tail, limit - _LARGE)
        except zlib.error as error:
            raise FetchError("corrupt_encoding", str(error)) from error
        if not decoder.eof and len(decompressed) < limit:
            raise FetchError("corrupt_encoding", "it breaks off")
        return decompressed

    def _checked_size(self, data: bytes) -> bytes:
        if len(data) > self._max_bytes:
            raise FetchError("too_large", f"more than {self._max_bytes} bytes")
        if not data:
            raise FetchError("empty", "no bytes")
        return data


def _unreadable(error: Exception) -> FetchError:
    return FetchError("unreadable", f"{type(error).__name__}: {error}", retryable=True)


def _read_until(read: Callable[[int], bytes], size: int) -> bytes:
    """Read `size` bytes, or to the end; `read` may return fewer than asked for, and fails at the end of a cut body."""
    parts = []
    while size and (part := read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _retry_after(header: str) -> float | None:
    """Return the seconds that the server asks to wait (RFC 9110, section 10.2.3), within our own limit."""
    if header.strip().isdecimal():
        return min(_LONGEST_RETRY_AFTER, float(header))
    try:
        at = email.utils.parsedate_to_datetime(header).timestamp()
    except (ValueError, OverflowError):
        return None
    return min(_LONGEST_RETRY_AFTER, max(0.0, at - time.time()))


def _words(robots_tag: str) -> set[str]:
    # "noai, noindex" or "somebot: noimageai"
    return {word.strip().lower() for part in robots_tag.split(",") for word in part.split(":")}
