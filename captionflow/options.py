"""Turn a Parameters class into command-line options, so that neither is written twice."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Annotated, Any, get_origin, get_type_hints

import typer

from captionflow.parameters import Parameters


def expand(parameters: type[Parameters]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace a command's argument of the type `parameters` by one option for each of its fields."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True).parameters.values()
        (slot,) = (p.name for p in own if p.annotation is parameters)
        options = [_option(parameters, name, schema) for name, schema in parameters.json_schema().items()]

        @functools.wraps(command)
        def wrapper(**arguments: Any) -> None:
            values = {f.name: arguments.pop(f.name) for f in fields(parameters)}
            command(**arguments, **{slot: parameters.from_mapping(values)})

        expanded = [*(p.replace(kind=p.KEYWORD_ONLY) for p in own if p.name != slot), *options]
        wrapper.__signature__ = inspect.Signature(expanded)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {p.name: p.annotation for p in expanded}
        return wrapper

    return decorate


def _option(parameters: type[Parameters], name: str, schema: dict[str, Any]) -> inspect.Parameter:
    hint = get_type_hints(parameters)[name]
    repeatable = get_origin(hint) is tuple
    words: dict[str, Any] = {"help": schema["description"] + (" May be repeated." if repeatable else "")}
    if hint in (int, float):
        words |= {"min": schema.get("minimum"), "max": schema.get("maximum")}
    annotation: Any = Annotated[list[str] if repeatable else hint, typer.Option(**words)]
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=schema["default"] or None if repeatable else schema["default"],
        annotation=annotation,
    )
