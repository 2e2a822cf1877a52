"""The failures of workers, in one line: Beam would print them as pages of traceback."""

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

from captionflow.core.errors import CaptionFlowError, InvalidInputError, StepFailedError, StoreError

_ERRORS: dict[str, type[CaptionFlowError]] = {
    error.__name__: error for error in (InvalidInputError, StoreError, StepFailedError)
}
_NAMES = "|".join(_ERRORS)


def hide_tracebacks() -> None:
    """Keep out of the log what `failures_in_one_line` raises."""
    # In this process, or in one of its own, whose log comes by the last of them.
    for name in ("worker.sdk_worker", "common", "portability.local_job_service"):
        logging.getLogger(f"apache_beam.runners.{name}").addFilter(_is_no_failure)


@contextmanager
def failures_in_one_line() -> Iterator[None]:
    """Raise a worker's CaptionFlowError again, and what a Google API refused as a StepFailedError.

    A worker's failure is found in a text: Beam hands it on as a traceback's (`InstructionResponse.error` of its Fn
    API), and each runner raises an error of its own with that. No output or file can carry it instead: a worker fails
    because its disk is full or its folder has another owner, and a bundle that gave a result would not be retried.
    """
    try:
        yield
    except Exception as error:  # Each runner has errors of its own, and each Google API's client, too.
        # apitools: Beam 2.71, which Cloud Composer has; google.api_core: Beam 2.77.
        if type(error).__module__.startswith(("apitools.", "google.api_core.")):
            raise StepFailedError(f"Dataflow: {_refusal(error)}") from error
        text = f"{type(error).__name__}: {error}"
        if found := re.search(rf"\b({_NAMES}): (.*?)(?: \[while running|$)", text, re.M):
            raise _ERRORS[found[1]](found[2]) from error
        raise


def _refusal(error: Exception) -> str:
    """Return the message in a Google API's answer, or all of the error."""
    # https://cloud.google.com/apis/design/errors#http_mapping
    try:
        return str(json.loads(getattr(error, "content", ""))["error"]["message"])
    except (KeyError, TypeError, ValueError):
        return str(getattr(error, "message", error))


def _is_no_failure(record: logging.LogRecord) -> bool:
    """Whether the record is no traceback of an error that is raised as one line."""
    kind = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else ""
    return not re.search(_NAMES, f"{kind} {record.getMessage()}")
