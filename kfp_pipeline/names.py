"""The names of components, inputs and outputs; they follow the example in the Beam documentation."""

from captionflow.core.steps import EVALUATION, INGESTED, MODEL, PREPROCESSED

_COMPONENTS = {"ingest": "ingestion", "validate": "validation", "preprocess": "preprocessing", "evaluate": "evaluation"}
_ARTIFACTS = {
    INGESTED: "ingested_dataset_path",
    PREPROCESSED: "preprocessed_dataset_path",
    MODEL: "trained_model_path",
    EVALUATION: "evaluation_path",
}
_INPUTS = {"runner": "beam_runner", "beam_options": "beam_args", "gcp_project": "gcp_project_id"}

PARAMETERS = {input_: parameter for parameter, input_ in _INPUTS.items()}
"""Name of an input → name of the parameter."""


def component_of(step: str) -> str:
    """Return the name of a step's component."""
    return _COMPONENTS.get(step, step)


def input_of(name: str) -> str:
    """Return the name of the input for a parameter."""
    return _INPUTS.get(name, name)


def output_of(kind: str) -> str:
    """Return the name of the output for a kind of artifact."""
    return _ARTIFACTS.get(kind, f"{kind}_path")
