"""What the tasks have in common that run a step's command in a container elsewhere."""

import logging
import os
from urllib.parse import urlsplit

from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk import Context

from captionflow.airflow.form import no_retry_in_vain
from captionflow.airflow.step_task import StepTask
from captionflow.core.errors import InvalidInputError
from captionflow.core.parameters import options

_LOG = logging.getLogger(__name__)
POLL_SECONDS = 10


def command_of(task: StepTask, context: Context) -> list[str]:
    """Return the command of the container that does a task's step.

    Raises:
        InvalidInputError: a parameter cannot be used.
    """
    uris = {**task.uris, "output": task.output_uri(context)}
    command = ["captionflow", task.step.name, *options(uris), *task.parameters(context).to_options()]
    # Kubernetes would put a variable of the container in its place, which may be a secret.
    if expanded := [option for option in command if "$(" in option]:
        raise InvalidInputError(f"{expanded[0]}: holds '$(', which a container's command may not; leave it out")
    return command


def artifact_of(task: StepTask, context: Context) -> str:
    """Return the URI of the artifact that the container made; it may have written to a folder of its own.

    Raises:
        AirflowFailException: there is none.
    """
    from captionflow.core.artifact import open_artifact  # asks for more than a DAG file needs

    with no_retry_in_vain():
        return open_artifact(task.output_uri(context)).uri


def bad_input() -> AirflowFailException:
    """Return the error of a container whose command ended with the exit code of bad input: a retry is in vain."""
    return AirflowFailException("The input or a parameter is bad; the container's log says which.")


def environment() -> dict[str, str]:
    """Return the container's environment variables; no secrets, which a pod or a job would show to many."""
    from captionflow.core.uris import SCHEMES_VARIABLE  # asks for more than a DAG file needs

    names = [SCHEMES_VARIABLE]
    server = urlsplit(os.environ.get("MLFLOW_TRACKING_URI", ""))
    if server.scheme in ("http", "https") and not (server.username or server.password):
        names += ["MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"]
    elif any(server):
        _LOG.warning("MLFLOW_TRACKING_URI names no server, or holds a password: the container does not receive it")
    return {name: os.environ[name] for name in names if os.environ.get(name)}
