"""The component files, written from the table of steps: `python -m kfp_pipeline.component_files`.

A component file is the portable form that every version of Kubeflow Pipelines reads. A component runs the
`captionflow` command of its step and outputs the URI of the step's artifact.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from captionflow.core.code_version import code_version
from captionflow.core.parameters import Parameters, flag
from captionflow.core.runs import ARTIFACT_ROOT_MEANING
from captionflow.core.steps import Step, workflow
from kfp_pipeline import inputs
from kfp_pipeline.names import PARAMETERS, component_of, input_of, output_of

FOLDER = Path(__file__).parent / "components"

_ROOT, _RUN_ID = "base_artifact_path", "run_id"

_TYPES = {"string": "String", "integer": "Integer", "number": "Float", "array": "JsonArray"}


@dataclass(frozen=True)
class Component:
    """A step as a Kubeflow component: its names, inputs and output."""

    step: Step

    @property
    def name(self) -> str:
        """The name of the component, its folder and its image."""
        return component_of(self.step.name)

    @property
    def file(self) -> Path:
        """The path of the component file."""
        return FOLDER / self.name / "component.yaml"

    @property
    def output(self) -> str:
        """Name of the output that holds the URI of the step's artifact."""
        return output_of(self.step.output)

    @property
    def uris(self) -> dict[str, str]:
        """Name of each input that is a URI → the step's argument."""
        return {output_of(kind): name for name, kind in self.step.inputs.items()}

    @property
    def schemas(self) -> dict[str, dict[str, Any]]:
        """Name of each input that is a parameter of the step → JSON Schema."""
        schemas = self.step.parameters_class.json_schema().items()
        return {input_of(name): schema for name, schema in schemas}

    def option(self, name: str) -> str:
        """Return the command's option for an input."""
        names = {_ROOT: "output", **self.uris, **PARAMETERS}
        return flag(names.get(name, name))

    def parameters(self, values: Mapping[str, Any]) -> Parameters:
        """Read the step's parameters from the arguments of a run.

        Raises:
            InvalidInputError: a value is of the wrong type or out of bounds.
        """
        renamed = {name: values[input_] for input_, name in PARAMETERS.items() if input_ in values}
        return self.step.parameters_class.from_mapping({**values, **renamed})


COMPONENTS = tuple(Component(step) for step in workflow())


def content(component: Component) -> dict[str, Any]:
    """Return the content of a component file."""
    uris = {
        **{name: f"URI of the {_title(name)}." for name in component.uris},
        _ROOT: ARTIFACT_ROOT_MEANING,
        _RUN_ID: "Folder of this run's artifacts in it.",
    }
    fields = [{"name": name, "description": text, "type": "String"} for name, text in uris.items()]
    fields += [_input(name, schema) for name, schema in component.schemas.items()]
    arguments = [(component.option(field["name"]), {"inputValue": field["name"]}) for field in fields]
    return {
        "name": component.name,
        "description": component.step.description,
        "inputs": fields,
        "outputs": [
            {"name": component.output, "description": f"URI of the {_title(component.output)}.", "type": "String"}
        ],
        "implementation": {
            "container": {
                # Of the last release: a commit is no reason to write the files anew.
                "image": f"captionflow-{component.step.extra}:{code_version().partition('+')[0]}",
                "command": ["captionflow", component.step.name],
                "args": [*chain.from_iterable(arguments), "--uri-file", {"outputPath": component.output}],
            }
        },
    }


def _title(name: str) -> str:
    return name.removesuffix("_path").replace("_", " ")


def _input(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    field = {"name": name, "description": inputs.describe(schema), "type": _TYPES[inputs.kind(schema)]}
    if inputs.is_required(name, schema):
        return field
    default = inputs.default(schema)
    return field | {"default": default if isinstance(default, str) else json.dumps(default)}


def write() -> None:
    """Write all component files."""
    for component in COMPONENTS:
        component.file.parent.mkdir(parents=True, exist_ok=True)
        component.file.write_text(
            yaml.safe_dump(content(component), sort_keys=False, width=120, default_flow_style=None)
        )


if __name__ == "__main__":
    write()
