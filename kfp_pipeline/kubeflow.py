"""Kubeflow Pipelines 2 as a service."""

import io
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict
from tempfile import NamedTemporaryFile
from typing import Any

import kfp
from google.auth.exceptions import GoogleAuthError
from kfp_server_api import ApiException
from urllib3.exceptions import HTTPError

from captionflow.core.errors import InvalidInputError
from kfp_pipeline.parameters import KubeflowParameters
from kfp_pipeline.service import RunState, Service, TransientError, first_line
from kfp_pipeline.submission import Submission


class _Client(kfp.Client):  # type: ignore[misc]
    def get_kfp_healthz(self, sleep_duration: int = 5) -> Any:
        """Ask once; the SDK would ask five times and print a traceback for each."""
        return self._healthz_api.healthz_service_get_healthz()


class Kubeflow(Service):
    """A Kubeflow Pipelines API server."""

    def __init__(self, parameters: KubeflowParameters) -> None:
        if not parameters.host:
            raise InvalidInputError("--host: say where Kubeflow Pipelines is, or choose --vertex")
        if not parameters.host.startswith(("http://", "https://")):
            raise InvalidInputError(f"--host: {parameters.host}: begin it with http:// or https://")
        self._host = parameters.host.rstrip("/")
        self._experiment = parameters.experiment
        self._run_id = ""
        self._tasks: set[str] = set()
        options = {name: value for name, value in asdict(parameters).items() if value is not None}
        del options["experiment"]
        with self._translated_errors(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            self._client = _Client(**options)

    def submit(self, submission: Submission) -> None:
        """Start a run."""
        # The SDK reads a pipeline from a file alone, and the file must not hold a whole job.
        with NamedTemporaryFile("w", suffix=".yaml") as file, redirect_stdout(io.StringIO()), self._translated_errors():
            json.dump(submission.spec, file)
            file.flush()
            run = self._client.create_run_from_pipeline_package(
                file.name,
                submission.arguments,
                run_name=submission.run_name,
                experiment_name=self._experiment,
                pipeline_root=submission.pipeline_root,
            )
            if not run.run_id:
                raise ValueError("the SDK accepts any answer as a run")
        self._run_id, self._tasks = run.run_id, submission.tasks

    @property
    def url(self) -> str:
        """The page of the run."""
        return f"{self._host}/#/runs/details/{self._run_id}"

    def state(self) -> RunState:
        """Ask for the state of the run and, if it failed, for the tasks that did."""
        with self._translated_errors():
            run = self._client.get_run(self._run_id)
        tasks = (run.run_details and run.run_details.task_details) or []
        # Kubeflow lists its own pods beside the pipeline's tasks.
        failed = [_failure(task) for task in tasks if task.state == "FAILED" and task.display_name in self._tasks]
        return RunState((run.state or "not begun").lower(), ", ".join(failed))

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        try:
            yield
        except ApiException as error:
            raise self._refusal(error) from error
        except (HTTPError, OSError) as error:
            reason = first_line(getattr(error, "reason", None) or error).rpartition(": ")[2]
            raise TransientError(f"--host: {self._host} cannot be reached: {reason}") from error
        except GoogleAuthError as error:
            raise InvalidInputError(f"--client-id: {first_line(error)}") from error
        except (ValueError, TypeError, AttributeError) as error:
            # The login page of a proxy, for example.
            raise InvalidInputError(
                f"--host: {self._host} answers, but not as Kubeflow Pipelines 2 does; is a login needed?"
            ) from error

    def _refusal(self, error: ApiException) -> InvalidInputError:
        message = _message(error.body) or first_line(error.reason)
        if error.status in (401, 403):
            return InvalidInputError(
                f"--host: {self._host} refuses with {error.status} ({message}); give a valid token, cookie or namespace"
            )
        if error.status == 404:
            return InvalidInputError(f"--host: {self._host} has no Kubeflow Pipelines API 2 (404: {message})")
        kind = TransientError if error.status == 0 or error.status >= 500 else InvalidInputError
        return kind(f"--host: {self._host} answers {error.status}: {message}")


def _message(body: str | bytes | None) -> str:
    """Return the message in the body of an error; empty if the body is not in the service's form."""
    try:
        return first_line(json.loads(body or "")["message"])
    except (ValueError, TypeError, KeyError):
        return ""


def _failure(task: Any) -> str:
    reason = f": {first_line(task.error.message)}" if task.error and task.error.message else ""
    return f"{task.display_name}{reason}"
