"""What the first task of a run checks for all that follow."""

from airflow.sdk import Context

from beam_jobs.parameters import NO_RUNNER, IngestRunnerParameters, RunnerParameters
from captionflow.airflow.beam_options import job_options
from captionflow.airflow.form import artifact, check_conf, read
from captionflow.airflow.placement import SETTINGS
from captionflow.core.errors import InvalidInputError
from captionflow.core.steps import workflow
from captionflow.preprocess.parameters import ShardParameters


def check_run(context: Context) -> None:
    """Fail at once on what a later task would fail on, perhaps after hours.

    Raises:
        InvalidInputError: a parameter of a step, or a setting of the deployment, cannot be used.
    """
    check_conf(context, SETTINGS)
    split = read(ShardParameters, context)
    if not all(split.split_fractions):
        raise InvalidInputError(f"--split: {split.split} leaves a part empty; training and evaluation need all three")
    for step in workflow():
        read(step.parameters_class, context)
        artifact(context, step.output)
    runners = read(RunnerParameters, context).runner, read(IngestRunnerParameters, context).ingest_runner
    for runner in dict.fromkeys(runners):
        if runner != NO_RUNNER:
            job_options(context, runner)
