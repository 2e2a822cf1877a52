"""The table of steps as tasks of a DAG."""

from typing import Any

from airflow.sdk import BaseOperator

from captionflow.airflow.ingest_operator import IngestOperator
from captionflow.airflow.placement import KUBERNETES, VERTEX, PlaceParameters
from captionflow.airflow.preprocess_operator import PreprocessOperator
from captionflow.airflow.step_operator import StepOperator
from captionflow.core.steps import BEAM, TRAINING, WORKER_OR_BEAM, Step


def task_of(step: Step, uris: dict[str, Any]) -> BaseOperator:
    """Return the task that does a step, where the deployment runs steps of its kind.

    Args:
        uris: the URIs of its inputs, by name: outputs of other tasks.

    Raises:
        InvalidInputError: a setting of the deployment is missing or cannot be used.
    """
    if step.runs_in == WORKER_OR_BEAM:
        return IngestOperator(step=step, uris=uris)
    if step.runs_in == BEAM:
        return PreprocessOperator(step=step, uris=uris)
    if step.runs_in == TRAINING:
        return _training_task(step, uris)
    return StepOperator(step=step, uris=uris)


def _training_task(step: Step, uris: dict[str, Any]) -> BaseOperator:
    place = PlaceParameters.from_environment()
    # Each is imported only where it is used: the providers take seconds.
    if place.train_on == KUBERNETES:
        from captionflow.airflow.pod_operator import PodStepOperator

        return PodStepOperator(step=step, uris=uris, place=place)
    if place.train_on == VERTEX:
        from captionflow.airflow.vertex_operator import VertexStepOperator

        return VertexStepOperator(step=step, uris=uris, place=place)
    return StepOperator(step=step, uris=uris)
