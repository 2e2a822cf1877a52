"""Submit to Vertex AI Pipelines, and wait for the end."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from google.api_core.exceptions import GoogleAPICallError, RetryError
from google.auth.exceptions import GoogleAuthError
from google.cloud import aiplatform

from captionflow.errors import CaptionFlowError, InvalidInputError, StepFailedError
from kfp_pipeline.parameters import VertexParameters
from kfp_pipeline.submission import Submission


class Vertex:
    """Vertex AI Pipelines, as a `Service`."""

    def __init__(self, parameters: VertexParameters) -> None:
        if not (parameters.project and parameters.region and parameters.pipeline_root):
            raise InvalidInputError("--vertex: needs --project, --region and --pipeline-root")
        self._parameters = parameters
        self._job: Any = None
        # It tells at length what to type in Python.
        logging.getLogger("google.cloud.aiplatform").setLevel(logging.CRITICAL)

    def submit(self, submission: Submission) -> None:
        """Start a run."""
        where = self._parameters
        with _in_one_line():
            # REST goes through the proxies that gRPC does not.
            aiplatform.init(
                project=where.project, location=where.region, api_endpoint=where.api_endpoint, api_transport="rest"
            )
            self._job = aiplatform.PipelineJob(
                display_name=submission.run_name,
                template_path=submission.file,
                pipeline_root=where.pipeline_root,
                parameter_values=submission.arguments,
            )
            self._job.submit(service_account=where.service_account)

    @property
    def url(self) -> str:
        """Where the run is seen in a browser."""
        return str(self._job._dashboard_uri())

    def wait(self) -> None:
        """Wait for the end of the run."""
        with _in_one_line():
            try:
                self._job.wait()
            except RuntimeError as error:
                state = self._job.state.name.removeprefix("PIPELINE_STATE_").lower()
                said = f" ({self._job.error.message})" if self._job.error else ""
                raise StepFailedError(f"the run ended as {state}{said}; see {self.url}") from error


@contextmanager
def _in_one_line() -> Iterator[None]:
    try:
        yield
    except CaptionFlowError:
        raise
    except (GoogleAPICallError, RetryError, GoogleAuthError, OSError, ValueError) as error:
        said = getattr(error, "message", None) or str(error)
        raise InvalidInputError(f"--vertex: {said.strip().splitlines()[0]}") from error
