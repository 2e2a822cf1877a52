"""Which URLs may be fetched, so that no URL reaches what its author could not.

http and https go to public addresses only, checked on the address actually connected to. Local
files, object stores and hosts inside the network are open only where the user opened them.
"""

import os
import posixpath
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv6Address, ip_address
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from urllib3.exceptions import HTTPError

from captionflow.artifacts import is_local, local_path
from captionflow.parameters import PreprocessParameters

WEB_SCHEMES = frozenset({"http", "https"})
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


class NotPublicError(HTTPError):
    """The host resolved to an address that is not on the public internet."""


class PublicOnly:
    """Mixed into an urllib3 connection class: gives up unless the peer's address is public."""

    def _new_conn(self) -> Any:
        sock = super()._new_conn()  # type: ignore[misc]
        address = ip_address(sock.getpeername()[0].partition("%")[0])
        mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        if not (mapped or address).is_global or address.is_multicast:
            sock.close()
            raise NotPublicError(f"{address} is not a public address")
        return sock


@dataclass(frozen=True)
class Access:
    """What the user opened: parts of the URL space, and hosts by name."""

    prefixes: tuple["Prefix", ...]
    hosts: frozenset[str]

    @classmethod
    def of(cls, parameters: PreprocessParameters) -> "Access":
        """Read it from the parameters."""
        hosts = frozenset(host.lower().strip("[]") for host in parameters.allow_host)
        return cls(tuple(map(Prefix, parameters.allow_url_prefix)), hosts)

    def is_open(self, url: str) -> bool:
        """Whether the user opened `url`, wherever it leads.

        Raises:
            ValueError: it is no URL.
        """
        return any(prefix.covers(url) for prefix in self.prefixes) or self._is_open_host(url)

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
        wanted = urlsplit(url)
        return self._place == _place(wanted) and _is_under(_clean_path(wanted), self._path)

    @cached_property
    def _place(self) -> tuple[str, str, str]:
        return _place(urlsplit(self.url))

    @cached_property
    def _path(self) -> str:
        return real_path(self.url) if is_local(self.url) else _clean_path(urlsplit(self.url))


def real_path(url: str) -> str:
    """Return the path of a local URL with symlinks and `..` resolved."""
    return os.path.realpath(local_path(url))


def _place(url: SplitResult) -> tuple[str, str, str]:
    """Scheme, user and host with its port, the default port left out."""
    default = _DEFAULT_PORTS.get(url.scheme, ":")
    return url.scheme, *url.netloc.lower().removesuffix(default).rpartition("@")[::2]


def _clean_path(url: SplitResult) -> str:
    return posixpath.normpath(unquote(url.path))


def _is_under(path: str, folder: str) -> bool:
    return folder in ("", ".", "/") or path == folder or path.startswith(folder.rstrip("/") + "/")
