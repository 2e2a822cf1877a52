"""A compiled pipeline as a task: submitted to Vertex AI Pipelines, and awaited in the triggerer.

The provider's hook and trigger do it. Its operator takes eleven seconds to import, a third of what Airflow gives a DAG
file.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import AirflowException
from airflow.sdk import BaseOperator, Context, Param

from beam_jobs.parameters import NO_RUNNER, DataflowParameters
from captionflow.airflow.beam_options import options_for
from captionflow.airflow.form import check_conf, check_places, no_retry_in_vain, settings
from captionflow.airflow.placement import CONNECTION, VertexSettings
from captionflow.core.errors import InvalidInputError
from captionflow.core.parameters import URI, parameter, variable
from kfp_pipeline.names import input_of
from kfp_pipeline.parameters import PIPELINE_NAME, ROOT

_LOG = logging.getLogger(__name__)
_POLL_SECONDS = 60
_JSON_TYPES = {
    "STRING": "string", "NUMBER_INTEGER": "integer", "NUMBER_DOUBLE": "number", "BOOLEAN": "boolean", "LIST": "array",
    "STRUCT": "object",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PipelineSettings(VertexSettings):
    """Which pipeline runs on Vertex AI, where, and as whom."""

    vertex_pipeline_root: str | None = parameter(None, "gs:// folder for Vertex AI's own files.")
    vertex_spec: str | None = parameter(
        None,
        "The compiled pipeline: a path that the worker can read, or gs://; by default the JSON file beside the DAG "
        "file that has its name.",
    )


# As the form once called them too.
_SETTINGS = {
    **settings(PipelineSettings),
    **{input_of(name): setting for name, setting in settings(DataflowParameters).items()},
    **{name.removeprefix("vertex_"): setting for name, setting in settings(PipelineSettings).items()},
}


@dataclass(frozen=True)
class CompiledPipeline:
    """A compiled pipeline, as far as a DAG file must know it.

    Attributes:
        name: the pipeline's name; empty where there is none yet.
        inputs: name → the compiler's description of each parameter that a form can ask for.
    """

    name: str
    inputs: dict[str, dict[str, Any]]

    @classmethod
    def read(cls, spec: str) -> "CompiledPipeline":
        """Read the file; one that is not there, or is none, has no parameters."""
        try:
            content = json.loads(Path(spec).read_bytes())
            pipeline = content.get("pipelineSpec", content)
            inputs = pipeline["root"].get("inputDefinitions", {}).get("parameters", {})
            known = {name: schema for name, schema in inputs.items() if schema["parameterType"] in _JSON_TYPES}
            return cls(pipeline.get("pipelineInfo", {}).get("name", ""), known)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return cls("", {})

    @property
    def is_ours(self) -> bool:
        """Whether it is CaptionFlow's own."""
        return self.name == PIPELINE_NAME

    def form(self) -> dict[str, Param]:
        """Return a field for each parameter; of CaptionFlow's own pipeline the deployment sets some."""
        left_out = {input_of(name) for name in DataflowParameters.json_schema()} if self.is_ours else set()
        return {name: _field(schema) for name, schema in self.inputs.items() if name not in left_out}

    def values(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return those of the pipeline's parameters that the form gives.

        Raises:
            InvalidInputError: the pipeline is CaptionFlow's own, and a value is one that no run may give.
        """
        given = {name: params[name] for name in self.form() if params[name] is not None}
        return _checked(given) if self.is_ours else given


def _field(schema: dict[str, Any]) -> Param:
    kind, default = _JSON_TYPES[schema["parameterType"]], schema.get("defaultValue")
    return Param(
        # The compiler writes 3 as 3.0.
        int(default) if kind == "integer" and default is not None else default,
        type=["null", kind],
        section="Pipeline",
        description=schema.get("description", "A parameter of the compiled pipeline; empty takes its default."),
    )


def _checked(given: dict[str, Any]) -> dict[str, Any]:
    from airflow.providers.apache.beam.hooks.beam import beam_options_to_args  # takes seconds to import

    from kfp_pipeline.component_files import COMPONENTS

    check_places({ROOT: {"reaches": URI}}, given)
    found: dict[str, Any] = {}
    for component in COMPONENTS:
        parameters = component.parameters(given)
        check_places(parameters.json_schema(), parameters.to_json())
        found |= {input_of(name): value for name, value in parameters.to_json().items() if value is not None}
    if found["ingest_runner"] not in (NO_RUNNER, found["beam_runner"]):
        raise InvalidInputError(
            f"ingest_runner: {found['ingest_runner']} is not beam_runner's {found['beam_runner']}; both jobs take the "
            "options that the deployment gives one"
        )
    options = options_for(found["beam_runner"], found["beam_args"], "beam_args")
    deployment = DataflowParameters.from_environment().to_json()
    dataflow = {input_of(name): value for name, value in deployment.items() if value}
    checked = {name: value for name, value in found.items() if name in given}
    return {**given, **checked, **dataflow, "beam_args": beam_options_to_args(options)}


def spec_of(dag_file: str) -> str:
    """Return where the compiled pipeline of a DAG file is, as the deployment says."""
    return PipelineSettings.from_environment().vertex_spec or str(Path(dag_file).with_suffix(".json"))


class RunOnVertex(BaseOperator):
    """A run of a compiled pipeline on Vertex AI; its XCom is the name of that run. Nothing of it is a template.

    Args:
        spec: the compiled pipeline: a path or gs://.
        pipeline: what it holds.
    """

    def __init__(self, *, spec: str, pipeline: CompiledPipeline, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.spec = spec
        self.pipeline = pipeline

    def execute(self, context: Context) -> None:
        """Submit, and free the worker until the run has ended."""
        from airflow.providers.google.cloud.hooks.vertex_ai.pipeline_job import PipelineJobHook
        from airflow.providers.google.cloud.triggers.vertex_ai import RunPipelineJobTrigger

        with no_retry_in_vain():
            place, values = self.checked(context)
        job = PipelineJobHook(gcp_conn_id=CONNECTION).submit_pipeline_job(
            project_id=str(place.vertex_project),
            region=str(place.vertex_region),
            display_name=f"{context['dag'].dag_id} {context['run_id']}",
            template_path=self.spec,
            pipeline_root=place.vertex_pipeline_root,
            service_account=place.vertex_service_account,
            parameter_values=values,
        )
        job.wait_for_resource_creation()
        _LOG.info("Vertex AI runs it as %s", job.job_id)
        trigger = RunPipelineJobTrigger(
            conn_id=CONNECTION,
            project_id=str(place.vertex_project),
            location=job.location,
            job_id=job.job_id,
            poll_interval=_POLL_SECONDS,
        )
        self.defer(trigger=trigger, method_name="execute_complete")

    def execute_complete(self, context: Context, event: dict[str, Any]) -> str:
        """Go on after the end of the run."""
        if event["status"] == "error":
            raise AirflowException(event["message"])
        return str(event["job"]["name"])

    def checked(self, context: Context) -> tuple[PipelineSettings, dict[str, Any]]:
        """Return where the pipeline runs, and the values of its parameters.

        Raises:
            InvalidInputError: a setting is missing, or the form has a value that cannot be used.
        """
        check_conf(context, _SETTINGS)
        place = PipelineSettings.from_environment()
        for name in ("vertex_project", "vertex_region", "vertex_pipeline_root"):
            if not getattr(place, name):
                raise InvalidInputError(f"{variable(name)}: is empty; the deployment must set it")
        if "://" not in self.spec and not Path(self.spec).is_file():
            raise InvalidInputError(
                f"{variable('vertex_spec')}: {self.spec}: no such file; `captionflow tfx compile` writes it"
            )
        return place, self.pipeline.values(context["params"])
