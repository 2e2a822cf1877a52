"""Vertex AI Pipelines as a service."""

from collections.abc import Iterator
from contextlib import contextmanager

from google.api_core.client_options import ClientOptions
from google.api_core.exceptions import GoogleAPICallError, RetryError, ServerError, TooManyRequests
from google.auth.exceptions import GoogleAuthError, TransportError
from google.cloud.aiplatform_v1 import PipelineJob, PipelineServiceClient

from captionflow.core.errors import InvalidInputError
from kfp_pipeline.parameters import VertexParameters
from kfp_pipeline.service import PassingError, RunState, Service, first_line
from kfp_pipeline.submission import Submission


class Vertex(Service):
    """Vertex AI Pipelines, asked through REST, which goes through the proxies that gRPC does not."""

    def __init__(self, parameters: VertexParameters) -> None:
        if not (parameters.project and parameters.region):
            raise InvalidInputError("--vertex: needs --project and --region")
        self._parameters = parameters
        self._name = ""
        endpoint = parameters.api_endpoint or f"{parameters.region}-aiplatform.googleapis.com"
        with _in_one_line():
            self._client = PipelineServiceClient(transport="rest", client_options=ClientOptions(api_endpoint=endpoint))

    def submit(self, submission: Submission) -> None:
        """Start a run."""
        where = self._parameters
        root = where.pipeline_root or submission.pipeline_root
        if not root:
            raise InvalidInputError("--vertex: needs --pipeline-root")
        job = PipelineJob(
            display_name=submission.run_name,
            pipeline_spec=submission.spec,
            runtime_config={"gcs_output_directory": root, "parameter_values": submission.arguments},
            service_account=where.service_account,
        )
        with _in_one_line():
            made = self._client.create_pipeline_job(
                parent=f"projects/{where.project}/locations/{where.region}", pipeline_job=job
            )
        self._name = made.name

    @property
    def url(self) -> str:
        """Where the run is seen in a browser."""
        where = self._parameters
        run = f"locations/{where.region}/pipelines/runs/{self._name.rpartition('/')[2]}"
        return f"https://console.cloud.google.com/vertex-ai/{run}?project={where.project}"

    def look(self) -> RunState:
        """Ask how the run is."""
        with _in_one_line():
            job = self._client.get_pipeline_job(name=self._name)
        return RunState(job.state.name.removeprefix("PIPELINE_STATE_").lower(), job.error.message)


@contextmanager
def _in_one_line() -> Iterator[None]:
    try:
        yield
    except (ServerError, TooManyRequests, RetryError, TransportError, OSError) as error:
        raise PassingError(f"--vertex: {_said(error)}") from error
    except (GoogleAPICallError, GoogleAuthError) as error:
        raise InvalidInputError(f"--vertex: {_said(error)}") from error


def _said(error: Exception) -> str:
    return first_line(getattr(error, "message", None) or error)
