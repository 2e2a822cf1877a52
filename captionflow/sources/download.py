"""Fetch a source over the network, within bounds of size and time.

Only public addresses are fetched, and those that the user opened.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import IO

from captionflow.core.errors import CaptionFlowError, InvalidInputError, StoreError
from captionflow.core.uris import PATH_ERRORS, file_system, full_disk_errors
from captionflow.sources.parameters import IngestParameters
from captionflow.web.access import WEB_SCHEMES, Access, NotPublicError
from captionflow.web.client import MAX_REDIRECTS, Web, parse, redirect_target

_MEGABYTE = 1_000_000
_PIECE = 1 << 20
_LONGEST_REASON = 100
# Seconds.
_CONNECT_TIMEOUT, _IDLE_TIMEOUT = 60.0, 60.0

Read = Callable[[int], bytes]


def download(uri: str, target: IO[bytes], parameters: IngestParameters) -> None:
    """Fetch `uri`, of the web or of an object store, into `target`.

    Raises:
        InvalidInputError: it cannot be fetched, is at no public address, is too large or takes too long.
        StoreError: its object store cannot be reached, or refuses.
        StepFailedError: the disk is full.
    """
    deadline = time.monotonic() + parameters.max_source_seconds
    remaining = parameters.max_source_megabytes * _MEGABYTE
    try:
        with full_disk_errors(tempfile.gettempdir()), _open(uri, parameters, deadline) as read:
            while piece := read(_PIECE):
                remaining -= len(piece)
                if remaining < 0:
                    raise InvalidInputError(
                        f"--max-source-megabytes: {uri} is larger than {parameters.max_source_megabytes} MB; "
                        "raise it if the source is what you expect"
                    )
                if time.monotonic() > deadline:
                    raise TimeoutError
                target.write(piece)
            target.flush()
    except CaptionFlowError:
        raise
    except NotPublicError as error:
        raise InvalidInputError(f"{uri}: {error}; open it with --allow-url-prefix or --allow-host") from error
    except Exception as error:  # Each object store's client raises errors of its own.
        if time.monotonic() > deadline:
            raise InvalidInputError(
                f"--max-source-seconds: {uri} took longer than {parameters.max_source_seconds:g} s; "
                "raise it if the source is what you expect"
            ) from error
        is_transient = not (_is_web(uri) or isinstance(error, PATH_ERRORS))
        message = f"{uri}: cannot be fetched: {' '.join(str(error).split())}"
        raise (StoreError if is_transient else InvalidInputError)(message) from error


def _is_web(uri: str) -> bool:
    return uri.partition("://")[0].lower() in WEB_SCHEMES


@contextmanager
def _open(uri: str, parameters: IngestParameters, deadline: float) -> Iterator[Read]:
    if _is_web(uri):
        with _open_web(uri, parameters, deadline) as read:
            yield read
    else:
        fs, path = file_system(uri)
        with fs.open(path, "rb") as file:
            yield file.read


@contextmanager
def _open_web(uri: str, parameters: IngestParameters, deadline: float) -> Iterator[Read]:
    web = Web(Access.of(parameters), {"User-Agent": "CaptionFlow"}, idle_timeout=_IDLE_TIMEOUT)
    url = uri
    for _ in range(MAX_REDIRECTS + 1):
        response = web.get(parse(url), deadline, _CONNECT_TIMEOUT)
        try:
            if location := response.get_redirect_location():
                url = redirect_target(url, location)
                continue
            if response.status != HTTPStatus.OK:
                raise InvalidInputError(
                    f"{uri}: cannot be fetched: {response.status} {(response.reason or '')[:_LONGEST_REASON]}"
                )
            yield response.read
            return
        finally:
            response.close()
    raise InvalidInputError(f"{uri}: cannot be fetched: more than {MAX_REDIRECTS} redirects")
