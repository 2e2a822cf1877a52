"""Beam's options where Airflow starts the job: those that a run may give, and those that its deployment gives.

Most of Beam's options choose what code runs, where it comes from, where it runs and as whom: one of them is a command
line. From the form of a run only those are taken that say how much of a machine a job takes.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from beam_jobs.parameters import BeamParameters
from captionflow.core.errors import InvalidInputError

VARIABLE = "CAPTIONFLOW_BEAM_OPTIONS"
"""Holds the deployment's options as JSON, by runner: {"FlinkRunner": {"flink_master": "flink:8081"}}."""

# One name for each, so that no second one gets past what the deployment says.
TUNING = (
    "autoscaling_algorithm",
    "direct_num_workers",
    "direct_running_mode",
    "disk_size_gb",
    "disk_type",
    "element_processing_timeout_minutes",
    "machine_type",
    "max_cache_memory_usage_mb",
    "max_num_workers",
    "max_parallelism",
    "num_workers",
    "number_of_worker_harness_threads",
    "parallelism",
    "sdk_worker_parallelism",
)
"""What a run may give, `-` and `_` being the same."""

_RUNNERS = BeamParameters.json_schema()["runner"]["enum"]
_LARGEST = 1_000_000
# Processes of the worker that Airflow's other tasks share.
_LARGEST_HERE = 256
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def options_for(runner: str, field: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a job: the run's own, and then the deployment's, which win.

    Args:
        field: the field of the form that gave the run's own.
        given: name → number, boolean or word.

    Raises:
        InvalidInputError: a run may not give an option, or a value is none for it; or the deployment's are no options.
    """
    if runner not in _RUNNERS:
        raise InvalidInputError(f"runner: {runner!r} is none of {', '.join(_RUNNERS)}")
    tuning = {_checked(field, name, value): value for name, value in given.items()}
    return {**tuning, **_of_deployment(runner)}


def parsed(field: str, words: Iterable[str]) -> dict[str, Any]:
    """Return options by name that are written as on a command line, each in one word.

    Raises:
        InvalidInputError: a word is no option.
    """
    options: dict[str, Any] = {}
    for word in words:
        name, has_value, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not name:
            raise InvalidInputError(f"{field}: {word!r} is no option; write --name=value")
        options[name] = value if has_value else True
    return options


def _checked(field: str, name: str, value: Any) -> str:
    plain = name.replace("-", "_")
    if plain not in TUNING:
        raise InvalidInputError(
            f"{field}: {name}: a run may give only {', '.join(TUNING)}; the deployment gives others in {VARIABLE}"
        )
    largest = _LARGEST_HERE if plain == "direct_num_workers" else _LARGEST
    is_number = isinstance(value, (int, float)) and 0 <= value <= largest
    if not is_number and not (isinstance(value, str) and _WORD.fullmatch(value)):
        raise InvalidInputError(f"{field}: {name}: is no number from 0 to {largest}, no boolean and no plain word")
    return plain


def _of_deployment(runner: str) -> dict[str, Any]:
    try:
        by_runner = json.loads(os.environ.get(VARIABLE) or "{}")
        if unknown := sorted(by_runner.keys() - {*_RUNNERS}):
            raise InvalidInputError(f"{VARIABLE}: {unknown[0]!r} is no runner; name one of {', '.join(_RUNNERS)}")
        return {name.replace("-", "_"): value for name, value in by_runner.get(runner, {}).items()}
    except (ValueError, AttributeError) as error:
        raise InvalidInputError(f'{VARIABLE}: is not JSON like {{"FlinkRunner": {{"flink_master": "…"}}}}') from error
