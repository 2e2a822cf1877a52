"""The preprocess step as a Beam task, which takes its options from the run's form and from the deployment."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from airflow.providers.apache.beam.hooks.beam import beam_options_to_args
from airflow.sdk import Context
from airflow.sdk.bases.xcom import BaseXCom

import beam_jobs
from beam_jobs.dataflow import dataflow_options
from beam_jobs.parameters import DataflowParameters
from captionflow.airflow import beam_tuning
from captionflow.airflow.assets import announce, asset
from captionflow.airflow.beam_operator import BeamOperator, job_name, label
from captionflow.airflow.form import RootParameters, artifact, check_conf, no_retry_in_vain, read
from captionflow.airflow.step_operator import SETTINGS
from captionflow.core.errors import InvalidInputError
from captionflow.core.parameters import variable
from captionflow.core.steps import PREPROCESSED
from captionflow.preprocess.parameters import PreprocessParameters, ReuseParameters

DATAFLOW = "DataflowRunner"
_JOB = "captionflow.cli.preprocess_job"


class PreprocessOperator(BeamOperator):
    """Runs `captionflow preprocess`; its XCom is the URI of its artifact.

    Args:
        ingested: URI of the ingested artifact.
    """

    def __init__(self, *, ingested: Any, **arguments: Any) -> None:
        super().__init__(
            py_file=_file_of(_JOB),
            # Its folder is no place to import from.
            py_options=["-P"],
            py_interpreter=sys.executable,
            pipeline_options={"ingested": ingested},
            outlets=[asset(PREPROCESSED)],
            pre_execute=_prepare,
            post_execute=_publish,
            **arguments,
        )


def _prepare(context: Context) -> None:
    """Check the job's parameters before Beam starts, and give the task what the form says."""
    task: Any = context["task"]
    runner = context["params"]["runner"]
    with no_retry_in_vain():
        check_conf(context, SETTINGS)
        given = [*read(PreprocessParameters, context).to_options(), *read(ReuseParameters, context).to_options()]
        options = job_options(context)
        output = artifact(context, PREPROCESSED)
    # The job is a process of its own, and imports our packages too, from the DAGs folder where they are not installed.
    packages = str(Path(beam_jobs.__file__).parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [packages, os.environ.get("PYTHONPATH")]))
    task.runner = runner
    # A task that is killed without warning cannot end its process; two jobs must not work on one artifact.
    task.default_pipeline_options = {**options, "exit-with-parent": True}
    by_name = dict(option.removeprefix("--").split("=", 1) for option in given)
    task.pipeline_options = {"ingested": task.pipeline_options["ingested"], "output": output, **by_name}
    if runner == DATAFLOW:
        _name_job(context)


def _name_job(context: Context) -> None:
    """Give the Dataflow job the run's name and labels."""
    task: Any = context["task"]
    run = context["dag"].dag_id, context["run_id"]
    dataflow = DataflowParameters.from_environment()
    task.dataflow_config = {
        "project_id": dataflow.gcp_project,
        "location": dataflow.region,
        "job_name": job_name(*run),
        "append_job_name": False,
    }
    task.pipeline_options["labels"] = dict(zip(("airflow-dag", "airflow-run"), map(label, run), strict=True))


def _publish(context: Context, result: Any) -> None:
    """Make the URI of the artifact the task's XCom, in place of the provider's, and announce it."""
    task: Any = context["task"]
    uri = task.pipeline_options["output"]
    context["ti"].xcom_push(BaseXCom.XCOM_RETURN_KEY, uri)
    announce(context, uri)


def _file_of(module: str) -> str:
    """Return the file of a module, which is not imported."""
    return str(find_spec(module).origin)  # type: ignore[union-attr]


def job_options(context: Context) -> dict[str, Any]:
    """Return Beam's options for the job: those of the run that tune it, and the deployment's.

    Raises:
        InvalidInputError: one cannot be used, or what Dataflow needs is missing.
    """
    from beam_jobs.options import beam_options

    runner = context["params"]["runner"]
    options = beam_tuning.options_for(runner, "beam_options", context["params"]["beam_options"])
    if runner == DATAFLOW:
        options = _dataflow_options(read(RootParameters, context).artifact_root) | options
    beam_options([f"--runner={runner}", *beam_options_to_args(options)])
    return options


def _dataflow_options(artifact_root: str) -> dict[str, str]:
    """Return Beam's options for a Dataflow job, as the deployment says where it runs and as whom.

    Raises:
        InvalidInputError: Dataflow cannot do with what is given.
    """
    dataflow = DataflowParameters.from_environment()
    for name in ("region", "dataflow_staging_root"):
        if not getattr(dataflow, name):
            raise InvalidInputError(f"{variable(name)}: {DATAFLOW} needs it")
    if not artifact_root.startswith("gs://"):
        raise InvalidInputError(f"artifact_root: Dataflow's workers do not reach {artifact_root}, but gs://…")
    named = dataflow_options(dataflow)
    # The provider's operator gives these itself.
    return {name: value for name, value in named.items() if name not in ("project", "region")}
