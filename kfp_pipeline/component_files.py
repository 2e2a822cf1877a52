"""The component files, written from the steps' parameter classes: `python -m kfp_pipeline.component_files`.

A component file is the portable form that every version of Kubeflow Pipelines reads. Each runs the
`captionflow` command that does the step, and hands on the URI of the step's artifact.
"""

import json
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from captionflow.kinds import ARTIFACT_ROOT_MEANING
from captionflow.parameters import (
    BeamParameters,
    EvaluateParameters,
    IngestParameters,
    Parameters,
    PreprocessParameters,
    ReuseParameters,
    TrainParameters,
)
from kfp_pipeline import inputs

FOLDER = Path(__file__).parent / "components"

_INGESTED_PATH, _PREPROCESSED_PATH, _MODEL_PATH, _EVALUATION_PATH = (
    "ingested_dataset_path",
    "preprocessed_dataset_path",
    "trained_model_path",
    "evaluation_path",
)

_TYPES = {"string": "String", "integer": "Integer", "number": "Float", "array": "JsonArray"}


@dataclass(frozen=True)
class Step:
    """A step as a component: its folder and image, its command, and what it takes and gives.

    Attributes:
        uris: name of an input that is a URI → the option that takes it.
        options: name of a parameter → the option that takes it, where that is not its own name.
    """

    name: str
    command: str
    description: str
    parameters: tuple[type[Parameters], ...]
    output: str
    uris: dict[str, str] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        """Where the component file is."""
        return FOLDER / self.name / "component.yaml"

    def option(self, name: str) -> str:
        """Return the option of the command that takes an input."""
        own_names = {"base_artifact_path": "--output", **self.uris, **self.options}
        return own_names.get(name, "--" + name.replace("_", "-"))

    def schemas(self) -> dict[str, dict[str, Any]]:
        """Return the step's own parameters: name → JSON Schema."""
        return dict(chain.from_iterable(cls.json_schema().items() for cls in self.parameters))


STEPS = (
    Step(
        "ingestion",
        "ingest",
        "Reads captions from COCO JSON, CSV or JSON Lines; rows that cannot be used become counted rejects.",
        (IngestParameters,),
        output=_INGESTED_PATH,
    ),
    Step(
        "preprocessing",
        "preprocess",
        "Fetches, filters, resizes and shards the images, as an Apache Beam job.",
        (ReuseParameters, PreprocessParameters, BeamParameters),
        output=_PREPROCESSED_PATH,
        uris={_INGESTED_PATH: "--ingested"},
        options={
            "beam_runner": "--runner",
            "gcp_project_id": "--project",
            "region": "--region",
            "dataflow_staging_root": "--temp_location",
            "dataflow_service_account": "--service_account_email",
            "dataflow_worker_image": "--sdk_container_image",
        },
    ),
    Step(
        "train",
        "train",
        "Trains the captioner and keeps its best checkpoint.",
        (TrainParameters,),
        output=_MODEL_PATH,
        uris={_PREPROCESSED_PATH: "--preprocessed"},
    ),
    Step(
        "evaluation",
        "evaluate",
        "Captions the test split, scores it (BLEU, ROUGE-L, CIDEr) and writes a report to look at.",
        (EvaluateParameters,),
        output=_EVALUATION_PATH,
        uris={_MODEL_PATH: "--model", _PREPROCESSED_PATH: "--preprocessed"},
    ),
)


def component(step: Step) -> dict[str, Any]:
    """Return the content of the step's component file."""
    uris = {
        **{name: f"URI of the {_title(name)}." for name in step.uris},
        "base_artifact_path": ARTIFACT_ROOT_MEANING,
        "run_id": "Folder of this run's artifacts in it.",
    }
    takes = [{"name": name, "description": text, "type": "String"} for name, text in uris.items()]
    takes += [_input(name, schema) for name, schema in step.schemas().items()]
    arguments = [(step.option(given["name"]), {"inputValue": given["name"]}) for given in takes]
    return {
        "name": step.name,
        "description": step.description,
        "inputs": takes,
        "outputs": [{"name": step.output, "description": f"URI of the {_title(step.output)}.", "type": "String"}],
        "implementation": {
            "container": {
                "image": f"captionflow-{step.name}:{version('captionflow')}",
                "command": ["captionflow", step.command],
                "args": [*chain.from_iterable(arguments), "--uri-file", {"outputPath": step.output}],
            }
        },
    }


def _title(name: str) -> str:
    return name.removesuffix("_path").replace("_", " ")


def _input(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    found = {"name": name, "description": inputs.describe(schema), "type": _TYPES[inputs.kind(schema)]}
    if inputs.is_required(name, schema):
        return found
    default = inputs.default(schema)
    return found | {"default": default if isinstance(default, str) else json.dumps(default)}


def write() -> None:
    """Write all component files."""
    for step in STEPS:
        step.file.parent.mkdir(parents=True, exist_ok=True)
        step.file.write_text(yaml.safe_dump(component(step), sort_keys=False, width=120, default_flow_style=None))


if __name__ == "__main__":
    write()
