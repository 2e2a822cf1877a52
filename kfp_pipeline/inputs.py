"""A step's parameter as an input of a component or of the pipeline.

Kubeflow's inputs have no bounds and no null. So the description states the bounds, and an empty text stands for null.
"""

from typing import Any


def kind(schema: dict[str, Any]) -> str:
    """Return the input's type, by its name in JSON Schema."""
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    (name,) = (kind for kind in kinds if kind != "null")
    return str(name)


def is_required(name: str, schema: dict[str, Any]) -> bool:
    """Whether a run must give the input: it has no default, or an empty one that no run can use (`sources`)."""
    return "default" not in schema or name == "sources"


def default(schema: dict[str, Any]) -> Any:
    """Return the default of an input that is not required."""
    return "" if schema["default"] is None else schema["default"]


def describe(schema: dict[str, Any]) -> str:
    """Return the parameter's meaning, with its choices or bounds."""
    if "enum" in schema:
        return f"{schema['description']} One of {', '.join(schema['enum'])}."
    if "minimum" in schema:
        return f"{schema['description']} From {schema['minimum']} to {schema['maximum']}."
    return str(schema["description"])
