"""Which URLs may be fetched, so that no URL reaches what its author could not.

http and https go to public addresses only; the address that is checked is the one that is connected to. Local files,
object stores and hosts inside the network are open only where the user opened them.
"""

import os
import posixpath
import re
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from itertools import takewhile
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    LocationParseError,
    NameResolutionError,
    NewConnectionError,
)

from captionflow.core.uris import is_local, local_path
from captionflow.web.parameters import AccessParameters

WEB_SCHEMES = frozenset({"http", "https"})
# NAT64, and the obsolete IPv4-compatible addresses: the last 32 bits are an IPv4 address.
_NAT64, _IPV4_COMPATIBLE = ip_network("64:ff9b::/96"), ip_network("::/96")
# Python calls these global, and they are not: local IPv4 translators, obsolete site-local addresses, segment routing,
# documentation, and the metadata servers of clouds.
_NOT_PUBLIC = tuple(
    map(
        ip_network,
        (
            "64:ff9b:1::/48",
            "::ffff:0:0:0/96",
            "fec0::/10",
            "5f00::/16",
            "3fff::/20",
            "192.0.0.192/32",
            "168.63.129.16/32",
        ),
    )
)
_MOST_ADDRESSES = 3
_MOST_ESCAPES = 3
_ROOT_PATHS = ("", ".", "/")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


class NotPublicError(HTTPError):
    """The host resolved to an address that is not on the public internet."""


class PublicOnly:
    """Mixed into an urllib3 connection class: connects to public addresses, and sends not even a packet to others."""

    port: int
    _dns_host: str

    def _new_conn(self) -> Any:
        name = self._dns_host
        # A few: a name with many addresses must not multiply the time of one attempt.
        public = [address for address in self._resolve(name) if is_public(address)][:_MOST_ADDRESSES]
        if not public:
            raise NotPublicError(f"{name} has no public address")
        try:
            # To the address that was checked: the name may resolve to another the next time. mypy sees no mixin.
            for self._dns_host in public[:-1]:
                with suppress(NewConnectionError, ConnectTimeoutError):
                    return super()._new_conn()  # type: ignore[misc]
            self._dns_host = public[-1]
            return super()._new_conn()  # type: ignore[misc]
        finally:
            self._dns_host = name

    def _resolve(self, name: str) -> list[str]:
        try:
            found = socket.getaddrinfo(name.strip("[]"), self.port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise NameResolutionError(name, self, error) from error  # type: ignore[arg-type]
        except UnicodeError as error:
            raise LocationParseError(name) from error
        return [str(address[0]) for *_, address in found]


def is_public(text: str) -> bool:
    """Whether an IP address, and the IPv4 address that it may embed, is on the public internet."""
    address = ip_address(text.partition("%")[0])
    if isinstance(address, IPv6Address):
        # Some embed an IPv4 address, and lead there.
        embedded = IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 or address in _IPV4_COMPATIBLE else None
        address = address.ipv4_mapped or address.sixtofour or embedded or address
    return address.is_global and not address.is_multicast and not any(address in network for network in _NOT_PUBLIC)


@dataclass(frozen=True)
class Access:
    """What the user opened: parts of the URL space, and hosts by name."""

    prefixes: tuple["Prefix", ...]
    hosts: frozenset[str]

    @classmethod
    def of(cls, parameters: AccessParameters) -> "Access":
        """Read it from the parameters."""
        hosts = frozenset(host.lower().strip("[]") for host in parameters.allow_host)
        return cls(tuple(map(Prefix, parameters.allow_url_prefix)), hosts)

    def is_open(self, url: str) -> bool:
        """Whether the user opened `url`, inside the network or not.

        Raises:
            ValueError: it is no URL.
        """
        return any(prefix.covers(url) for prefix in self.prefixes) or self._is_open_host(url)

    def may_be_open(self, url: str) -> bool:
        """Whether `url` is open as far as can be told without looking a name up; what is no URL is left to others."""
        try:
            parts = urlsplit(url)
            if parts.scheme in WEB_SCHEMES:
                return self.is_open(url) or is_public(parts.hostname or "")
            return self.is_open(real_path(url) if is_local(url) else url)
        except ValueError:  # no URL, or a host's name
            return True

    def _is_open_host(self, url: str) -> bool:
        parts = urlsplit(url)
        return parts.scheme in WEB_SCHEMES and parts.hostname in self.hosts


@dataclass(frozen=True)
class Prefix:
    """A part of the URL space that the user opened."""

    url: str

    def covers(self, url: str) -> bool:
        """Whether `url` is at or below the prefix: same scheme, host and port, whole path segments."""
        if is_local(self.url):
            return is_local(url) and _is_under(real_path(url), self._path)
        target = urlsplit(url)
        if target.scheme not in WEB_SCHEMES:
            # An object store does not normalise keys.
            return ".." not in url.split("/") and _is_under(url, self.url.rstrip("/"))
        if self._origin != _origin(target):
            return False
        if self._path in _ROOT_PATHS:
            return True
        # Servers differ in how they read odd paths; what one of them may read as outside is not covered.
        return _is_under(_clean_path(target), self._path) and not _may_leave_folder(target.path)

    @cached_property
    def _origin(self) -> tuple[str, str, str]:
        return _origin(urlsplit(self.url))

    @cached_property
    def _path(self) -> str:
        return real_path(self.url) if is_local(self.url) else _clean_path(urlsplit(self.url))


def prefix_for(urls: Sequence[str]) -> str:
    """Return the longest prefix that opens the first URL and all that share its host or bucket, or top folder."""
    depth = 2 if is_local(urls[0]) else 3  # the parts of /data, and of s3://bucket
    parts = [(real_path(url) if is_local(url) else url).split("/") for url in urls]
    folders = [path[: max(depth, len(path) - 1)] for path in parts if path[:depth] == parts[0][:depth]]
    common = takewhile(lambda names: len({*names}) == 1, zip(*folders, strict=False))
    return "/".join(names[0] for names in common)


def real_path(url: str) -> str:
    """Return the path of a local URL with symlinks and `..` resolved."""
    return os.path.realpath(local_path(url))


def _origin(url: SplitResult) -> tuple[str, str, str]:
    """Scheme, user and host with its port, the default port left out."""
    default = _DEFAULT_PORTS.get(url.scheme, ":")
    return url.scheme, *url.netloc.lower().removesuffix(default).rpartition("@")[::2]


def _clean_path(url: SplitResult) -> str:
    return posixpath.normpath(unquote(url.path))


def _may_leave_folder(path: str) -> bool:
    """Whether some server may read a segment as `..`: if escaped twice, with backslashes or with parameters."""
    for _ in range(_MOST_ESCAPES):
        path = unquote(path)
    return unquote(path) != path or any(part.partition(";")[0] == ".." for part in re.split(r"[/\\]", path))


def _is_under(path: str, folder: str) -> bool:
    return folder in _ROOT_PATHS or path == folder or path.startswith(folder.rstrip("/") + "/")
