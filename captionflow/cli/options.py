"""Commands from the table of steps, and options from a class of parameters."""

import functools
import hashlib
import inspect
import json
import logging
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_origin, get_type_hints

import typer

from captionflow.core.errors import InvalidInputError, StepFailedError
from captionflow.core.parameters import Parameters
from captionflow.core.parent import end_with_parent
from captionflow.core.runs import INPUTS, PIPELINE, artifact_uri
from captionflow.core.steps import Step

T = TypeVar("T")


def _output_options(
    *,
    output: Annotated[str, typer.Option(help="URI of the artifact to make: a path, gs://, s3://, …")],
    run_id: Annotated[
        str,
        typer.Option(
            help=f"Write the artifact to the folder of a run: OUTPUT/{PIPELINE}/RUN_ID/KIND. In RUN_ID, {INPUTS} "
            "becomes a digest of the command's other options."
        ),
    ] = "",
    uri_file: Annotated[
        Path | None, typer.Option(help="Also write the artifact's URI to this file, as Kubeflow passes outputs on.")
    ] = None,
    exit_with_parent: Annotated[
        bool, typer.Option("--exit-with-parent", help="End when the process that started the command ends.")
    ] = False,
) -> None:
    """Declare the options that every command of a step has."""


def command_of(step: Step) -> Callable[..., None]:
    """Return the command of a step; it prints the artifact's URI. Arguments after `--` are further Beam options."""
    parameters = step.parameters_class

    def command(
        context: typer.Context,
        *,
        output: str,
        run_id: str,
        uri_file: Path | None,
        exit_with_parent: bool,
        **values: Any,
    ) -> None:
        if exit_with_parent:
            end_with_parent()
        # Airflow's operator reads the id of a Dataflow job from the log of Beam's Dataflow client.
        for name in ("beam_jobs", "captionflow", "apache_beam.runners.dataflow.internal.apiclient"):
            logging.getLogger(name).setLevel(logging.INFO)
        uris = {name: values.pop(name) for name in step.inputs}
        if context.args:
            values["beam_options"] = [*(values["beam_options"] or ()), *context.args]
        checked = parameters.from_mapping(values)
        if INPUTS in run_id:
            run_id = run_id.replace(INPUTS, _digest(uris, checked))
        uri = artifact_uri(output, PIPELINE, run_id, step.output) if run_id else output
        print_uri(step.run(uris, uri, checked), uri_file)

    of_output = inspect.signature(_output_options, eval_str=True).parameters.values()
    of_step = [_option(parameters, name, schema) for name, schema in parameters.json_schema().items()]
    context = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    _declare(command, [context, *(_uri_option(name) for name in step.inputs), *of_output, *of_step])
    return command


def register(app: typer.Typer, step: Step) -> None:
    """Add the command of a step to `app`."""
    has_beam_options = "beam_options" in step.parameters_class.json_schema()
    text = step.description + (" Beam's own options follow --, a word each." if has_beam_options else "")
    app.command(step.name, help=text, context_settings={"allow_extra_args": has_beam_options})(command_of(step))


def _uri_option(name: str) -> inspect.Parameter:
    annotation: Any = Annotated[str, typer.Option(help=f"URI of the {name} artifact.")]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation)


def print_uri(uri: str, file: Path | None = None) -> None:
    """Print the URI of the artifact that a command made, and write it to `file`.

    Raises:
        InvalidInputError: `file` cannot be written.
        StepFailedError: stdout cannot be written.
    """
    if file:
        _write(file, uri)
    try:
        print(uri, flush=True)
    except OSError as error:
        raise StepFailedError(f"stdout: {error.strerror}; the artifact is complete: {uri}") from error


def _digest(uris: dict[str, str], parameters: Parameters) -> str:
    """Return a digest of a step's inputs, its parameters but for where it runs, and the version of the code."""
    # Imported here so that --help does not wait for it.
    from captionflow.core.code_version import code_version

    schema = parameters.json_schema()
    counted = {name: value for name, value in parameters.to_json().items() if not schema[name].get("placement")}
    inputs = json.dumps({**uris, **counted}, sort_keys=True)
    return hashlib.sha256(f"{code_version()} {inputs}".encode()).hexdigest()[:16]


def _write(file: Path, uri: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(uri)
    except OSError as error:
        raise InvalidInputError(f"--uri-file: {file}: {error.strerror}; the artifact is complete: {uri}") from error


def _declare(command: Any, parameters: list[inspect.Parameter]) -> None:
    """Give a command the signature that typer reads its options from."""
    command.__signature__ = inspect.Signature(parameters)
    command.__annotations__ = {p.name: p.annotation for p in parameters}


def expand(parameters: type[Parameters]) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Replace a command's argument of the type `parameters` by one option for each of its fields."""

    def decorate(command: Callable[..., T]) -> Callable[..., T]:
        own = inspect.signature(command, eval_str=True).parameters.values()
        (slot,) = (p.name for p in own if p.annotation is parameters)
        options = [_option(parameters, name, schema) for name, schema in parameters.json_schema().items()]

        @functools.wraps(command)
        def wrapper(**arguments: Any) -> T:
            values = {f.name: arguments.pop(f.name) for f in fields(parameters)}
            return command(**arguments, **{slot: parameters.from_mapping(values)})

        _declare(wrapper, [*(p.replace(kind=p.KEYWORD_ONLY) for p in own if p.name != slot), *options])
        return wrapper

    return decorate


def _panel(parameters: type[Parameters], name: str) -> str:
    """Return the heading of an option in the help: the first sentence of the class that declares it."""
    declares = next(cls for cls in parameters.__mro__ if name in inspect.get_annotations(cls))
    return str(inspect.getdoc(declares)).partition(".")[0]


def _option(parameters: type[Parameters], name: str, schema: dict[str, Any]) -> inspect.Parameter:
    hint = Literal[*schema["enum"]] if "enum" in schema else get_type_hints(parameters)[name]
    repeatable = get_origin(hint) is tuple
    settings: dict[str, Any] = {"help": schema["description"] + (" May be repeated." if repeatable else "")}
    settings |= {"envvar": schema.get("envvar"), "rich_help_panel": _panel(parameters, name)}
    if hint in (int, float):
        settings |= {"min": schema.get("minimum"), "max": schema.get("maximum")}
    annotation: Any = Annotated[list[str] if repeatable else hint, typer.Option(**settings)]
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=schema["default"] or None if repeatable else schema["default"],
        annotation=annotation,
    )
