"""Beam's options where Airflow starts the job: those that a run may give, and those that its deployment gives.

Most of Beam's options choose what code runs, where it comes from, where it runs and as whom: one of them is a command
line. From the form of a run only those are taken that say how much of a machine a job takes.
"""

import json
import os
import re
from collections.abc import Iterable
from typing import Any

from airflow.sdk import Context

from beam_jobs.dataflow import dataflow_options
from beam_jobs.parameters import DATAFLOW, BeamOptions, DataflowParameters, RunnerParameters
from captionflow.airflow.form import RootParameters, read
from captionflow.core.errors import InvalidInputError
from captionflow.core.parameters import variable

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

_RUNNERS = RunnerParameters.json_schema()["runner"]["enum"]
_LARGEST = 1_000_000
# Processes of the worker that Airflow's other tasks share.
_LARGEST_HERE = 256
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def options_for(runner: str, words: Iterable[str], field: str = "beam_options") -> dict[str, Any]:
    """Return the options of a job by name: the run's own, and then the deployment's, which win.

    Args:
        words: the run's own, as on a command line: --name=value, or --name.
        field: the field of the form that gave them.

    Raises:
        InvalidInputError: a run may not give an option, or a value is none for it; or the deployment's are no options.
    """
    if runner not in _RUNNERS:
        raise InvalidInputError(f"runner: {runner!r} is none of {', '.join(_RUNNERS)}")
    return {**dict(_parsed(field, word) for word in words), **_of_deployment(runner)}


def _parsed(field: str, word: str) -> tuple[str, Any]:
    written, has_value, value = word.removeprefix("--").partition("=")
    if not word.startswith("--") or not written:
        raise InvalidInputError(f"{field}: {word!r} is no option; write --name=value")
    name = written.replace("-", "_")
    if name not in TUNING:
        raise InvalidInputError(
            f"{field}: {written}: a run may give only {', '.join(TUNING)}; the deployment gives others in {VARIABLE}"
        )
    if not has_value:
        return name, True
    largest = _LARGEST_HERE if name == "direct_num_workers" else _LARGEST
    digits = value.replace("_", "")  # which Python allows within a number
    if not _WORD.fullmatch(value) or (digits.isdecimal() and int(digits) > largest):
        raise InvalidInputError(f"{field}: {written}: {value!r} is no number from 0 to {largest} and no plain word")
    return name, value


def job_options(context: Context, runner: str) -> dict[str, Any]:
    """Return Beam's options for a job of a run.

    Args:
        runner: where the form says that it runs.

    Raises:
        InvalidInputError: one cannot be used, or what Dataflow needs is missing.
    """
    from airflow.providers.apache.beam.hooks.beam import beam_options_to_args  # takes seconds to import

    from beam_jobs.options import beam_options

    options = options_for(runner, read(BeamOptions, context).beam_options)
    if runner == DATAFLOW:
        options = _dataflow_options(read(RootParameters, context).artifact_root) | options
    beam_options([f"--runner={runner}", *beam_options_to_args(options)])
    return options


def _dataflow_options(artifact_root: str) -> dict[str, str]:
    """Return Beam's options for a Dataflow job, as the deployment sets them.

    Raises:
        InvalidInputError: one is missing, or the artifacts are out of Dataflow's reach.
    """
    dataflow = DataflowParameters.from_environment()
    for name in ("region", "dataflow_staging_root"):
        if not getattr(dataflow, name):
            raise InvalidInputError(f"{variable(name)}: {DATAFLOW} needs it; the deployment must set it")
    if not artifact_root.startswith("gs://"):
        raise InvalidInputError(f"artifact_root: Dataflow's workers do not reach {artifact_root}; give a gs:// folder")
    # The provider's operator gives these itself.
    return {name: value for name, value in dataflow_options(dataflow).items() if name not in ("project", "region")}


def _of_deployment(runner: str) -> dict[str, Any]:
    try:
        by_runner = json.loads(os.environ.get(VARIABLE) or "{}")
        if unknown := sorted(by_runner.keys() - {*_RUNNERS}):
            raise InvalidInputError(f"{VARIABLE}: {unknown[0]!r} is no runner; name one of {', '.join(_RUNNERS)}")
        return {name.replace("-", "_"): value for name, value in by_runner.get(runner, {}).items()}
    except (ValueError, AttributeError) as error:
        raise InvalidInputError(f'{VARIABLE}: is not JSON like {{"FlinkRunner": {{"flink_master": "…"}}}}') from error
