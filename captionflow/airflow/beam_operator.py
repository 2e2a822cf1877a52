"""A Beam task: a process beside the task that ends with it, or on Dataflow one job a run.

That job is named after the run, found again by a retry, cancelled with its task. The
triggerer, which waits for it, imports this module as well.
"""

import asyncio
import hashlib
import re
import time
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus
from typing import Any, NoReturn

from airflow.providers.apache.beam.hooks.beam import BeamHook, BeamRunnerType, beam_options_to_args
from airflow.providers.apache.beam.operators.beam import BeamRunPythonPipelineOperator
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException
from airflow.providers.google.cloud.hooks.dataflow import (
    DataflowHook,
    DataflowJobStatus,
    process_line_and_extract_dataflow_job_id_callback,
)
from airflow.providers.google.cloud.links.dataflow import DataflowJobLink
from airflow.providers.google.cloud.triggers.dataflow import DataflowJobStateCompleteTrigger
from airflow.sdk import Context
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
from airflow.triggers.base import BaseTrigger, TriggerEvent
from airflow.utils.state import State
from asgiref.sync import sync_to_async
from googleapiclient.errors import HttpError

from captionflow.airflow.local_job import LocalJob
from captionflow.airflow.plain_text import PlainText

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
    digest = hashlib.sha256(f"{dag_id} {run_id}".encode()).hexdigest()[:8]
    return "-".join(part for part in ("captionflow", label(dag_id), label(run_id), digest) if part)


def running_job(hook: DataflowHook, project: str, region: str, name: str) -> str | None:
    """Return the id of the job of that name that is still at work.

    Raises:
        googleapiclient.errors.HttpError: Dataflow answers with an error.
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
        googleapiclient.errors.HttpError: Dataflow answers with an error.
    """
    jobs = hook.get_conn().projects().locations().jobs()
    try:
        job = jobs.get(projectId=project, location=region, jobId=job_id).execute(num_retries=hook.num_retries)
    except HttpError as error:
        if error.status_code in (HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND):
            return None
        raise
    return str(job["name"])


def _is_dataflow(runner: str) -> bool:
    return bool(runner.lower() == BeamRunnerType.DataflowRunner.lower())


class LocalBeamHook(BeamHook):
    """The provider's hook, whose pipelines cannot hang and can be ended."""

    def __init__(self, runner: str) -> None:
        super().__init__(runner)
        self._job = LocalJob(self.log)

    def _start_pipeline(
        self,
        variables: dict[str, Any],
        command_prefix: list[str],
        process_line_callback: Callable[[str], None] | None = None,
        working_directory: str | None = None,
        is_dataflow_job_id_exist_callback: Callable[[], bool] | None = None,
    ) -> None:
        """Run what starts the pipeline, to its end or until there is a job on Dataflow.

        In place of `run_beam_command` in airflow/providers/apache/beam/hooks/beam.py (apache-beam 6.3.1), which reads
        all of stderr before stdout, so that a job which writes much to both waits for ever, and keeps no hold on it.
        """
        command = [*command_prefix, f"--runner={self.runner}", *beam_options_to_args(variables)]
        self._job.run(
            command,
            on_line=process_line_callback,
            on_error_line=process_line_callback,
            until=is_dataflow_job_id_exist_callback,
        )

    def kill(self) -> None:
        """End the pipeline's process group; one that is yet to come will not begin."""
        self._job.kill()


class BeamOperator(PlainText, BeamRunPythonPipelineOperator):
    """The provider's operator; on Dataflow it attaches to its run's job, and waits in the triggerer.

    Elsewhere the job is a process beside the task, which ends with it.

    Args:
        deferrable: refused off Dataflow: it would have the triggerer do the job's work. On Dataflow it changes nothing,
            and Airflow's setting `default_deferrable` changes nothing anywhere.
    """

    def __init__(self, *, deferrable: bool = False, **arguments: Any) -> None:
        super().__init__(deferrable=deferrable, **arguments)

    def _cast_dataflow_config(self) -> None:
        # The provider's makes one where there is none, and then warns that there is one.
        if self.dataflow_config or _is_dataflow(self.runner):
            super()._cast_dataflow_config()  # type: ignore[no-untyped-call]  # as the provider has it

    def _init_pipeline_options(self, *arguments: Any, **named: Any) -> Any:
        if self.deferrable and not _is_dataflow(self.runner):
            raise AirflowFailException(
                f"deferrable: the triggerer cannot wait for {self.runner}; leave it out, or run on DataflowRunner"
            )
        options = super()._init_pipeline_options(*arguments, **named)
        self.beam_hook = LocalBeamHook(self.runner)
        return options

    def on_kill(self) -> None:
        """End the process that does the job or submits it, and cancel a job on Dataflow."""
        if isinstance(hook := getattr(self, "beam_hook", None), LocalBeamHook):
            hook.kill()
        name = getattr(self, "dataflow_job_name", None)
        if self.dataflow_hook and name and not self.dataflow_job_id:  # Perhaps submitted already, its id not yet read.
            self.dataflow_job_id = running_job(*self._dataflow, name)
        super().on_kill()

    @property
    def _dataflow(self) -> tuple[DataflowHook, str, str]:
        """What speaks to Dataflow, the project and the region."""
        config: Any = self.dataflow_config
        assert self.dataflow_hook
        return self.dataflow_hook, config.project_id, config.location

    def execute_on_dataflow(self, context: Context) -> NoReturn:
        """Submit the job, unless an earlier try has, and wait for its end without holding a worker's slot."""
        _, project, region = self._dataflow
        earlier = running_job(*self._dataflow, str(self.dataflow_job_name))
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
            raise AirflowException("Beam ended without printing the id of a Dataflow job")
        DataflowJobLink.persist(context=context, project_id=project, region=region, job_id=self.dataflow_job_id)
        trigger = DataflowJobTrigger(
            job_id=self.dataflow_job_id,
            project_id=project,
            location=region,
            wait_until_finished=True,
            gcp_conn_id=self.gcp_conn_id,
            poll_sleep=self.dataflow_config.poll_sleep,
            until=self._time_is_up(context),
        )
        self.defer(trigger=trigger, method_name="execute_complete")

    def _time_is_up(self, context: Context) -> float | None:
        """Return when the task runs out of time. Airflow 3 does not look at that while a task waits."""
        start = context["ti"].start_date
        return (start + self.execution_timeout).timestamp() if start and self.execution_timeout else None

    def _take_job(self, job_id: str) -> None:
        """Believe a job's id in the launcher's output if the job has this run's name: it may repeat the form's text."""
        if name_of(*self._dataflow, job_id) == self.dataflow_job_name:
            self.dataflow_job_id = job_id

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Take over when the job has ended; one that somebody cancelled is not begun again."""
        if DataflowJobStatus.JOB_STATE_CANCELLED in event["message"]:
            raise AirflowFailException(event["message"])
        super().execute_complete(context, event)


class DataflowJobTrigger(DataflowJobStateCompleteTrigger):
    """Waits for the end of a job, and cancels it when its task is marked as ended meanwhile, or runs out of time.

    A task that is cleared leaves the job to its next try, which attaches to it.

    Args:
        until: the task's last moment, in seconds since 1970.
    """

    def __init__(self, *, until: float | None = None, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.until = until

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Tell the triggerer how to make this trigger again."""
        _, arguments = super().serialize()
        return f"{__name__}.{type(self).__name__}", {**arguments, "until": self.until}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield one event when the job has ended."""
        try:
            async with asyncio.timeout(None if self.until is None else max(0, self.until - time.time())):
                event: TriggerEvent = await anext(super().run())  # type: ignore[no-untyped-call]  # as the provider has it
        except TimeoutError:
            await sync_to_async(self._cancel)()
            event = TriggerEvent(
                {"status": "error", "message": f"Job {self.job_id} was cancelled: the task ran out of time"}
            )
        except asyncio.CancelledError:
            if not hasattr(BaseTrigger, "on_kill"):  # which Airflow calls from 3.3 on
                await self.on_kill()
            raise
        yield event

    async def on_kill(self) -> None:
        """Cancel the job if its task has ended or is gone; a stopped triggerer leaves the wait to the next one."""
        if await sync_to_async(self._task_has_ended)():
            self.log.info("The task was ended; cancelling job %s", self.job_id)
            await sync_to_async(self._cancel)()

    def _task_has_ended(self) -> bool:
        task: Any = self.task_instance
        states = RuntimeTaskInstance.get_task_states(
            dag_id=task.dag_id, task_ids=[task.task_id], run_ids=[task.run_id], map_index=task.map_index
        )
        found = states.get(task.run_id, {}).values()
        return not found or any(state in State.finished for state in found)

    def _cancel(self) -> None:
        hook = DataflowHook(gcp_conn_id=self.gcp_conn_id, cancel_timeout=None)
        hook.cancel_job(job_id=self.job_id, project_id=self.project_id, location=self.location)
