"""Fetch a source over the network: from public addresses unless opened, within bounds of size and time."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import IO

from urllib3.util import Timeout

from captionflow.core.errors import CaptionFlowError, InvalidInputError, StoreError
from captionflow.core.uris import ANSWERS, file_system, full_disk_errors
from captionflow.sources.parameters import IngestParameters
from captionflow.web.access import WEB_SCHEMES, Access, NotPublicError
from captionflow.web.client import MAX_REDIRECTS, Web, parse, redirected

_MEGABYTE = 1_000_000
_PIECE = 1 << 20
_LONGEST_REASON = 100
# Seconds.
_CONNECT_TIMEOUT, _SILENCE = 60.0, 60.0

Read = Callable[[int], bytes]


def download(uri: str, target: IO[bytes], parameters: IngestParameters) -> None:
    """Write what `uri`, of the web or of an object store, holds to `target`.

    Raises:
        InvalidInputError: it cannot be had, may not be had, is too large or takes too long.
        StoreError: the object store that holds it cannot be reached, or refuses.
        StepFailedError: the disk is full.
    """
    deadline = time.monotonic() + parameters.max_source_seconds
    room = parameters.max_source_megabytes * _MEGABYTE
    try:
        with full_disk_errors(tempfile.gettempdir()), _opened(uri, parameters, deadline) as read:
            while piece := read(_PIECE):
                room -= len(piece)
                if room < 0:
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
    except Exception as error:  # Each object store's client has errors of its own.
        if time.monotonic() > deadline:
            raise InvalidInputError(
                f"--max-source-seconds: {uri} took longer than {parameters.max_source_seconds:g} s; "
                "raise it if the source is what you expect"
            ) from error
        is_passing = not (_is_web(uri) or isinstance(error, ANSWERS))
        said = f"{uri}: cannot be fetched: {' '.join(str(error).split())}"
        raise (StoreError if is_passing else InvalidInputError)(said) from error


def _is_web(uri: str) -> bool:
    return uri.partition("://")[0].lower() in WEB_SCHEMES


@contextmanager
def _opened(uri: str, parameters: IngestParameters, deadline: float) -> Iterator[Read]:
    if _is_web(uri):
        with _answer(uri, parameters, deadline) as read:
            yield read
    else:
        fs, path = file_system(uri)
        with fs.open(path, "rb") as file:
            yield file.read


@contextmanager
def _answer(uri: str, parameters: IngestParameters, deadline: float) -> Iterator[Read]:
    web = Web(Access.of(parameters), {"User-Agent": "CaptionFlow"}, silence=_SILENCE)
    url = uri
    for _ in range(MAX_REDIRECTS + 1):
        seconds = max(0.001, deadline - time.monotonic())
        timeout = Timeout(connect=min(_CONNECT_TIMEOUT, seconds), read=seconds, total=seconds)
        response = web.get(parse(url), timeout)
        try:
            if location := response.get_redirect_location():
                url = redirected(url, location)
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
