"""The TFX pipeline on Vertex AI Pipelines, as it was compiled: Airflow submits it and waits in the triggerer.

The provider's operator takes eleven seconds to import, a third of what Airflow gives a DAG file. So it is imported
only inside the running task.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG, BaseOperator, Context, Param

from beam_jobs.parameters import DataflowParameters
from captionflow.airflow import beam_tuning
from captionflow.airflow.form import DEFAULT_ARGS, check_conf, check_places, no_retry_in_vain, settings
from captionflow.airflow.step_operator import VertexSettings
from captionflow.core.errors import InvalidInputError
from captionflow.core.parameters import URI, parameter, variable
from kfp_pipeline.names import input_of
from kfp_pipeline.parameters import PIPELINE_NAME, ROOT

if TYPE_CHECKING:
    from airflow.providers.google.cloud.operators.vertex_ai.pipeline_job import RunPipelineJobOperator

JSON_TYPES = {
    "STRING": "string", "NUMBER_INTEGER": "integer", "NUMBER_DOUBLE": "number", "BOOLEAN": "boolean", "LIST": "array",
    "STRUCT": "object",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PipelineSettings(VertexSettings):
    """Which pipeline runs on Vertex AI, where, and as whom."""

    vertex_pipeline_root: str | None = parameter(None, "gs:// folder for Vertex AI's own files.")
    vertex_spec: str = parameter(
        str(Path(__file__).with_suffix(".json")), "The compiled pipeline: a path that the worker can read, or gs://."
    )


# As the form once called them too.
SETTINGS = {
    **settings(PipelineSettings),
    **{input_of(name): told for name, told in settings(DataflowParameters).items()},
    **{name.removeprefix("vertex_"): told for name, told in settings(PipelineSettings).items()},
}


def compiled() -> tuple[str, dict[str, Any]]:
    """Return the name of the compiled pipeline, and its own parameters; none where there is no pipeline yet."""
    try:
        content = json.loads(Path(PipelineSettings.from_environment().vertex_spec).read_bytes())
        spec = content.get("pipelineSpec", content)
        inputs = spec["root"].get("inputDefinitions", {}).get("parameters", {})
        known = {name: schema for name, schema in inputs.items() if schema["parameterType"] in JSON_TYPES}
        return spec.get("pipelineInfo", {}).get("name", ""), known
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "", {}


def own_form() -> dict[str, Param]:
    """Return a field for each of the pipeline's own parameters; what is the deployment's in CaptionFlow's is none."""
    left_out = {input_of(name) for name in DataflowParameters.json_schema()} if IS_OURS else set()
    return {name: _field(schema) for name, schema in INPUTS.items() if name not in left_out}


def _field(schema: dict[str, Any]) -> Param:
    kind, default = JSON_TYPES[schema["parameterType"]], schema.get("defaultValue")
    return Param(
        # The compiler writes 3 as 3.0.
        int(default) if kind == "integer" and default is not None else default,
        type=["null", kind],
        section="Pipeline",
        description=schema.get("description", "A parameter of the compiled pipeline; empty takes its default."),
    )


def where() -> PipelineSettings:
    """Return which pipeline runs where, as the deployment says.

    Raises:
        InvalidInputError: something is missing.
    """
    said = PipelineSettings.from_environment()
    for name in ("vertex_project", "vertex_region", "vertex_pipeline_root"):
        if not getattr(said, name):
            raise InvalidInputError(f"{variable(name)}: is empty")
    if "://" not in said.vertex_spec and not Path(said.vertex_spec).is_file():
        raise InvalidInputError(
            f"{variable('vertex_spec')}: {said.vertex_spec}: no such file; `captionflow tfx compile` writes it"
        )
    return said


def values(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the pipeline's own parameters that the form gives.

    Raises:
        InvalidInputError: the pipeline is CaptionFlow's own, and a value is one that no run may give.
    """
    given = {name: params[name] for name in OWN if params[name] is not None}
    return _checked(given) if IS_OURS else given


def _checked(given: dict[str, Any]) -> dict[str, Any]:
    from airflow.providers.apache.beam.hooks.beam import beam_options_to_args  # takes seconds to import

    from kfp_pipeline.component_files import COMPONENTS

    check_places({ROOT: {"reaches": URI}}, given)
    found: dict[str, Any] = {}
    for component in COMPONENTS:
        parameters = component.parameters(given)
        check_places(parameters.json_schema(), parameters.to_json())
        found |= {input_of(name): value for name, value in parameters.to_json().items() if value is not None}
    tuning = beam_tuning.parsed("beam_args", found["beam_args"])
    options = beam_tuning.options_for(found["beam_runner"], "beam_args", tuning)
    deployment = DataflowParameters.from_environment().to_json()
    dataflow = {input_of(name): value for name, value in deployment.items() if value}
    checked = {name: value for name, value in found.items() if name in given}
    return {**given, **checked, **dataflow, "beam_args": beam_options_to_args(options)}


class RunOnVertex(BaseOperator):
    """The provider's RunPipelineJobOperator, which exists only while the task runs; nothing of it is a template."""

    def _operator(self, said: PipelineSettings, **arguments: Any) -> "RunPipelineJobOperator":
        from airflow.providers.google.cloud.operators.vertex_ai.pipeline_job import RunPipelineJobOperator

        return RunPipelineJobOperator(
            task_id=self.task_id,
            project_id=said.vertex_project,
            region=said.vertex_region,
            template_path=said.vertex_spec,
            pipeline_root=said.vertex_pipeline_root,
            service_account=said.vertex_service_account,
            deferrable=True,
            poll_interval=60,
            **arguments,
        )

    def execute(self, context: Context) -> None:
        """Submit, and free the worker until the run has ended."""
        with no_retry_in_vain():
            check_conf(context, SETTINGS)
            said, given = where(), values(context["params"])
        name = f"{context['dag'].dag_id} {context['run_id']}"
        self._operator(said, display_name=name, parameter_values=given).execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Go on after the end of the run."""
        operator = self._operator(PipelineSettings.from_environment(), display_name="")
        return operator.execute_complete(context, event)["name"]


PIPELINE, INPUTS = compiled()
IS_OURS = PIPELINE == PIPELINE_NAME
OWN = own_form()


with DAG(
    "image_captioning_vertex",
    schedule=None,
    start_date=datetime(2024, 1, 1),
    catchup=False,
    max_active_runs=1,
    params=OWN,
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
    RunOnVertex(task_id="run_pipeline")
