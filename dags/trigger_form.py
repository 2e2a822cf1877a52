"""What the DAG files share: the trigger form, where artifacts go, and how tasks fail."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.exceptions import AirflowFailException
from airflow.models.param import Param

from captionflow.errors import CaptionFlowError
from captionflow.parameters import Parameters
from captionflow.retries import MAX_RETRY_DELAY, RETRIES, RETRY_DELAY

ARTIFACT_ROOT = os.environ.get("CAPTIONFLOW_ARTIFACT_ROOT", str(Path.home() / "captionflow"))

DEFAULT_ARGS = {
    "owner": "captionflow",
    "retries": RETRIES,
    "retry_delay": RETRY_DELAY,
    "retry_exponential_backoff": True,
    "max_retry_delay": MAX_RETRY_DELAY,
    "execution_timeout": timedelta(hours=24),
}


def form(parameters: type[Parameters], section: str, **defaults: Any) -> dict[str, Param]:
    """Return one field of the trigger form for each of a step's parameters, with its bounds and meaning."""
    fields = parameters.json_schema()
    for name, default in defaults.items():
        fields[name]["default"] = default
    return {name: Param(**schema, section=section) for name, schema in fields.items()}


@contextmanager
def no_retry_in_vain() -> Iterator[None]:
    """Fail at once, whatever retries are left, on what would end the same way again."""
    try:
        yield
    except CaptionFlowError as error:
        raise AirflowFailException(str(error)) from None
