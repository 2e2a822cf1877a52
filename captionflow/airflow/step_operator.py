"""A step run by Airflow's worker itself."""

from airflow.sdk import Context

from captionflow.airflow.form import no_retry_in_vain
from captionflow.airflow.run_checks import check_run
from captionflow.airflow.step_task import StepTask
from captionflow.core.errors import InvalidInputError
from captionflow.core.parameters import variable
from captionflow.core.steps import TRAINING


class StepOperator(StepTask):
    """A step run by Airflow's worker itself. A step without inputs, the first of a run, checks for all that follow."""

    def execute(self, context: Context) -> str:
        """Run the step."""
        with no_retry_in_vain():
            if not self.step.inputs:
                check_run(context)
            output, parameters = self.output_uri(context), self.parameters(context)
            try:
                self.step.load()
            except ModuleNotFoundError as error:
                elsewhere = f", or set {variable('train_on')}" if self.step.runs_in == TRAINING else ""
                raise InvalidInputError(
                    f"{self.task_id}: this worker has no {error.name}; install CaptionFlow's extra {self.step.extra!r} "
                    f"on it{elsewhere}"
                ) from error
            return self.step.run(self.uris, output, parameters)
