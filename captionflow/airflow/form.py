"""What the DAG files share: the trigger form and how it is read, where artifacts go, and how tasks fail.

Whoever may trigger a run chooses data and figures. The deployment chooses what runs, where and as whom, in environment
variables. No value of a form is ever part of a template: tasks read the form here, when they run.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk import Context, Param

from captionflow.core.errors import CaptionFlowError, InvalidInputError, StoreError
from captionflow.core.parameters import URI, Parameters, parameter, variable
from captionflow.core.retries import MAX_RETRY_DELAY, RETRIES, RETRY_DELAY
from captionflow.core.runs import ARTIFACT_ROOT_MEANING, artifact_uri
from captionflow.core.terminal import one_line

ARTIFACT_ROOT = os.environ.get("CAPTIONFLOW_ARTIFACT_ROOT", str(Path.home() / "captionflow"))
SAMPLE = f"{ARTIFACT_ROOT}/sample"
SAMPLE_IMAGES = os.environ.get("CAPTIONFLOW_SAMPLE_IMAGES", f"{SAMPLE}/images")


@dataclass(frozen=True, kw_only=True)
class RootParameters(Parameters):
    """Where the artifacts go."""

    artifact_root: str = parameter(ARTIFACT_ROOT, ARTIFACT_ROOT_MEANING, reaches=URI, common=True)


P = TypeVar("P", bound=Parameters)

EXECUTION_TIMEOUT = timedelta(hours=24)

DEFAULT_ARGS = {
    "owner": "captionflow",
    "retries": RETRIES,
    "retry_delay": RETRY_DELAY,
    "retry_exponential_backoff": True,
    "max_retry_delay": MAX_RETRY_DELAY,
    "execution_timeout": EXECUTION_TIMEOUT,
}


def form(
    sections: Mapping[str, type[Parameters]], without: type[Parameters] = Parameters, **defaults: Any
) -> dict[str, Param]:
    """Return the trigger form: a field for each parameter, with its bounds and meaning.

    Airflow shows the fields of no section at first sight; it folds the others, by section.

    Args:
        sections: title → the parameters whose fields are folded under it, but for the common ones. A field that
            several have is that of the last.
        without: the parameters that the deployment sets.
        defaults: other defaults than the declared ones, by name.
    """
    fields: dict[str, Param] = {}
    for title, parameters in sections.items():
        for name, schema in parameters.json_schema().items():
            if name not in without.json_schema():
                fields.pop(name, None)
                schema |= {"default": defaults.get(name, schema["default"])}
                if not schema.get("common"):
                    schema["section"] = f"Advanced: {title}"
                fields[name] = Param(**schema)
    return fields


def settings(*parameters: type[Parameters]) -> dict[str, str]:
    """Return what the deployment sets in place of the form: name → environment variable."""
    return {name: variable(name) for cls in parameters for name in cls.json_schema()}


def check_conf(context: Context, settings: Mapping[str, str]) -> None:
    """Check that a run was given fields of its form alone; Airflow lets others through.

    Args:
        settings: what was a field once, or may be taken for one: name → environment variable.

    Raises:
        InvalidInputError: it was given another; the message names the variable.
    """
    for name in sorted(context["params"].keys() - context["dag"].params.keys()):
        remedy = f"the deployment sets it, by {settings[name]}" if name in settings else "leave it out"
        raise InvalidInputError(f"{name}: is no field of this form; {remedy}")


def read(parameters: type[P], context: Context) -> P:
    """Return a step's parameters as the run's form gives them.

    Raises:
        InvalidInputError: a value is of the wrong type or out of bounds, or leads to where no run may reach.
    """
    found = parameters.from_mapping(context["params"])
    check_places(parameters.json_schema(), found.to_json())
    return found


def artifact(context: Context, kind: str) -> str:
    """Return the URI of the run's artifact: known before its task starts, the same in every retry.

    Raises:
        InvalidInputError: the root, or a link below it, leads to where no run may reach, or the run's id is no name of
            a folder.
    """
    root = read(RootParameters, context).artifact_root
    uri = artifact_uri(root, context["dag"].dag_id, context["run_id"], kind)
    check_places(RootParameters.json_schema(), {"artifact_root": uri})
    return uri


def check_places(schemas: Mapping[str, Mapping[str, Any]], values: Mapping[str, Any]) -> None:
    """Raise InvalidInputError if one of the values, by the schema of its name, leads to where no run may reach."""
    from captionflow.airflow.reach import check_reach  # asks for more than a DAG file needs

    check_reach(values, schemas, _opened())


def is_place(uri: str) -> bool:
    """Whether a run may reach all that is below a path or URI, also where that is inside the network."""
    from captionflow.airflow.reach import is_open

    return is_open(uri, URI, _opened())


def _opened() -> tuple[str, ...]:
    """Return what the deployment opens to runs."""
    from captionflow.airflow.reach import VARIABLE

    return ARTIFACT_ROOT, SAMPLE_IMAGES, *os.environ.get(VARIABLE, "").split()


@contextmanager
def no_retry_in_vain() -> Iterator[None]:
    """Fail at once, whatever retries are left, on what would end the same way again; the log has one line of it."""
    try:
        yield
    except StoreError as error:
        raise StoreError(one_line(str(error))) from None
    except CaptionFlowError as error:
        raise AirflowFailException(one_line(str(error))) from None
