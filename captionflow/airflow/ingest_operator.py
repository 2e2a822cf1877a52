"""The step ingest as a task: in the worker, or as a Beam job if the run's form names a runner for it."""

from dataclasses import replace

from airflow.sdk import Context

from beam_jobs.parameters import NO_RUNNER, IngestJobParameters
from captionflow.airflow.beam_step_operator import BeamStepOperator
from captionflow.airflow.form import no_retry_in_vain
from captionflow.airflow.run_checks import check_run
from captionflow.airflow.step_operator import run_here


class IngestOperator(BeamStepOperator):
    """Runs ingest. As the first task of a run it checks for all that follow."""

    runner_field = "ingest_runner"

    def execute(self, context: Context) -> str:
        """Check the run, and read the sources."""
        with no_retry_in_vain():
            check_run(context)
            given = self.parameters(context)
            assert isinstance(given, IngestJobParameters)
            if given.ingest_runner == NO_RUNNER:
                # The form's options are then those of the preprocess job.
                here = replace(given, beam_options=())
                return run_here(self.step, self.uris, self.output_uri(context), here)
        return super().execute(context)

    def job_name(self, context: Context) -> str:
        """Return another name than that of the run's preprocess job."""
        return f"{super().job_name(context)}-{self.step.name}"

    def _options(self, context: Context) -> dict[str, str]:
        return {**super()._options(context), "ingest-runner": self.runner}
