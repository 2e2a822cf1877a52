"""The TFX pipeline on Vertex AI Pipelines, as it was compiled: Airflow submits it and waits in the triggerer."""

from datetime import datetime

from airflow.sdk import DAG

from captionflow.airflow.form import DEFAULT_ARGS
from captionflow.airflow.vertex_pipeline import CompiledPipeline, RunOnVertex, spec_of

SPEC = spec_of(__file__)
PIPELINE = CompiledPipeline.read(SPEC)

with DAG(
    "image_captioning_vertex",
    schedule=None,
    start_date=datetime(2024, 1, 1),
    catchup=False,
    max_active_runs=1,
    params=PIPELINE.form(),
    tags=["captionflow", "tfx", "vertex"],
    default_args=DEFAULT_ARGS,
    doc_md="""
### The TFX pipeline on Vertex AI Pipelines

`captionflow tfx compile` fixes what the pipeline reads and how it learns, and the deployment where it runs; the form
offers what the compiled pipeline itself asks for.

| task | does |
| --- | --- |
| `run_pipeline` | submits the pipeline and waits for its end without holding a worker |

Its XCom is the name of the run on Vertex AI. A retry submits the pipeline again, which takes what was done from Vertex
AI's cache. To stop a run that was submitted, cancel it on Vertex AI: marking the task does not.
""",
) as image_captioning_vertex:
    RunOnVertex(task_id="run_pipeline", spec=SPEC, pipeline=PIPELINE)
