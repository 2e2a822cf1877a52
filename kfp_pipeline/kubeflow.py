"""Submit to Kubeflow Pipelines 2, and wait for the end."""

import io
import json
import logging
import ssl
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict
from typing import Any

import kfp
from kfp_server_api import ApiException
from urllib3.exceptions import HTTPError

from captionflow.errors import InvalidInputError, StepFailedError
from kfp_pipeline.parameters import KubeflowParameters
from kfp_pipeline.submission import Submission

_LOG = logging.getLogger(__name__)

_ENDED = ("SUCCEEDED", "FAILED", "SKIPPED", "CANCELED")
_SECONDS_BETWEEN_LOOKS = 5
_LOOKS_THAT_MAY_FAIL = 5


class _Client(kfp.Client):  # type: ignore[misc]
    def get_kfp_healthz(self, sleep_duration: int = 5) -> Any:
        """Ask once; the SDK asks five times, with a traceback for each."""
        return self._healthz_api.healthz_service_get_healthz()


class Kubeflow:
    """A Kubeflow Pipelines service, as a `Service`."""

    def __init__(self, parameters: KubeflowParameters) -> None:
        if not parameters.host:
            raise InvalidInputError("--host: say where Kubeflow Pipelines is, or choose --vertex")
        self._host = parameters.host.rstrip("/")
        self._experiment = parameters.experiment
        self._run_id = ""
        given = {name: value for name, value in asdict(parameters).items() if value is not None}
        del given["experiment"]
        with self._in_one_line(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            self._client = _Client(**given)

    def submit(self, submission: Submission) -> None:
        """Start a run."""
        with self._in_one_line(), redirect_stdout(io.StringIO()):
            run = self._client.create_run_from_pipeline_package(
                submission.file,
                submission.arguments,
                run_name=submission.run_name,
                experiment_name=self._experiment,
            )
        self._run_id = run.run_id

    @property
    def url(self) -> str:
        """Where the run is seen in a browser."""
        return f"{self._host}/#/runs/details/{self._run_id}"

    def wait(self) -> None:
        """Wait for the end of the run; the states it goes through are logged."""
        state = None
        while state not in _ENDED:
            if state:
                time.sleep(_SECONDS_BETWEEN_LOOKS)
            run = self._look()
            if run.state != state:
                _LOG.info("kubeflow: %s", run.state.lower() if run.state else "not begun")
            state = run.state or "PENDING"
        if state != "SUCCEEDED":
            raise StepFailedError(f"the run ended as {state.lower()}{_failures(run)}; see {self.url}")

    def _look(self) -> Any:
        for left in reversed(range(_LOOKS_THAT_MAY_FAIL)):
            try:
                with self._in_one_line():
                    return self._client.get_run(self._run_id)
            except _PassingError as error:
                if not left:
                    raise
                _LOG.info("kubeflow: %s; trying again", error)
                time.sleep(_SECONDS_BETWEEN_LOOKS)
        raise AssertionError

    @contextmanager
    def _in_one_line(self) -> Iterator[None]:
        try:
            yield
        except ApiException as error:
            raise self._refusal(error) from error
        except (HTTPError, OSError, ssl.SSLError) as error:
            reason = getattr(error, "reason", None) or error
            raise _PassingError(f"--host: {self._host} cannot be reached: {_first_line(reason)}") from error
        except (ValueError, TypeError, AttributeError) as error:
            # A proxy's login page, for one.
            raise InvalidInputError(
                f"--host: {self._host} answers, but not as Kubeflow Pipelines 2 does; is a login needed?"
            ) from error

    def _refusal(self, error: ApiException) -> InvalidInputError:
        said = _message(error.body) or str(error.reason)
        if error.status in (401, 403):
            return InvalidInputError(
                f"--host: {self._host} refuses with {error.status} ({said}); give a valid token, cookie or namespace"
            )
        if error.status == 404:
            return InvalidInputError(f"--host: {self._host} has no Kubeflow Pipelines API 2 (404: {said})")
        kind = _PassingError if error.status == 0 or error.status >= 500 else InvalidInputError
        return kind(f"{self._host} answers {error.status}: {said}")


class _PassingError(InvalidInputError):
    """What may be otherwise in a moment."""


def _first_line(error: object) -> str:
    return str(error).splitlines()[0].rpartition(": ")[2] if str(error) else type(error).__name__


def _message(body: str | bytes | None) -> str:
    """Return what the service itself says of an error, if it does so in its own form."""
    try:
        content = json.loads(body or "")
        return _first_line(content.get("message") or content.get("error") or "")
    except (ValueError, AttributeError):
        return ""


def _failures(run: Any) -> str:
    tasks = (run.run_details and run.run_details.task_details) or []
    failed = [
        f"{task.display_name}{': ' + _first_line(task.error.message) if task.error and task.error.message else ''}"
        for task in tasks
        if task.state == "FAILED"
    ]
    return f" ({', '.join(failed)})" if failed else ""
