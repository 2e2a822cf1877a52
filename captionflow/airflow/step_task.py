"""What every task of a step has, whichever operator runs it."""

from collections.abc import Collection, Sequence
from typing import Any

from airflow.sdk import BaseOperatorLink, Context

from captionflow.airflow.assets import announce, asset
from captionflow.airflow.form import artifact, check_conf, read
from captionflow.airflow.links import MlflowRunLink, ReportLink
from captionflow.airflow.placement import SETTINGS
from captionflow.airflow.plain_text import PlainText
from captionflow.core.parameters import Parameters
from captionflow.core.steps import Step


class StepTask(PlainText):
    """Base of the operators that run a step: the task has its name, and the XCom is the URI of its artifact.

    Args:
        step: a row of the table of steps.
        uris: the URIs of its inputs, by name.
    """

    template_fields: Sequence[str] = ("uris",)
    operator_extra_links: Collection[BaseOperatorLink] = (MlflowRunLink(), ReportLink())

    def __init__(self, *, step: Step, uris: dict[str, Any], **arguments: Any) -> None:
        super().__init__(task_id=step.name, outlets=[asset(step.output)], post_execute=announce, **arguments)
        self.step = step
        self.uris = uris

    def output_uri(self, context: Context) -> str:
        """Return the URI of the artifact that the task makes.

        Raises:
            InvalidInputError: it leads to where no run may reach.
        """
        return artifact(context, self.step.output)

    def parameters(self, context: Context) -> Parameters:
        """Return the step's parameters as the form gives them.

        Raises:
            InvalidInputError: one cannot be used, or the form has no such field.
        """
        check_conf(context, SETTINGS)
        return read(self.step.parameters_class, context)
