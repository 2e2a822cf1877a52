"""A step run by Airflow's worker itself."""

from typing import Any

from airflow.sdk import Context

from captionflow.airflow.form import no_retry_in_vain
from captionflow.airflow.run_checks import check_run
from captionflow.airflow.step_task import StepTask
from captionflow.core.errors import InvalidInputError
from captionflow.core.parameters import Parameters, variable
from captionflow.core.steps import TRAINING, Step


class StepOperator(StepTask):
    """A step run by Airflow's worker itself. A step without inputs, the first of a run, checks for all that follow."""

    def execute(self, context: Context) -> str:
        """Run the step."""
        with no_retry_in_vain():
            if not self.step.inputs:
                check_run(context)
            return run_here(self.step, self.uris, self.output_uri(context), self.parameters(context))


def run_here(step: Step, uris: dict[str, Any], output: str, parameters: Parameters) -> str:
    """Run a step in this process; returns the URI of its artifact.

    Raises:
        InvalidInputError: what the step needs is not installed here.
    """
    try:
        step.load()
    except ModuleNotFoundError as error:
        elsewhere = f", or set {variable('train_on')}" if step.runs_in == TRAINING else ""
        raise InvalidInputError(
            f"{step.name}: this worker has no {error.name}; install CaptionFlow's extra {step.extra!r} on it{elsewhere}"
        ) from error
    return step.run(uris, output, parameters)
