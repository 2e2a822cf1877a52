"""Fetch an image by its URL, without letting a URL reach what its author could not.

http and https go to public addresses only, checked on the address actually connected to. Local
files, object stores and hosts inside the network are open only under the prefixes given.
"""

import email.utils
import os
import posixpath
import random
import time
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import IPv6Address, ip_address
from typing import Any
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, LocationParseError, NewConnectionError
from urllib3.exceptions import TimeoutError as HTTPTimeoutError

from captionflow.artifacts import file_system, is_local, local_path
from captionflow.errors import InvalidInputError
from captionflow.parameters import PreprocessParameters

_RETRY_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
_MAX_REDIRECTS = 5
_CHUNK = 1 << 16
_MEGABYTE = 1_000_000
# Seconds.
_CONNECT_TIMEOUT = 10.0
_FIRST_BACKOFF, _LONGEST_BACKOFF = 0.5, 10.0
_LONGEST_RETRY_AFTER = 30.0


class FetchError(Exception):
    """An image could not be fetched. `reason` is a short name.

    `retryable` says if a later attempt may help, `retry_after` how many seconds the server asked to wait.
    """

    def __init__(self, reason: str, detail: str, *, retryable: bool = False, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.reason, self.retryable, self.retry_after = reason, retryable, retry_after


class _NotPublicError(HTTPError):
    """The host resolved to an address that is not on the public internet."""


class _PublicOnly:
    """Mixed into a connection class: gives up unless the peer's address is public."""

    def _new_conn(self) -> Any:
        sock = super()._new_conn()  # type: ignore[misc]
        address = ip_address(sock.getpeername()[0].partition("%")[0])
        mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        if not (mapped or address).is_global or address.is_multicast:
            sock.close()
            raise _NotPublicError(f"{address} is not a public address")
        return sock


class _PublicHTTPConnection(_PublicOnly, HTTPConnection):
    pass


class _PublicHTTPSConnection(_PublicOnly, HTTPSConnection):
    pass


class _PublicHTTPPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _PublicHTTPConnection


class _PublicHTTPSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _PublicHTTPSConnection


@dataclass(frozen=True)
class Prefix:
    """A part of the URL space that the user opened."""

    url: str

    def covers(self, url: str) -> bool:
        """Whether `url` is at or below the prefix: same scheme, host and port, whole path segments."""
        if is_local(self.url):
            return is_local(url) and _is_under(_real_path(url), _real_path(self.url))
        allowed, wanted = urlsplit(self.url), urlsplit(url)
        return _place(allowed) == _place(wanted) and _is_under(_clean_path(wanted), _clean_path(allowed))


def _place(url: SplitResult) -> tuple[str, str, str]:
    """Scheme, user and host with its port, the default port left out."""
    default = {"http": ":80", "https": ":443"}.get(url.scheme, ":")
    return url.scheme, *url.netloc.lower().removesuffix(default).rpartition("@")[::2]


def _clean_path(url: SplitResult) -> str:
    return posixpath.normpath(unquote(url.path))


def _real_path(url: str) -> str:
    return os.path.realpath(local_path(url))


def _is_under(path: str, folder: str) -> bool:
    return folder in ("", ".", "/") or path == folder or path.startswith(folder.rstrip("/") + "/")


class Fetcher:
    """Fetches images through one pool of connections; safe to share between threads."""

    def __init__(self, parameters: PreprocessParameters) -> None:
        self._parameters = parameters
        self._prefixes = [Prefix(url) for url in parameters.allow_url_prefix]
        self._max_bytes = parameters.max_image_megabytes * _MEGABYTE
        self._open_pools = self._pools()
        self._public_pools = self._pools()
        self._public_pools.pool_classes_by_scheme = {"http": _PublicHTTPPool, "https": _PublicHTTPSPool}

    def _pools(self) -> urllib3.PoolManager:
        p = self._parameters
        return urllib3.PoolManager(
            num_pools=64,
            maxsize=p.fetch_concurrency,
            headers={"User-Agent": p.user_agent, "Accept": "image/*", "Accept-Encoding": "identity"},
            timeout=urllib3.Timeout(connect=min(_CONNECT_TIMEOUT, p.fetch_timeout), read=p.fetch_timeout),
            retries=False,
        )

    def fetch(self, url: str) -> bytes:
        """Return the bytes behind `url`; a passing failure is tried again, with full jitter between.

        Raises:
            FetchError: they cannot or may not be had.
        """
        for attempt in range(self._parameters.fetch_retries):
            try:
                return self._attempt(url)
            except FetchError as error:
                if not error.retryable:
                    raise
                longest = min(_LONGEST_BACKOFF, _FIRST_BACKOFF * 2**attempt)
                time.sleep(random.uniform(0, longest) if error.retry_after is None else error.retry_after)
        return self._attempt(url)

    def _attempt(self, url: str) -> bytes:
        allowed = self._is_allowed(url)
        try:
            parts = urlsplit(url)
            if parts.scheme in ("http", "https"):
                return self._fetch_http(url, allowed)
            return self._fetch_file(url, parts, allowed)
        except ValueError as error:
            raise FetchError("invalid_url", str(error)) from error

    def _is_allowed(self, url: str) -> bool:
        return any(prefix.covers(url) for prefix in self._prefixes)

    def _fetch_file(self, url: str, parts: SplitResult, allowed: bool) -> bytes:
        if not allowed:
            raise FetchError("url_not_allowed", f"{parts.scheme or 'local'} URL outside --allow-url-prefix")
        try:
            fs, path = file_system(_real_path(url) if is_local(url) else url)
            with fs.open(path, "rb") as file:
                data: bytes = file.read(self._max_bytes + 1)
        except FileNotFoundError as error:
            raise FetchError("not_found", "no such file") from error
        except InvalidInputError as error:
            raise FetchError("invalid_url", str(error)) from error
        except OSError as error:
            raise FetchError("unreadable", str(error), retryable=True) from error
        return self._bounded(data)

    def _fetch_http(self, url: str, allowed: bool) -> bytes:
        deadline = time.monotonic() + self._parameters.fetch_timeout
        for _ in range(_MAX_REDIRECTS + 1):
            response = self._request(url, self._open_pools if allowed else self._public_pools)
            try:
                location = response.get_redirect_location()
                if not location:
                    return self._body(response, deadline)
            finally:
                # What was not read to its end must not be found by the connection's next user.
                response.close()
                response.release_conn()
            url = urljoin(url, location)
            if urlsplit(url).scheme not in ("http", "https"):
                raise FetchError("url_not_allowed", "redirected away from http(s)")
            allowed = self._is_allowed(url)
        raise FetchError("too_many_redirects", f"more than {_MAX_REDIRECTS}")

    def _request(self, url: str, pools: urllib3.PoolManager) -> urllib3.BaseHTTPResponse:
        try:
            return pools.request("GET", url, redirect=False, preload_content=False)
        except LocationParseError as error:
            raise FetchError("invalid_url", str(error)) from error
        except _NotPublicError as error:
            raise FetchError("url_not_allowed", str(error)) from error
        except HTTPTimeoutError as error:
            is_refused = isinstance(error, NewConnectionError)
            raise FetchError("connection_failed" if is_refused else "timeout", str(error), retryable=True) from error
        except HTTPError as error:
            raise FetchError("connection_failed", str(error), retryable=True) from error

    def _body(self, response: urllib3.BaseHTTPResponse, deadline: float) -> bytes:
        if response.status != HTTPStatus.OK:
            retryable = response.status in _RETRY_STATUSES
            wait = _retry_after(response.headers.get("Retry-After", "")) if retryable else None
            raise FetchError(f"http_{response.status}", response.reason or "", retryable=retryable, retry_after=wait)
        if self._parameters.x_robots_tag == "respect" and _forbids_learning(response.headers.get("X-Robots-Tag", "")):
            raise FetchError("robots_tag", "X-Robots-Tag asks not to use the image for machine learning")
        data = bytearray()
        try:
            # read1 returns what there is: a body that trickles in cannot outlast the deadline.
            while chunk := response.read1(_CHUNK, decode_content=True):
                data += chunk
                if len(data) > self._max_bytes:
                    break
                if time.monotonic() > deadline:
                    raise FetchError("timeout", "the body came too slowly", retryable=True)
        except HTTPError as error:
            raise FetchError("body_broke_off", str(error), retryable=True) from error
        return self._bounded(bytes(data))

    def _bounded(self, data: bytes) -> bytes:
        if len(data) > self._max_bytes:
            raise FetchError("too_large", f"more than {self._max_bytes} bytes")
        if not data:
            raise FetchError("empty", "no bytes")
        return data


def _retry_after(header: str) -> float | None:
    """Seconds to wait, as the server asks (RFC 9110, section 10.2.3), but no longer than we are willing to."""
    if header.strip().isdecimal():
        return min(_LONGEST_RETRY_AFTER, float(header))
    if at := email.utils.parsedate_tz(header):
        return min(_LONGEST_RETRY_AFTER, max(0.0, email.utils.mktime_tz(at) - time.time()))
    return None


def _forbids_learning(robots_tag: str) -> bool:
    # "noai, noindex" or "somebot: noimageai"
    words = {word.strip().lower() for part in robots_tag.split(",") for word in part.split(":")}
    return not words.isdisjoint({"noai", "noimageai"})
