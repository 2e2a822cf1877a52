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
"""What AirflowDagRunner's DAG is given of Airflow: it runs when it is triggered."""
# As TFX's launcher for Airflow names it in the store.
_COMPONENT_RUN = "component_run"
_OUTPUT = metadata_store_pb2.Event.OUTPUT


def run_component(component_id: str, parameters: TfxParameters, run_id: str) -> dict[str, list[str]]:
    """Build the DAG of TFX's runner, and execute its task `component_id`. Of Airflow only the library is needed.

    Returns:
        Output's name → URIs of its artifacts, made now or taken from the cache.

    Raises:
        InvalidInputError: what the pipeline was given is not usable.
    """
    if not topology()[component_id]:
        check_inputs(parameters)
    pipeline = create_pipeline(parameters, metadata_location(parameters))
    name = f"{pipeline.pipeline_name}.{run_id}.{component_id}"
    mark = _put_aside_attempts(pipeline, name)
    for component in pipeline.components:
        if component.id == component_id:
            component.driver_class = _naming(component.driver_class, mark)
        elif isinstance(component, BaseComponent):
            # The runner would package the module file for each of them, in every task.
            component._pip_dependencies = []
    task = AirflowDagRunner(AirflowPipelineConfig(CONFIG)).run(pipeline).get_task(component_id)
    # All that TFX's launcher asks of the task instance.
    run = SimpleNamespace(run_id=run_id)
    # Not rendered: what is in its fields comes from the form of a run, and our pipeline has no templates.
    task.python_callable(**task.op_kwargs, ti=SimpleNamespace(get_dagrun=lambda: run))
    return _outputs(pipeline, name)


def _outputs(pipeline: Pipeline, name: str) -> dict[str, list[str]]:
    store = MetadataStore(pipeline.metadata_connection_config)
    context = store.get_context_by_type_and_name(_COMPONENT_RUN, name)
    executions = store.get_executions_by_context(context.id)
    events = store.get_events_by_execution_ids([execution.id for execution in executions])
    made = {event.artifact_id: event.path.steps[0].key for event in events if event.type == _OUTPUT}
    found = defaultdict(list)
    for artifact in store.get_artifacts_by_id(made):
        found[made[artifact.id]].append(artifact.uri)
    return dict(sorted(found.items()))


def _put_aside_attempts(pipeline: Pipeline, name: str) -> str:
    """Free the names that an earlier attempt of this task took in the metadata store; returns a mark for new ones.

    TFX's launcher finds its execution by its name, and takes the names of its artifacts from the run: it would
    fail on those of an earlier attempt.
    """
    store = MetadataStore(pipeline.metadata_connection_config)
    earlier = store.get_context_by_type_and_name(_COMPONENT_RUN, name)
    if earlier is None:
        return ""
    executions = store.get_executions_by_context(earlier.id)
    mark = f".{max(execution.id for execution in executions)}"
    earlier.name += mark
    store.put_contexts([earlier])
    events = store.get_events_by_execution_ids([execution.id for execution in executions])
    outputs = [event.artifact_id for event in events if event.type == _OUTPUT]
    artifacts = store.get_artifacts_by_id(outputs)
    for artifact in artifacts:
        if artifact.state != metadata_store_pb2.Artifact.LIVE or not pipeline.enable_cache:
            artifact.state = metadata_store_pb2.Artifact.ABANDONED
    store.put_artifacts(artifacts)
    return mark


def _naming(driver_class: type[BaseDriver], mark: str) -> type[BaseDriver]:
    """Return a driver that adds `mark` to the names of new artifacts, which no other of their type may have."""

    class Driver(driver_class):
        def _prepare_output_artifacts(self, *arguments: Any, **named: Any) -> Any:
            outputs = super()._prepare_output_artifacts(*arguments, **named)
            for artifact in chain.from_iterable(outputs.values()):
                artifact.name += mark
            return outputs

    return Driver
