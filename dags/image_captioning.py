"""The main job as an Airflow DAG: ingest → preprocess (an Apache Beam job) → train → evaluate.

Wiring only. What each task does is in `captionflow` and `beam_jobs`, imported when a task runs.
"""

from datetime import datetime

from airflow.sdk import Param, dag, get_current_context, task

from beam_jobs.parameters import BeamParameters
from captionflow.airflow import beam_tuning
from captionflow.airflow.assets import announce, asset
from captionflow.airflow.form import (
    DEFAULT_ARGS,
    SAMPLE,
    SAMPLE_IMAGES,
    RootParameters,
    artifact,
    form,
    no_retry_in_vain,
    read,
)
from captionflow.airflow.links import MlflowRunLink, ReportLink
from captionflow.airflow.preprocess_operator import PreprocessOperator
from captionflow.airflow.run_checks import check_run
from captionflow.airflow.step_operator import StepOperator
from captionflow.captioner.parameters import TrainParameters
from captionflow.core.steps import EVALUATION, INGESTED, MODEL
from captionflow.evaluation.parameters import EvaluateParameters
from captionflow.preprocess.parameters import PreprocessParameters, ReuseParameters
from captionflow.sources.parameters import IngestParameters

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
    "runner": Param(**BeamParameters.json_schema()["runner"], section="2 Preprocess"),
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
        from captionflow.sources.ingest import ingest

        with no_retry_in_vain():
            context = get_current_context()
            check_run(context)
            return ingest(artifact(context, INGESTED), read(IngestParameters, context))

    preprocess = PreprocessOperator(task_id="preprocess", ingested=ingest())
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
