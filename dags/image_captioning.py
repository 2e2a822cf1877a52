"""The main job as an Airflow DAG: ingest → validate → preprocess (an Apache Beam job) → train → evaluate.

Wiring only: a task for each row of the table of steps. What a task does is imported when it runs.
"""

from datetime import datetime
from typing import Any

from airflow.sdk import dag

from beam_jobs.parameters import DataflowParameters
from captionflow.airflow.form import DEFAULT_ARGS, SAMPLE, SAMPLE_IMAGES, RootParameters, form
from captionflow.airflow.workflow import task_of
from captionflow.core.runs import PIPELINE
from captionflow.core.steps import workflow

STEPS = workflow()
TASKS = "\n".join(f"| `{step.name}` | {step.description} | `{step.output}` |" for step in STEPS)


@dag(
    PIPELINE,
    schedule=None,
    start_date=datetime(2024, 1, 1),
    catchup=False,
    max_active_runs=1,
    params=form(
        {"run": RootParameters, **{step.name: step.parameters_class for step in STEPS}},
        without=DataflowParameters,
        sources=[f"{SAMPLE}/captions.json"],
        image_root=[SAMPLE_IMAGES],
    ),
    tags=["captionflow", "beam"],
    doc_md=f"""
### Image captioning: from captions and image URLs to a trained, evaluated model

Trigger it as it is to run on the built-in sample (`captionflow sample` draws it), or point *sources* at COCO
captions, Parquet, CSV or JSON Lines of your own.

| task | does | makes |
| --- | --- | --- |
{TASKS}

The deployment says whether `train` and `evaluate` run in Airflow's worker, in a Kubernetes pod or as a Vertex AI job.

Each task's XCom is the URI of its artifact; `captionflow lineage URI` tells what it was made from. The pages of
`validate` and `evaluate` have a button for the report.
""",
    default_args=DEFAULT_ARGS,
)
def image_captioning() -> None:
    """Chain the steps; what passes between them is URIs."""
    outputs: dict[str, Any] = {}
    for step in STEPS:
        task = task_of(step, {name: outputs[kind] for name, kind in step.inputs.items()})
        task.set_upstream([outputs[kind] for kind in step.after])
        outputs[step.output] = task.output


image_captioning()
