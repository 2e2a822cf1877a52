"""What is submitted, whichever service it goes to: the compiled file and its arguments, checked before they leave."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from captionflow.errors import InvalidInputError
from captionflow.kinds import PIPELINE
from kfp_pipeline.component_files import STEPS


@dataclass(frozen=True)
class Submission:
    """A compiled pipeline's specification and the arguments of one run of it."""

    spec: dict[str, Any]
    arguments: dict[str, Any]
    run_name: str


def submission(file: str, arguments: str, run_name: str | None = None) -> Submission:
    """Check a compiled pipeline and its arguments.

    Args:
        file: the pipeline, as `compile` wrote it.
        arguments: a JSON object, name → value.
        run_name: by default the pipeline's name and the time.

    Raises:
        InvalidInputError: the file holds no pipeline, or an argument is missing, unknown or wrong.
    """
    spec = _spec(file)
    values = _object(arguments)
    name = spec["pipelineInfo"]["name"]
    inputs = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    for unknown in sorted(values.keys() - inputs.keys()):
        raise InvalidInputError(f"--parameters: {name} has no input {unknown!r}; it has {', '.join(sorted(inputs))}")
    for needed in sorted(name for name in inputs.keys() - values.keys() if not inputs[name].get("isOptional")):
        raise InvalidInputError(f"--parameters: {needed!r} is missing: {inputs[needed].get('description', '')}")
    if name == PIPELINE.replace("_", "-"):
        for step in STEPS:
            for parameters in step.parameters:
                parameters.from_mapping(values)
    return Submission(spec, values, run_name or f"{name} {datetime.now(UTC):%Y-%m-%d %H:%M:%S}")


def _spec(file: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(Path(file).read_text())
        spec: dict[str, Any] = content.get("pipelineSpec", content)
        spec["pipelineInfo"]["name"], spec["root"]["dag"]
    except OSError as error:
        raise InvalidInputError(f"{file}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise InvalidInputError(f"{file}: no compiled pipeline; `captionflow kfp compile` writes one") from error
    return spec


def _object(arguments: str) -> dict[str, Any]:
    try:
        values = json.loads(arguments)
    except ValueError as error:
        raise InvalidInputError(f"--parameters: not JSON: {error}") from error
    if not isinstance(values, dict):
        raise InvalidInputError('--parameters: not a JSON object like {"epochs": 4}')
    return values
