"""What the first task of a run checks for all that follow."""

from airflow.sdk import Context

from captionflow.airflow.form import artifact, check_conf, read
from captionflow.airflow.preprocess_operator import job_options
from captionflow.airflow.step_operator import SETTINGS, PlaceParameters
from captionflow.captioner.parameters import TrainParameters
from captionflow.core.errors import InvalidInputError
from captionflow.core.steps import EVALUATION
from captionflow.evaluation.parameters import EvaluateParameters
from captionflow.preprocess.parameters import PreprocessParameters, ReuseParameters
from captionflow.sources.parameters import IngestParameters


def check_run(context: Context) -> None:
    """Tell at once what a later task would fail on, perhaps after hours.

    Raises:
        InvalidInputError: a parameter of a step, or a setting of the deployment, cannot be used.
    """
    check_conf(context, SETTINGS)
    split = read(PreprocessParameters, context)
    if not all(split.split_fractions):
        raise InvalidInputError(f"--split: {split.split} leaves a part empty; training and evaluation need all three")
    for parameters in (IngestParameters, ReuseParameters, TrainParameters, EvaluateParameters):
        read(parameters, context)
    artifact(context, EVALUATION)
    job_options(context)
    PlaceParameters.from_environment()
