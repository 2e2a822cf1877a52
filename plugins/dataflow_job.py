"""A Beam task that is one Dataflow job a run: named after the run, found again by a retry, cancelled with its task.

Among the plugins, since the triggerer imports it as well; not itself one (.airflowignore).
"""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any, NoReturn

from airflow.providers.apache.beam.operators.beam import BeamRunPythonPipelineOperator
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException
from airflow.providers.google.cloud.hooks.dataflow import (
    DataflowHook,
    DataflowJobStatus,
    process_line_and_extract_dataflow_job_id_callback,
)
from airflow.providers.google.cloud.links.dataflow import DataflowJobLink
from airflow.providers.google.cloud.triggers.dataflow import DataflowJobStateCompleteTrigger
from airflow.sdk import Context, TaskInstanceState
from airflow.triggers.base import TriggerEvent
from googleapiclient.errors import HttpError
from plain_text import PlainText

_LABEL_LENGTH = 63  # https://cloud.google.com/resource-manager/docs/labels-overview#requirements
_ATTACHABLE = {
    DataflowJobStatus.JOB_STATE_PENDING,
    DataflowJobStatus.JOB_STATE_QUEUED,
    DataflowJobStatus.JOB_STATE_RUNNING,
}


def label(text: str) -> str:
    """Return `text` as a Google Cloud label may hold it: a-z, 0-9 and hyphens, 63 characters at most."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower())[:_LABEL_LENGTH].strip("-")


def job_name(dag_id: str, run_id: str) -> str:
    """Return the same Dataflow job name for every try of a run, and another for every other run."""
    told_apart = hashlib.sha256(f"{dag_id} {run_id}".encode()).hexdigest()[:8]
    return "-".join(part for part in ("captionflow", label(dag_id), label(run_id), told_apart) if part)


def running_job(hook: DataflowHook, project: str, region: str, name: str) -> str | None:
    """Return the id of the job of that name that is still at work.

    Raises:
        googleapiclient.errors.HttpError: Dataflow does not tell.
    """
    jobs = hook.get_conn().projects().locations().jobs()
    request = jobs.list(projectId=project, location=region, filter="ACTIVE", name=name)
    while request is not None:
        page = request.execute(num_retries=hook.num_retries)
        for job in page.get("jobs", []):
            if job["name"] == name and job["currentState"] in _ATTACHABLE:
                return str(job["id"])
        request = jobs.list_next(request, page)
    return None


def name_of(hook: DataflowHook, project: str, region: str, job_id: str) -> str | None:
    """Return the name of a job; None if there is none of that id.

    Raises:
        googleapiclient.errors.HttpError: Dataflow does not tell.
    """
    jobs = hook.get_conn().projects().locations().jobs()
    try:
        job = jobs.get(projectId=project, location=region, jobId=job_id).execute(num_retries=hook.num_retries)
    except HttpError as error:
        if error.status_code in (HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND):
            return None
        raise
    return str(job["name"])


class BeamOperator(PlainText, BeamRunPythonPipelineOperator):
    """The provider's operator; on Dataflow it attaches to its run's job, and waits in the triggerer."""

    def execute_on_dataflow(self, context: Context) -> NoReturn:
        """Submit the job, unless an earlier try has, and wait for its end without holding a worker's slot."""
        project, region = self.dataflow_config.project_id, self.dataflow_config.location
        earlier = running_job(self.dataflow_hook, project, region, self.dataflow_job_name)
        if earlier:
            self.log.info("An earlier try's job %s is at work; waiting for that one", earlier)
            self.dataflow_job_id = earlier
        else:
            self.beam_hook.start_python_pipeline(
                variables=self.snake_case_pipeline_options,
                py_file=self.py_file,
                py_options=self.py_options,
                py_interpreter=self.py_interpreter,
                process_line_callback=process_line_and_extract_dataflow_job_id_callback(self._take_job),
                is_dataflow_job_id_exist_callback=self.is_dataflow_job_id_exist_callback,
            )
        if not self.dataflow_job_id:
            raise AirflowException("Beam ended without telling the id of a Dataflow job")
        DataflowJobLink.persist(context=context, project_id=project, region=region, job_id=self.dataflow_job_id)
        trigger = DataflowJobTrigger(
            job_id=self.dataflow_job_id,
            project_id=project,
            location=region,
            wait_until_finished=True,
            gcp_conn_id=self.gcp_conn_id,
            poll_sleep=self.dataflow_config.poll_sleep,
        )
        self.defer(trigger=trigger, method_name="execute_complete")

    def _take_job(self, job_id: str) -> None:
        """Take a job that the launcher tells of for this run's if it is: what it prints may repeat text of the form."""
        place = self.dataflow_config.project_id, self.dataflow_config.location
        if name_of(self.dataflow_hook, *place, job_id) == self.dataflow_job_name:
            self.dataflow_job_id = job_id

    def execute_complete(self, context: Context, event: dict[str, Any]) -> None:
        """Take over when the job has ended; one that somebody cancelled is not begun again."""
        if DataflowJobStatus.JOB_STATE_CANCELLED in event["message"]:
            raise AirflowFailException(event["message"])
        super().execute_complete(context, event)


class DataflowJobTrigger(DataflowJobStateCompleteTrigger):
    """Waits for the end of a job, and cancels it when its task is stopped meanwhile."""

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Tell the triggerer how to make this trigger again."""
        _, arguments = super().serialize()
        return f"{__name__}.{type(self).__name__}", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield one event when the job has ended."""
        try:
            async for event in super().run():
                yield event
        except asyncio.CancelledError:
            # A triggerer that is stopped leaves the wait to the next one.
            if await asyncio.to_thread(self._task_is_stopped):
                self.log.info("The task was stopped; cancelling job %s", self.job_id)
                await asyncio.to_thread(self._cancel)
            raise

    def _task_is_stopped(self) -> bool:
        self.task_instance.refresh_from_db()
        return bool(self.task_instance.state != TaskInstanceState.DEFERRED)

    def _cancel(self) -> None:
        hook = DataflowHook(gcp_conn_id=self.gcp_conn_id, poll_sleep=self.poll_sleep)
        hook.cancel_job(job_id=self.job_id, project_id=self.project_id, location=self.location)
