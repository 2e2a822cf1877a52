"""A step run as a custom job of Vertex AI.

The provider's hook and trigger do it. Its operator adds nothing to them but seven seconds of imports to each parsing
of the DAG file.
"""

import logging
import re
from typing import Any

from airflow.providers.common.compat.sdk import AirflowException
from airflow.sdk import Context

from captionflow.airflow.containers import POLL_SECONDS, artifact_of, bad_input, command_of, environment
from captionflow.airflow.form import no_retry_in_vain
from captionflow.airflow.placement import CONNECTION, PlaceParameters
from captionflow.airflow.step_task import StepTask
from captionflow.core.errors import InvalidInputError

_LOG = logging.getLogger(__name__)
_DISPLAY_NAME_LENGTH = 128  # as long as Vertex AI takes
_BAD_INPUT = re.compile(rf"non-zero status of {InvalidInputError.exit_code}\b")


class VertexStepOperator(StepTask):
    """A step run as a custom job of Vertex AI; the worker is free until the job has ended."""

    def __init__(self, *, place: PlaceParameters, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.place = place
        self._hook: Any = None

    def execute(self, context: Context) -> None:
        """Start the job and let go of the worker."""
        from airflow.providers.google.cloud.hooks.vertex_ai.custom_job import CustomJobHook
        from airflow.providers.google.cloud.triggers.vertex_ai import CustomContainerTrainingJobTrigger

        with no_retry_in_vain():
            command = command_of(self, context)
        place, self._hook = self.place, CustomJobHook(gcp_conn_id=CONNECTION)
        gpus: dict[str, Any] = (
            {"accelerator_type": place.vertex_accelerator, "accelerator_count": place.train_gpus}
            if place.train_gpus
            else {}
        )
        job = self._hook.submit_custom_container_training_job(
            display_name=f"captionflow-{self.task_id} {context['run_id']}"[:_DISPLAY_NAME_LENGTH],
            project_id=place.vertex_project,
            region=place.vertex_region,
            staging_bucket=place.vertex_staging_bucket,
            container_uri=place.train_image,
            command=command,
            environment_variables=environment(),
            machine_type=place.vertex_machine_type,
            service_account=place.vertex_service_account,
            **gpus,
        )
        job.wait_for_resource_creation()
        _LOG.info("Vertex AI runs it as training pipeline %s", job.name)
        self.defer(
            trigger=CustomContainerTrainingJobTrigger(
                conn_id=CONNECTION,
                project_id=str(place.vertex_project),
                location=str(place.vertex_region),
                job_id=job.name,
                poll_interval=POLL_SECONDS,
            ),
            method_name="execute_complete",
        )

    def execute_complete(self, context: Context, event: dict[str, Any]) -> str:
        """Go on when the job has ended."""
        if event["status"] == "error":
            # Vertex AI has the exit code in its message alone.
            error = ((event.get("job") or {}).get("error") or {}).get("message", "")
            if error:
                _LOG.error("%s", error)
            if _BAD_INPUT.search(error):
                raise bad_input()
            raise AirflowException(event["message"])
        return artifact_of(self, context)

    def on_kill(self) -> None:
        """Cancel the job, as long as the task has not let go of the worker."""
        if self._hook:
            self._hook.cancel_job()
