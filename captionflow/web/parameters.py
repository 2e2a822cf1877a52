"""What a run may reach over the network."""

import re
from dataclasses import dataclass

from captionflow.core.errors import InvalidInputError
from captionflow.core.parameters import HOST, URI, Parameters, parameter

# A name or an IPv4 address, or an IPv6 address with its brackets or without.
_HOST = re.compile(r"[^\s/:@\[\]]+|\[?[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*\]?")


@dataclass(frozen=True, kw_only=True)
class AccessParameters(Parameters):
    """What is open beside public web addresses, to sources as to images."""

    allow_url_prefix: tuple[str, ...] = parameter(
        (),
        "Prefixes to open. Below them, http(s) URLs of sources and images may lead to hosts inside the network, and "
        "images may be local files or lie in object stores. All others must be public http(s).",
        reaches=URI,
        common=True,
    )
    allow_host: tuple[str, ...] = parameter(
        (),
        "Hosts inside the network to open, by name or address, for http(s) URLs of sources and images.",
        reaches=HOST,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for host in self.allow_host:
            if not _HOST.fullmatch(host):
                raise InvalidInputError(
                    f"--allow-host: {host!r} is no host; give its name or address, without scheme and port"
                )
