"""The main job as an Airflow DAG: ingest → preprocess (an Apache Beam job) → train → evaluate.

Wiring only. What each task does is in `captionflow` and `beam_jobs`, imported when a task runs.
"""

import os
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from airflow.providers.apache.beam.hooks.beam import beam_options_to_args
from airflow.sdk import Context, Param, dag, get_current_context, task
from airflow.sdk.bases.xcom import BaseXCom
from announcement import announce, asset
from captionflow_links import MlflowRunLink, ReportLink
from dataflow_job import BeamOperator, job_name, label
from training_place import SETTINGS, PlaceParameters, StepOperator
from trigger_form import (
    DEFAULT_ARGS,
    SAMPLE,
    SAMPLE_IMAGES,
    RootParameters,
    artifact,
    check_conf,
    form,
    no_retry_in_vain,
    read,
)

import beam_jobs
from captionflow import beam_tuning
from captionflow.errors import InvalidInputError
from captionflow.kinds import EVALUATION, INGESTED, MODEL, PREPROCESSED
from captionflow.parameters import (
    BeamParameters,
    DataflowParameters,
    EvaluateParameters,
    IngestParameters,
    PreprocessParameters,
    ReuseParameters,
    TrainParameters,
    variable,
)

DATAFLOW = "DataflowRunner"


# Airflow shows the sections in the order of their first fields.
PARAMS = {
    "artifact_root": Param(**RootParameters.json_schema()["artifact_root"]),
    **form(
        IngestParameters,
        "1 Ingest",
        without=PreprocessParameters,
        sources=[f"{SAMPLE}/captions.json"],
        image_root=[SAMPLE_IMAGES],
    ),
    "runner": Param(**BeamParameters.json_schema()["beam_runner"], section="2 Preprocess"),
    "beam_options": Param(
        {},
        type="object",
        section="2 Preprocess",
        description='Beam options that tune the job, as JSON: {"direct_num_workers": 2, "direct_running_mode": '
        f'"multi_processing"}}. All others the deployment gives, in its variable {beam_tuning.VARIABLE}.',
    ),
    **form(PreprocessParameters, "2 Preprocess", allow_url_prefix=[SAMPLE_IMAGES]),
    **form(ReuseParameters, "2 Preprocess"),
    **form(TrainParameters, "3 Train"),
    **form(EvaluateParameters, "4 Evaluate"),
}


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


def prepare_beam(context: Context) -> None:
    """Check the job's parameters before Beam starts, and give the operator what the form says."""
    runner, task = context["params"]["runner"], context["task"]
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
        configure_dataflow(context)


def configure_dataflow(context: Context) -> None:
    """Give the job the run's name and labels."""
    task, run = context["task"], (context["dag"].dag_id, context["run_id"])
    dataflow = DataflowParameters.from_environment()
    task.dataflow_config = {
        "project_id": dataflow.gcp_project_id,
        "location": dataflow.region,
        "job_name": job_name(*run),
        "append_job_name": False,
    }
    task.pipeline_options["labels"] = dict(zip(("airflow-dag", "airflow-run"), map(label, run), strict=True))


def job_options(context: Context) -> dict[str, Any]:
    """Return Beam's options for the job: those of the run that tune it, and the deployment's.

    Raises:
        InvalidInputError: one cannot be used, or what Dataflow needs is missing.
    """
    from beam_jobs.preprocess import beam_options

    runner = context["params"]["runner"]
    options = beam_tuning.options_for(runner, "beam_options", context["params"]["beam_options"])
    if runner == DATAFLOW:
        options = dataflow_options(read(RootParameters, context).artifact_root) | options
    beam_options([f"--runner={runner}", *beam_options_to_args(options)])
    return options


def dataflow_options(artifact_root: str) -> dict[str, str]:
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
    named = {
        "temp_location": dataflow.dataflow_staging_root,
        "service_account_email": dataflow.dataflow_service_account,
        "sdk_container_image": dataflow.dataflow_worker_image,
    }
    return {name: value for name, value in named.items() if value}


def publish_uri(context: Context, result: Any) -> None:
    """Make the URI of the artifact the task's XCom, in place of the operator's own."""
    uri = context["task"].pipeline_options["output"]
    context["ti"].xcom_push(BaseXCom.XCOM_RETURN_KEY, uri)
    announce(context, uri)


@dag(
    schedule=None,
    start_date=datetime(2024, 1, 1),
    catchup=False,
    max_active_runs=1,
    params=PARAMS,
    tags=["captionflow", "beam"],
    doc_md="""
### Image captioning: from captions and image URLs to a trained, evaluated model

Trigger it as it is to run on the built-in sample (`captionflow sample` draws it), or point *sources* at COCO
captions, CSV or JSON Lines of your own.

| task | does | leaves |
| --- | --- | --- |
| `ingest` | reads the captions, rejects unusable rows | `captions.jsonl` |
| `preprocess` | fetches, filters and resizes the images, as an Apache Beam job | Avro shards by split |
| `train` | trains the captioner, keeps the best checkpoint | `model.safetensors` |
| `evaluate` | captions the test split, computes BLEU, ROUGE-L and CIDEr | `report.html` |

The deployment says whether `train` and `evaluate` run in Airflow's worker, in a Kubernetes pod or as a Vertex AI job.

Each task's XCom is the URI of its artifact; `captionflow lineage URI` tells what it was made from. The page of
`evaluate` has a button for the report.
""",
    default_args=DEFAULT_ARGS,
)
def image_captioning() -> None:
    """Chain the four steps; what passes between them is URIs."""

    @task(outlets=[asset(INGESTED)], post_execute=announce)
    def ingest() -> str:
        from captionflow.ingest import ingest

        with no_retry_in_vain():
            context = get_current_context()
            check_run(context)
            return ingest(artifact(context, INGESTED), read(IngestParameters, context))

    preprocess = BeamOperator(
        task_id="preprocess",
        py_file=str(Path(beam_jobs.__file__).parent / "preprocess.py"),
        py_interpreter=sys.executable,
        pre_execute=prepare_beam,
        post_execute=publish_uri,
        outlets=[asset(PREPROCESSED)],
        pipeline_options={"ingested": ingest()},
    )
    train = StepOperator(
        task_id="train", parameters=TrainParameters, uris={"preprocessed": preprocess.output}, makes=MODEL
    )
    train.operator_extra_links = [MlflowRunLink()]
    evaluate = StepOperator(
        task_id="evaluate",
        parameters=EvaluateParameters,
        uris={"model": train.output, "preprocessed": preprocess.output},
        makes=EVALUATION,
    )
    evaluate.operator_extra_links = [MlflowRunLink(), ReportLink()]


image_captioning()
