"""The main job as an Airflow DAG: ingest → preprocess (an Apache Beam job) → train → evaluate.

Wiring only. What each task does is in `captionflow` and `beam_jobs`, imported when a task runs.
"""

import os
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from airflow.decorators import dag, task
from airflow.models.param import Param
from airflow.operators.python import get_current_context
from airflow.providers.apache.beam.hooks.beam import beam_options_to_args
from airflow.utils.context import Context
from airflow.utils.xcom import XCOM_RETURN_KEY
from captionflow_links import MlflowRunLink, ReportLink
from dataflow_job import BeamOperator, job_name, label
from training_place import PLACE, StepOperator, check_place
from trigger_form import ARTIFACT_ROOT, DEFAULT_ARGS, form, no_retry_in_vain

import beam_jobs
from captionflow.errors import InvalidInputError
from captionflow.kinds import ARTIFACT_ROOT_MEANING, EVALUATION, INGESTED, MODEL, PREPROCESSED, artifact_uri
from captionflow.parameters import (
    BeamParameters,
    DataflowParameters,
    EvaluateParameters,
    IngestParameters,
    PreprocessParameters,
    ReuseParameters,
    TrainParameters,
)

DATAFLOW = "DataflowRunner"
SAMPLE = f"{ARTIFACT_ROOT}/sample"
SAMPLE_IMAGES = os.environ.get("CAPTIONFLOW_SAMPLE_IMAGES", f"{SAMPLE}/images")


# Airflow shows the sections in the order of their names.
PARAMS = {
    "artifact_root": Param(ARTIFACT_ROOT, type="string", description=ARTIFACT_ROOT_MEANING),
    **form(IngestParameters, "1 Ingest", sources=[f"{SAMPLE}/captions.json"], image_root=[SAMPLE_IMAGES]),
    "runner": Param(**BeamParameters.json_schema()["beam_runner"], section="2 Preprocess"),
    "beam_options": Param(
        {},
        type="object",
        section="2 Preprocess",
        description='More Beam options as JSON: {"direct_num_workers": 2, "direct_running_mode": "multi_processing"}.',
    ),
    **form(PreprocessParameters, "2 Preprocess", allow_url_prefix=[SAMPLE_IMAGES]),
    **form(ReuseParameters, "2 Preprocess"),
    **form(TrainParameters, "3 Train"),
    **form(EvaluateParameters, "4 Evaluate"),
    **form(DataflowParameters, "5 Dataflow"),
    **PLACE,
}


def output(kind: str) -> str:
    """Return the template of the URI of this run's artifact: known before the task starts, the same in every retry."""
    return artifact_uri("{{ params.artifact_root }}", "{{ dag.dag_id }}", "{{ run_id }}", kind)


def option(name: str, schema: dict[str, Any]) -> str:
    """Return the template that passes a parameter on as a command-line option's value."""
    is_list = "array" in schema["type"]
    return f"{{{{ params.{name} | tojson }}}}" if is_list else f"{{{{ params.{name} }}}}"


def prepare_beam(context: Context) -> None:
    """Check the job's parameters before Beam starts, and add what the form says of Beam."""
    params, task = context["params"], context["task"]
    with no_retry_in_vain():
        from beam_jobs.preprocess import beam_options

        PreprocessParameters.from_mapping(params)
        options = {**params["beam_options"], **dataflow_options(params)}
        if params["runner"] == DATAFLOW:
            configure_dataflow(context)
        beam_options([f"--runner={params['runner']}", *beam_options_to_args(options)])
    # The job is a process of its own, and imports our packages too, from the DAGs folder where they are not installed.
    packages = str(Path(beam_jobs.__file__).parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [packages, os.environ.get("PYTHONPATH")]))
    # A task that times out leaves its process behind; two jobs must not work on one artifact.
    task.default_pipeline_options = {**options, "exit-with-parent": True}


def configure_dataflow(context: Context) -> None:
    """Give the job the run's name and labels."""
    params, task, run = context["params"], context["task"], (context["dag"].dag_id, context["run_id"])
    task.dataflow_config = {
        "project_id": params["gcp_project_id"],
        "location": params["region"],
        "job_name": job_name(*run),
        "append_job_name": False,
    }
    task.pipeline_options["labels"] = dict(zip(("airflow-dag", "airflow-run"), map(label, run), strict=True))


def dataflow_options(params: Mapping[str, Any]) -> dict[str, str]:
    """Return Beam's options for a Dataflow job; none for another engine.

    Raises:
        InvalidInputError: Dataflow cannot do with what the form says.
    """
    if params["runner"] != DATAFLOW:
        return {}
    dataflow = DataflowParameters.from_mapping(params)
    for name in ("region", "dataflow_staging_root"):
        if not getattr(dataflow, name):
            raise InvalidInputError(f"{name}: {DATAFLOW} needs it")
    if not params["artifact_root"].startswith("gs://"):
        raise InvalidInputError(f"artifact_root: Dataflow's workers do not reach {params['artifact_root']}, but gs://…")
    named = {
        "temp_location": dataflow.dataflow_staging_root,
        "service_account_email": dataflow.dataflow_service_account,
        "sdk_container_image": dataflow.dataflow_worker_image,
    }
    return {name: value for name, value in named.items() if value}


def publish_uri(context: Context, result: Any) -> None:
    """Make the URI of the artifact the task's XCom, in place of the operator's own."""
    context["ti"].xcom_push(XCOM_RETURN_KEY, context["task"].pipeline_options["output"])


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

`train` and `evaluate` run in Airflow's worker, in a Kubernetes pod or as a Vertex AI custom job: *train_on* chooses.

Each task's XCom is the URI of its artifact; `captionflow lineage URI` tells what it was made from. The page of
`evaluate` has a button for the report.
""",
    default_args=DEFAULT_ARGS,
)
def image_captioning() -> None:
    """Chain the four steps; what passes between them is URIs."""

    @task
    def ingest(output: str) -> str:
        from captionflow.ingest import ingest

        with no_retry_in_vain():
            params = get_current_context()["params"]
            # What the later steps need is told now, not after hours.
            dataflow_options(params)
            check_place(params)
            return ingest(output, IngestParameters.from_mapping(params))

    preprocess = BeamOperator(
        task_id="preprocess",
        py_file=str(Path(beam_jobs.__file__).parent / "preprocess.py"),
        py_interpreter=sys.executable,
        pre_execute=prepare_beam,
        post_execute=publish_uri,
        runner="{{ params.runner }}",
        pipeline_options={
            "ingested": ingest(output(INGESTED)),
            "output": output(PREPROCESSED),
            "reuse": "{{ params.reuse or '' }}",
            **{
                name.replace("_", "-"): option(name, schema)
                for name, schema in PreprocessParameters.json_schema().items()
            },
        },
    )
    train = StepOperator(
        task_id="train",
        parameters=TrainParameters,
        uris={"preprocessed": preprocess.output, "output": output(MODEL)},
    )
    train.operator_extra_links = [MlflowRunLink()]
    evaluate = StepOperator(
        task_id="evaluate",
        parameters=EvaluateParameters,
        uris={"model": train.output, "preprocessed": preprocess.output, "output": output(EVALUATION)},
    )
    evaluate.operator_extra_links = [MlflowRunLink(), ReportLink()]


image_captioning()
