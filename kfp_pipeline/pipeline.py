"""Compile the components into one pipeline."""

import inspect
from pathlib import Path
from typing import Any

import yaml
from kfp import compiler, components, dsl

from captionflow.core.errors import InvalidInputError
from captionflow.core.retries import MAX_RETRY_DELAY, RETRIES, RETRY_DELAY
from captionflow.core.runs import ARTIFACT_ROOT_MEANING, INPUTS
from captionflow.core.steps import Step
from kfp_pipeline import inputs
from kfp_pipeline.component_files import COMPONENTS, Component
from kfp_pipeline.parameters import PIPELINE_NAME, ROOT, CompileParameters

_PYTHON_TYPES = {"string": str, "integer": int, "number": float, "array": list}


def compile_pipeline(parameters: CompileParameters, output: str) -> None:
    """Write the pipeline's specification, JSON or YAML by `output`'s name; the same bytes every time.

    Raises:
        InvalidInputError: the file's name ends in neither, or it cannot be written.
    """
    path = Path(output)
    if path.suffix not in (".json", ".yaml"):
        raise InvalidInputError(f"--output: {output}: name it .yaml or .json")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        compiler.Compiler().compile(_pipeline(parameters), str(path))
    except OSError as error:
        raise InvalidInputError(f"--output: {output}: {error.strerror}") from error


def _pipeline(parameters: CompileParameters) -> Any:
    loaded = {component.name: _load(component, parameters) for component in COMPONENTS}
    schemas = pipeline_inputs()

    def chain(*channels: Any) -> None:
        arguments = dict(zip(schemas, channels, strict=True))
        # Kubeflow's cache compares the texts of arguments, so a shared folder is named by a digest of the inputs.
        # Kubeflow fills in the id of the run only where the placeholder is the whole argument.
        shared = parameters.cache_folder and f"{parameters.cache_folder}/{INPUTS}"
        location = {"base_artifact_path": arguments[ROOT], "run_id": shared or dsl.PIPELINE_JOB_ID_PLACEHOLDER}
        uris: dict[str, Any] = {}
        tasks: dict[str, Any] = {}
        for component in COMPONENTS:
            own = {name: arguments[name] for name in component.schemas}
            task = loaded[component.name](**location, **own, **{name: uris[name] for name in component.uris})
            task.after(*(tasks[kind] for kind in component.step.after))
            _configure(task, component.step, parameters)
            uris[component.output] = task.output
            tasks[component.step.output] = task

    return dsl.pipeline(
        _with_inputs(chain, schemas),
        name=PIPELINE_NAME,
        description="From captions and image URLs to a trained, evaluated image-captioning model.",
    )


def pipeline_inputs() -> dict[str, dict[str, Any]]:
    """Return name → JSON Schema of the pipeline's inputs: the artifact root, and the parameters of the steps."""
    root = {"type": "string", "description": ARTIFACT_ROOT_MEANING}
    return {ROOT: root} | {name: schema for component in COMPONENTS for name, schema in component.schemas.items()}


def _with_inputs(chain: Any, schemas: dict[str, dict[str, Any]]) -> Any:
    """Give a function the signature and the docstring that Kubeflow reads a pipeline's inputs from."""
    chain.__signature__ = inspect.Signature([_argument(name, schema) for name, schema in schemas.items()])
    lines = (f"    {name}: {inputs.describe(schema)}" for name, schema in schemas.items())
    chain.__doc__ = "\n".join(["Inputs.", "", "Args:", *lines])
    return chain


def _argument(name: str, schema: dict[str, Any]) -> inspect.Parameter:
    default = inspect.Parameter.empty if inputs.is_required(name, schema) else inputs.default(schema)
    annotation = _PYTHON_TYPES[inputs.kind(schema)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _load(component: Component, parameters: CompileParameters) -> Any:
    content = yaml.safe_load(component.file.read_text())
    container = content["implementation"]["container"]
    name, tag = container["image"].split(":")
    registry = parameters.image_registry.rstrip("/")
    container["image"] = f"{registry}/{name}".lstrip("/") + f":{parameters.image_tag or tag}"
    return components.load_component_from_text(yaml.safe_dump(content))


def _configure(task: Any, step: Step, parameters: CompileParameters) -> None:
    task.set_caching_options(parameters.cache_folder is not None)
    task.set_retry(
        num_retries=RETRIES,
        backoff_duration=f"{RETRY_DELAY.total_seconds():.0f}s",
        backoff_factor=2,
        backoff_max_duration=f"{MAX_RETRY_DELAY.total_seconds():.0f}s",
    )
    cpu, memory = parameters.resources(step)
    task.set_cpu_request(cpu).set_cpu_limit(cpu).set_memory_request(memory).set_memory_limit(memory)
    if step.name == "train" and parameters.accelerator:
        task.set_accelerator_type(parameters.accelerator).set_accelerator_limit(int(parameters.accelerators))
