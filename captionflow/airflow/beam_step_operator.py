"""A step that is a Beam job as a Beam task, which takes its options from the run's form and from the deployment."""

import sys
from importlib.resources import files
from typing import Any

from airflow.sdk import Context

from beam_jobs.parameters import DATAFLOW, DataflowParameters
from captionflow.airflow.beam_operator import BeamOperator, job_name, label
from captionflow.airflow.beam_options import job_options
from captionflow.airflow.form import no_retry_in_vain
from captionflow.airflow.step_task import StepTask


class BeamStepOperator(StepTask, BeamOperator):
    """Runs the command of a step that is a Beam job.

    Attributes:
        runner_field: the field of the form that says where.
    """

    runner_field = "runner"
    operator_extra_links: Any = BeamOperator.operator_extra_links

    def __init__(self, **arguments: Any) -> None:
        super().__init__(
            py_file=str(files("captionflow.cli") / "beam_job.py"),
            # Its folder is no place to import from.
            py_options=["-P"],
            py_interpreter=sys.executable,
            **arguments,
        )

    def execute(self, context: Context) -> str:
        """Check the job's parameters, and run it."""
        with no_retry_in_vain():
            self.runner = context["params"][self.runner_field]
            # A task that is killed without warning cannot end its process; two jobs must not work on one artifact.
            self.default_pipeline_options = {**job_options(context, self.runner), "exit-with-parent": True}
            output = self.output_uri(context)
            self.pipeline_options = {"step": self.step.name, **self.uris, "output": output, **self._options(context)}
        if self.runner == DATAFLOW:
            self._name_job(context)
        super().execute(context)
        return self.output_uri(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> str:
        """Go on when the job has ended on Dataflow."""
        super().execute_complete(context, event)
        return self.output_uri(context)

    def job_name(self, context: Context) -> str:
        """Return the name of a job on Dataflow, by which a retry finds it again."""
        return job_name(context["dag"].dag_id, context["run_id"])

    def _options(self, context: Context) -> dict[str, str]:
        """Return the step's options by name, without those of Beam, which the provider's operator gives."""
        parameters = self.parameters(context)
        of_beam = {name for name, schema in parameters.json_schema().items() if schema.get("placement")}
        options = (option.removeprefix("--").split("=", 1) for option in parameters.to_options())
        return {name: value for name, value in options if name.replace("-", "_") not in of_beam}

    def _name_job(self, context: Context) -> None:
        """Give the Dataflow job the run's name and labels."""
        run = context["dag"].dag_id, context["run_id"]
        dataflow = DataflowParameters.from_environment()
        self.dataflow_config: Any = {
            "project_id": dataflow.gcp_project,
            "location": dataflow.region,
            "job_name": self.job_name(context),
            "append_job_name": False,
        }
        self.pipeline_options["labels"] = dict(zip(("airflow-dag", "airflow-run"), map(label, run), strict=True))
