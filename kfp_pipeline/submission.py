"""The compiled pipeline and its arguments, checked before they are submitted to either service."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from captionflow.core.errors import InvalidInputError
from kfp_pipeline.component_files import COMPONENTS
from kfp_pipeline.parameters import PIPELINE_NAME, ROOT


@dataclass(frozen=True)
class Submission:
    """A compiled pipeline and the arguments of one run of it.

    Attributes:
        spec: the pipeline's specification.
        pipeline_root: folder for the service's own files, if the compiled file names one.
    """

    spec: dict[str, Any]
    arguments: dict[str, Any]
    run_name: str
    pipeline_root: str | None

    @property
    def tasks(self) -> set[str]:
        """Names of the pipeline's tasks."""
        return set(self.spec["root"]["dag"]["tasks"])


class _Loader(yaml.SafeLoader):
    """Refuses aliases: no compiled pipeline has any, and a few lines of them can unfold to gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias")
        return super().compose_node(parent, index)


def submission(file: str, arguments: str, run_name: str | None = None) -> Submission:
    """Check a compiled pipeline and its arguments.

    Args:
        file: path of the compiled pipeline.
        arguments: a JSON object, name → value.
        run_name: by default the pipeline's name and the time.

    Raises:
        InvalidInputError: the file holds no pipeline, or an argument is missing, unknown or wrong.
    """
    content = _content(file)
    spec = _spec(content)
    values = _object(arguments)
    name = spec["pipelineInfo"]["name"]
    inputs = _inputs(spec)
    for unknown in sorted(values.keys() - inputs.keys()):
        raise InvalidInputError(f"--parameters: {name} has no input {unknown!r}; it has {', '.join(sorted(inputs))}")
    for missing in sorted(name for name in inputs.keys() - values.keys() if not inputs[name].get("isOptional")):
        raise InvalidInputError(f"--parameters: {missing!r} is missing: {inputs[missing].get('description', '')}")
    if name == PIPELINE_NAME:
        _check(values)
    root = content.get("runtimeConfig", {}).get("gcsOutputDirectory")
    return Submission(spec, values, run_name or f"{name} {datetime.now(UTC):%Y-%m-%d %H:%M:%S}", root)


def _check(values: dict[str, Any]) -> None:
    if not values[ROOT] or not isinstance(values[ROOT], str):
        raise InvalidInputError(f"--parameters: {ROOT!r} is no folder or bucket: {values[ROOT]!r}")
    for name, value in values.items():
        if value is None:
            raise InvalidInputError(f'--parameters: {name!r} is null; leave it out or give ""')
    for component in COMPONENTS:
        component.parameters(values)


def _content(file: str) -> dict[str, Any]:
    try:
        content: dict[str, Any] = _Loader(Path(file).read_text()).get_single_data()
        spec = _spec(content)
        (
            spec["pipelineInfo"]["name"],
            spec["root"]["dag"]["tasks"],
            [i.get("isOptional") for i in _inputs(spec).values()],
        )
    except OSError as error:
        raise InvalidInputError(f"{file}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise InvalidInputError(f"{file}: no compiled pipeline; `captionflow kfp compile` writes one") from error
    return content


def _spec(content: dict[str, Any]) -> dict[str, Any]:
    """Return the specification of a pipeline, also from a file that holds a whole job."""
    spec: dict[str, Any] = content.get("pipelineSpec", content)
    return spec


def _inputs(spec: dict[str, Any]) -> dict[str, Any]:
    inputs: dict[str, Any] = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    return inputs


def _object(arguments: str) -> dict[str, Any]:
    try:
        values = json.loads(arguments)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"--parameters: not JSON: {error}") from error
    if not isinstance(values, dict):
        raise InvalidInputError('--parameters: not a JSON object like {"epochs": 4}')
    return values
