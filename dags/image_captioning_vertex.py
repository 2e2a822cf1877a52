"""The TFX pipeline on Vertex AI Pipelines, as it was compiled: Airflow submits it and waits in the triggerer.

The provider's operator takes eleven seconds to import, a third of what Airflow gives a DAG file. So it is imported
only inside the running task.
"""

import json
import os
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow import DAG
from airflow.models.baseoperator import BaseOperator
from airflow.models.param import Param
from airflow.utils.context import Context
from trigger_form import DEFAULT_ARGS, form, no_retry_in_vain

from captionflow.errors import InvalidInputError
from kfp_pipeline.parameters import VertexParameters

if TYPE_CHECKING:
    from airflow.providers.google.cloud.operators.vertex_ai.pipeline_job import RunPipelineJobOperator

SPEC = os.environ.get("CAPTIONFLOW_VERTEX_SPEC", str(Path(__file__).with_suffix(".json")))
WHERE = ("project", "region", "pipeline_root", "service_account")
JSON_TYPES = {
    "STRING": "string", "NUMBER_INTEGER": "integer", "NUMBER_DOUBLE": "number", "BOOLEAN": "boolean", "LIST": "array",
    "STRUCT": "object",
}  # fmt: skip


def where_form() -> dict[str, Param]:
    """Return the fields that tell where the pipeline runs; the environment fills them in."""
    given = {name: os.environ.get(f"CAPTIONFLOW_VERTEX_{name.upper()}") for name in WHERE}
    fields = form(VertexParameters, "1 Vertex AI", **given)
    return {name: fields[name] for name in WHERE}


def own_form() -> dict[str, Param]:
    """Return a field for each of the compiled pipeline's own parameters; none where there is no pipeline yet."""
    try:
        content = json.loads(Path(SPEC).read_bytes())
        inputs = content.get("pipelineSpec", content)["root"].get("inputDefinitions", {}).get("parameters", {})
        return {name: _field(schema) for name, schema in inputs.items() if schema["parameterType"] in JSON_TYPES}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _field(schema: dict[str, Any]) -> Param:
    return Param(
        schema.get("defaultValue"),
        type=["null", JSON_TYPES[schema["parameterType"]]],
        section="2 Pipeline",
        description=schema.get("description", "A parameter of the compiled pipeline; empty takes its default."),
    )


class RunOnVertex(BaseOperator):
    """The provider's RunPipelineJobOperator, which exists only while the task runs. Its arguments are templates."""

    template_fields = ("arguments",)

    def __init__(self, *, arguments: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.arguments = arguments

    def _operator(self) -> "RunPipelineJobOperator":
        from airflow.providers.google.cloud.operators.vertex_ai.pipeline_job import RunPipelineJobOperator

        return RunPipelineJobOperator(task_id=self.task_id, deferrable=True, poll_interval=60, **self.arguments)

    def execute(self, context: Context) -> None:
        """Submit, and free the worker until the run has ended."""
        self._operator().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Go on after the end of the run."""
        return self._operator().execute_complete(context, event)["name"]


OWN = own_form()


def prepare(context: Context) -> None:
    """Check the form, and pass on those of the pipeline's own parameters that are given."""
    params = context["params"]
    with no_retry_in_vain():
        for name in ("project", "region", "pipeline_root"):
            if not params[name]:
                raise InvalidInputError(f"{name}: is empty")
        if "://" not in params["spec"] and not Path(params["spec"]).is_file():
            raise InvalidInputError(f"spec: {params['spec']}: no such file; `captionflow tfx compile` writes it")
    given = {name: params[name] for name in OWN if params[name] is not None}
    context["task"].arguments["parameter_values"] = given


with DAG(
    "image_captioning_vertex",
    schedule=None,
    start_date=datetime(2024, 1, 1),
    catchup=False,
    max_active_runs=1,
    params={
        **where_form(),
        "spec": Param(
            SPEC,
            type="string",
            section="1 Vertex AI",
            description="The compiled pipeline: a path that the worker can read, or gs://.",
        ),
        **OWN,
    },
    tags=["captionflow", "tfx", "vertex"],
    default_args=DEFAULT_ARGS,
    doc_md="""
### The TFX pipeline on Vertex AI Pipelines

`captionflow tfx compile` fixes what the pipeline reads and how it learns; the form says where it runs, and offers what
the compiled pipeline itself asks for.

| task | does |
| --- | --- |
| `run_pipeline` | submits the pipeline and waits for its end without holding a worker |

Its XCom is the name of the run on Vertex AI. A retry submits the pipeline again, which takes what was done from Vertex
AI's cache. To stop a run that was submitted, cancel it on Vertex AI: marking the task does not.
""",
) as image_captioning_vertex:
    RunOnVertex(
        task_id="run_pipeline",
        pre_execute=prepare,
        arguments={
            "project_id": "{{ params.project }}",
            "region": "{{ params.region }}",
            "display_name": "{{ dag.dag_id }} {{ run_id }}",
            "template_path": "{{ params.spec }}",
            "pipeline_root": "{{ params.pipeline_root }}",
            "service_account": "{{ params.service_account or '' }}",
        },
    )
