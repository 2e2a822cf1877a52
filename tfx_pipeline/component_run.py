"""Run one component as an Airflow task, as TFX's AirflowDagRunner would."""

from collections import defaultdict
from datetime import datetime
from itertools import chain
from types import SimpleNamespace
from typing import Any

from ml_metadata.metadata_store import MetadataStore
from ml_metadata.proto import metadata_store_pb2
from tfx.dsl.components.base.base_component import BaseComponent
from tfx.dsl.components.base.base_driver import BaseDriver
from tfx.orchestration.airflow.airflow_dag_runner import AirflowDagRunner, AirflowPipelineConfig
from tfx.orchestration.pipeline import Pipeline

from tfx_pipeline.checks import check_inputs
from tfx_pipeline.parameters import TfxParameters, metadata_location
from tfx_pipeline.pipeline import create_pipeline
from tfx_pipeline.topology import topology

CONFIG = {"schedule": None, "start_date": datetime(2024, 1, 1)}
"""The arguments of AirflowDagRunner's DAG: it runs only when it is triggered."""
# The name of the context type under which TFX's launcher for Airflow stores the run of a component.
_COMPONENT_RUN = "component_run"
_OUTPUT = metadata_store_pb2.Event.OUTPUT


def run_component(component_id: str, parameters: TfxParameters, run_id: str) -> dict[str, list[str]]:
    """Build the DAG of TFX's runner and execute its task `component_id`; needs Airflow as a library alone.

    Returns:
        Output's name → URIs of its artifacts, new or from the cache.

    Raises:
        InvalidInputError: a file or an option of the pipeline cannot be used.
    """
    if not topology()[component_id]:
        check_inputs(parameters)
    pipeline = create_pipeline(parameters, metadata_location(parameters))
    name = f"{pipeline.pipeline_name}.{run_id}.{component_id}"
    suffix = _retire_earlier_attempt(pipeline, name)
    for component in pipeline.components:
        if component.id == component_id:
            component.driver_class = _driver_with_suffix(component.driver_class, suffix)
        elif isinstance(component, BaseComponent):
            # Or the runner would package the module file for every component, in every task.
            component._pip_dependencies = []
    task = AirflowDagRunner(AirflowPipelineConfig(CONFIG)).run(pipeline).get_task(component_id)
    # All that TFX's launcher reads from the task instance.
    run = SimpleNamespace(run_id=run_id)
    # The templates are not rendered: the fields hold values of the run's form, and our pipeline has no templates.
    task.python_callable(**task.op_kwargs, ti=SimpleNamespace(get_dagrun=lambda: run))
    return _outputs(pipeline, name)


def _outputs(pipeline: Pipeline, name: str) -> dict[str, list[str]]:
    store = MetadataStore(pipeline.metadata_connection_config)
    context = store.get_context_by_type_and_name(_COMPONENT_RUN, name)
    executions = store.get_executions_by_context(context.id)
    events = store.get_events_by_execution_ids([execution.id for execution in executions])
    output_names = {event.artifact_id: event.path.steps[0].key for event in events if event.type == _OUTPUT}
    uris = defaultdict(list)
    for artifact in store.get_artifacts_by_id(output_names):
        uris[output_names[artifact.id]].append(artifact.uri)
    return dict(sorted(uris.items()))


def _retire_earlier_attempt(pipeline: Pipeline, name: str) -> str:
    """Rename what an earlier attempt of this task stored; returns the suffix for the names of new artifacts.

    TFX's launcher looks its execution up by name, and names its artifacts after the run. Without this it would fail
    on the names of the earlier attempt.
    """
    store = MetadataStore(pipeline.metadata_connection_config)
    earlier = store.get_context_by_type_and_name(_COMPONENT_RUN, name)
    if earlier is None:
        return ""
    executions = store.get_executions_by_context(earlier.id)
    suffix = f".{max(execution.id for execution in executions)}"
    earlier.name += suffix
    store.put_contexts([earlier])
    events = store.get_events_by_execution_ids([execution.id for execution in executions])
    outputs = [event.artifact_id for event in events if event.type == _OUTPUT]
    artifacts = store.get_artifacts_by_id(outputs)
    for artifact in artifacts:
        if artifact.state != metadata_store_pb2.Artifact.LIVE or not pipeline.enable_cache:
            artifact.state = metadata_store_pb2.Artifact.ABANDONED
    store.put_artifacts(artifacts)
    return suffix


def _driver_with_suffix(driver_class: type[BaseDriver], suffix: str) -> type[BaseDriver]:
    """Return a driver that adds `suffix` to the names of new artifacts; a name must be unique within a type."""

    class Driver(driver_class):
        def _prepare_output_artifacts(self, *arguments: Any, **keywords: Any) -> Any:
            outputs = super()._prepare_output_artifacts(*arguments, **keywords)
            for artifact in chain.from_iterable(outputs.values()):
                artifact.name += suffix
            return outputs

    return Driver
