"""Vertex AI Pipelines as a service."""

from collections.abc import Iterator
from contextlib import contextmanager

from google.api_core.client_options import ClientOptions
from google.api_core.exceptions import GoogleAPICallError, RetryError, ServerError, TooManyRequests
from google.auth.exceptions import GoogleAuthError, TransportError
from google.cloud.aiplatform_v1 import PipelineJob, PipelineServiceClient

from captionflow.core.errors import InvalidInputError
from kfp_pipeline.parameters import VertexParameters
from kfp_pipeline.service import RunState, Service, TransientError, first_line
from kfp_pipeline.submission import Submission


class Vertex(Service):
    """Vertex AI Pipelines, through REST: it passes proxies that gRPC does not."""

    def __init__(self, parameters: VertexParameters) -> None:
        if not (parameters.project and parameters.region):
            raise InvalidInputError("--vertex: needs --project and --region")
        self._parameters = parameters
        self._name = ""
        endpoint = parameters.api_endpoint or f"{parameters.region}-aiplatform.googleapis.com"
        with _translated_errors():
            self._client = PipelineServiceClient(transport="rest", client_options=ClientOptions(api_endpoint=endpoint))

    def submit(self, submission: Submission) -> None:
        """Start a run."""
        parameters = self._parameters
        root = parameters.pipeline_root or submission.pipeline_root
        if not root:
            raise InvalidInputError("--vertex: needs --pipeline-root")
        job = PipelineJob(
            display_name=submission.run_name,
            pipeline_spec=submission.spec,
            runtime_config={"gcs_output_directory": root, "parameter_values": submission.arguments},
            service_account=parameters.service_account,
        )
        with _translated_errors():
            created = self._client.create_pipeline_job(
                parent=f"projects/{parameters.project}/locations/{parameters.region}", pipeline_job=job
            )
        self._name = created.name

    @property
    def url(self) -> str:
        """The page of the run."""
        project, region = self._parameters.project, self._parameters.region
        run = f"locations/{region}/pipelines/runs/{self._name.rpartition('/')[2]}"
        return f"https://console.cloud.google.com/vertex-ai/{run}?project={project}"

    def state(self) -> RunState:
        """Ask for the state of the run."""
        with _translated_errors():
            job = self._client.get_pipeline_job(name=self._name)
        return RunState(job.state.name.removeprefix("PIPELINE_STATE_").lower(), job.error.message)


@contextmanager
def _translated_errors() -> Iterator[None]:
    try:
        yield
    except (ServerError, TooManyRequests, RetryError, TransportError, OSError) as error:
        raise TransientError(f"--vertex: {_message(error)}") from error
    except (GoogleAPICallError, GoogleAuthError) as error:
        raise InvalidInputError(f"--vertex: {_message(error)}") from error


def _message(error: Exception) -> str:
    return first_line(getattr(error, "message", None) or error)
