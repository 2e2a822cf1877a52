"""Options that commands share: those of a Parameters class, and those of every command that makes an artifact."""

import functools
import hashlib
import inspect
import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_origin, get_type_hints

import typer

from captionflow.errors import InvalidInputError, StepFailedError
from captionflow.kinds import INPUTS, PIPELINE, artifact_uri
from captionflow.parameters import Parameters

T = TypeVar("T")


def _where(
    *,
    output: Annotated[str, typer.Option(help="URI of the artifact to make: a path, gs://, s3://, …")],
    run_id: Annotated[
        str,
        typer.Option(
            help=f"Make it in the folder of a run below --output: OUTPUT/{PIPELINE}/RUN_ID/KIND. {INPUTS} in it stands "
            "for a digest of the command's other options."
        ),
    ] = "",
    uri_file: Annotated[
        Path | None, typer.Option(help="Also write the artifact's URI to this file, as Kubeflow passes outputs on.")
    ] = None,
) -> None:
    """Declare the options of every command that makes an artifact."""


def makes(kind: str) -> Callable[[Callable[..., str]], Callable[..., None]]:
    """Let a command that returns an artifact's URI print it, and give it the options that say where it goes."""

    def decorate(command: Callable[..., str]) -> Callable[..., None]:
        @functools.wraps(command)
        def wrapper(*, output: str, run_id: str, uri_file: Path | None, **arguments: Any) -> None:
            if INPUTS in run_id:
                run_id = run_id.replace(INPUTS, _digest(arguments))
            uri = command(output=artifact_uri(output, PIPELINE, run_id, kind) if run_id else output, **arguments)
            if uri_file:
                _write(uri_file, uri)
            try:
                print(uri, flush=True)
            except OSError as error:
                raise StepFailedError(f"stdout: {error.strerror}; the artifact is whole: {uri}") from error

        own = inspect.signature(command, eval_str=True).parameters.values()
        where = inspect.signature(_where, eval_str=True).parameters.values()
        _declare(wrapper, [*where, *(p.replace(kind=p.KEYWORD_ONLY) for p in own if p.name != "output")])
        return wrapper

    return decorate


def _digest(arguments: dict[str, Any]) -> str:
    """Return what tells one set of options from another, at this version of the code; Beam's own do not count."""
    # Imported here so that --help does not wait for it.
    from captionflow.code_version import code_version

    told = json.dumps({name: value for name, value in arguments.items() if name != "context"}, sort_keys=True)
    return hashlib.sha256(f"{code_version()} {told}".encode()).hexdigest()[:16]


def _write(file: Path, uri: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(uri)
    except OSError as error:
        raise InvalidInputError(f"--uri-file: {file}: {error.strerror}; the artifact is whole: {uri}") from error


def _declare(command: Callable[..., Any], parameters: list[inspect.Parameter]) -> None:
    """Tell typer which options a command has."""
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
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


def _option(parameters: type[Parameters], name: str, schema: dict[str, Any]) -> inspect.Parameter:
    hint = get_type_hints(parameters)[name]
    repeatable = get_origin(hint) is tuple
    words: dict[str, Any] = {"help": schema["description"] + (" May be repeated." if repeatable else "")}
    words["envvar"] = schema.get("envvar")
    if hint in (int, float):
        words |= {"min": schema.get("minimum"), "max": schema.get("maximum")}
    annotation: Any = Annotated[list[str] if repeatable else hint, typer.Option(**words)]
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=schema["default"] or None if repeatable else schema["default"],
        annotation=annotation,
    )
