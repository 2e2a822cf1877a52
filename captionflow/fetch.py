"""Fetch an image by its URL, without letting a URL reach what its author could not.

http and https go to public addresses only, checked on the address actually connected to. Local
files, object stores and hosts inside the network are open only under the prefixes given.
"""

import os
import posixpath
import time
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import IPv6Address, ip_address
from typing import Any
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, LocationParseError, MaxRetryError, NewConnectionError
from urllib3.exceptions import TimeoutError as HTTPTimeoutError

from captionflow.artifacts import file_system, is_local, local_path
from captionflow.errors import InvalidInputError
from captionflow.parameters import PreprocessParameters

USER_AGENT = "CaptionFlow (image dataset preprocessing)"
_RETRY_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
_MAX_REDIRECTS = 5
_CHUNK = 1 << 16
_MEGABYTE = 1_000_000


class FetchError(Exception):
    """An image could not be fetched. `reason` is a short name; `retryable` says if later may help."""

    def __init__(self, reason: str, detail: str, *, retryable: bool = False) -> None:
        super().__init__(detail)
        self.reason, self.retryable = reason, retryable


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
        same_place = (allowed.scheme, allowed.netloc.lower()) == (wanted.scheme, wanted.netloc.lower())
        return same_place and _is_under(posixpath.normpath(unquote(wanted.path)), posixpath.normpath(allowed.path))


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
            headers={"User-Agent": USER_AGENT, "Accept": "image/*", "Accept-Encoding": "identity"},
            timeout=urllib3.Timeout(connect=min(10.0, p.fetch_timeout), read=p.fetch_timeout),
            retries=urllib3.Retry(
                total=p.fetch_retries,
                redirect=0,
                status_forcelist=_RETRY_STATUSES,
                backoff_factor=0.5,
                backoff_jitter=0.5,
                backoff_max=10,
                retry_after_max=30,
                raise_on_status=False,
            ),
        )

    def fetch(self, url: str) -> bytes:
        """Return the bytes behind `url`.

        Raises:
            FetchError: they cannot or may not be had.
        """
        allowed = any(prefix.covers(url) for prefix in self._prefixes)
        try:
            parts = urlsplit(url)
            if parts.scheme in ("http", "https"):
                return self._fetch_http(url, allowed)
            return self._fetch_file(url, parts, allowed)
        except ValueError as error:
            raise FetchError("invalid_url", str(error)) from error

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
        for _ in range(_MAX_REDIRECTS + 1):
            response = self._request(url, self._open_pools if allowed else self._public_pools)
            try:
                location = response.get_redirect_location()
                if not location:
                    return self._body(response)
            finally:
                response.release_conn()
            url = urljoin(url, location)
            if urlsplit(url).scheme not in ("http", "https"):
                raise FetchError("url_not_allowed", "redirected away from http(s)")
            allowed = any(prefix.covers(url) for prefix in self._prefixes)
        raise FetchError("too_many_redirects", f"more than {_MAX_REDIRECTS}")

    def _request(self, url: str, pools: urllib3.PoolManager) -> urllib3.BaseHTTPResponse:
        try:
            return pools.request("GET", url, redirect=False, preload_content=False)
        except LocationParseError as error:
            raise FetchError("invalid_url", str(error)) from error
        except HTTPError as error:
            cause = error.reason if isinstance(error, MaxRetryError) else error
            if isinstance(cause, _NotPublicError):
                raise FetchError("url_not_allowed", str(cause)) from error
            if isinstance(cause, HTTPTimeoutError) and not isinstance(cause, NewConnectionError):
                raise FetchError("timeout", str(cause), retryable=True) from error
            raise FetchError("connection_failed", str(cause), retryable=True) from error

    def _body(self, response: urllib3.BaseHTTPResponse) -> bytes:
        if response.status != HTTPStatus.OK:
            retryable = response.status in _RETRY_STATUSES
            raise FetchError(f"http_{response.status}", response.reason or "", retryable=retryable)
        deadline = time.monotonic() + self._parameters.fetch_timeout
        data = bytearray()
        try:
            for chunk in response.stream(_CHUNK, decode_content=True):
                data += chunk
                if len(data) > self._max_bytes:
                    break
                if time.monotonic() > deadline:
                    raise FetchError("timeout", "the body came too slowly", retryable=True)
        except HTTPError as error:
            response.close()
            raise FetchError("body_broke_off", str(error), retryable=True) from error
        return self._bounded(bytes(data))

    def _bounded(self, data: bytes) -> bytes:
        if len(data) > self._max_bytes:
            raise FetchError("too_large", f"more than {self._max_bytes} bytes")
        if not data:
            raise FetchError("empty", "no bytes")
        return data
