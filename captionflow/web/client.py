"""Requests to the web, for images as for sources: to public addresses unless opened, in bounded time."""

import http.client
import io
import math
import ssl
import time
from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Any
from urllib.parse import urljoin, urlsplit

import urllib3
from urllib3.exceptions import LocationParseError
from urllib3.util import Timeout, Url, parse_url

from captionflow.web.access import WEB_SCHEMES, Access, NotPublicError, PublicOnly

MAX_REDIRECTS = 5
_BUFFER = 1 << 16
_LONGEST_NAME = 253


class _TimedReader(io.RawIOBase):
    """Reads a socket; its timeout bounds all reads together, and `idle_timeout` each of them."""

    def __init__(self, raw: Any, sock: Any, idle_timeout: float) -> None:
        super().__init__()
        self._raw, self._sock, self._idle_timeout = raw, sock, idle_timeout
        self._deadline = time.monotonic() + sock.gettimeout()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> Any:
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError("the answer came too slowly")
        self._sock.settimeout(min(remaining, self._idle_timeout))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _TimedResponse(http.client.HTTPResponse):
    def __init__(self, sock: Any, *args: Any, idle_timeout: float, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp: Any = io.BufferedReader(_TimedReader(self.fp.detach(), sock, idle_timeout), _BUFFER)


class Web:
    """Makes requests, keeping connections alive; safe to share between threads.

    Args:
        access: what is open beside public addresses.
        headers: those of every request.
        connections: how many are kept open for a host.
        idle_timeout: seconds without a byte after which a response fails.
    """

    def __init__(
        self, access: Access, headers: Mapping[str, str], *, connections: int = 1, idle_timeout: float = math.inf
    ) -> None:
        self._access, self._headers, self._connections, self._idle_timeout = access, headers, connections, idle_timeout
        self._tls = ssl.create_default_context()
        self._pool = lru_cache(maxsize=256)(self._new_pool)

    def get(self, target: Url, deadline: float, connect_timeout: float = math.inf) -> urllib3.BaseHTTPResponse:
        """Make one request, and return the response with its body unread; redirects are not followed.

        Args:
            deadline: when the whole response must have been read, as `time.monotonic` tells it.
            connect_timeout: seconds to reach the host.

        Raises:
            NotPublicError: it would lead to an address that is neither public nor open.
            urllib3.exceptions.HTTPError, http.client.HTTPException, ValueError: it failed.
        """
        seconds = max(0.001, deadline - time.monotonic())
        timeout = Timeout(connect=min(connect_timeout, seconds), read=seconds, total=seconds)
        # Checked as urllib3 parsed it, since urllib3 connects: other parsers see another host in http://one\@other/.
        pool = self._pool(target.scheme, target.host, target.port, self._access.is_open(target.url))
        return pool.urlopen(
            "GET", target.request_uri, redirect=False, retries=False, preload_content=False, timeout=timeout
        )

    def _new_pool(self, scheme: str, host: str, port: int | None, is_open: bool) -> urllib3.HTTPConnectionPool:
        options: dict[str, Any] = {"maxsize": self._connections, "headers": self._headers}
        pool: urllib3.HTTPConnectionPool
        if scheme == "https":
            pool = urllib3.HTTPSConnectionPool(host, port, ssl_context=self._tls, **options)
        else:
            pool = urllib3.HTTPConnectionPool(host, port, **options)
        base = pool.ConnectionCls
        response = staticmethod(partial(_TimedResponse, idle_timeout=self._idle_timeout))
        pool.ConnectionCls = type(
            base.__name__, (base,) if is_open else (PublicOnly, base), {"response_class": response}
        )
        return pool


def parse(url: str) -> Url:
    """Return the parts of an http(s) URL.

    Raises:
        ValueError, LocationParseError: no request can be made to it.
    """
    target = parse_url(url)
    # In an IPv6 address a % precedes the name of a network interface of this machine.
    if not target.host or target.port == 0 or len(target.host) > _LONGEST_NAME or "%" in target.host.partition("[")[2]:
        raise LocationParseError(url)
    return target


def redirect_target(url: str, location: str) -> str:
    """Return the URL that a redirect from `url` leads to.

    Raises:
        NotPublicError: it is not http or https.
        ValueError: it is no URL.
    """
    url = urljoin(url, location)
    if urlsplit(url).scheme not in WEB_SCHEMES:
        raise NotPublicError("redirected away from http(s)")
    return url
