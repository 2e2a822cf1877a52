"""Run one component as an Airflow task, as TFX's AirflowDagRunner would."""

from collections.abc import Mapping
from typing import Any

from tfx.dsl.components.base.base_component import BaseComponent
from tfx.orchestration.airflow.airflow_dag_runner import AirflowDagRunner, AirflowPipelineConfig

from tfx_pipeline.checks import check_inputs
from tfx_pipeline.parameters import TfxParameters, metadata_location
from tfx_pipeline.pipeline import create_pipeline
from tfx_pipeline.topology import topology


def run_component(component_id: str, parameters: TfxParameters, context: Mapping[str, Any]) -> None:
    """Build the DAG of TFX's runner, and execute its task `component_id` in the running task's context."""
    if not topology()[component_id]:
        check_inputs(parameters)
    pipeline = create_pipeline(parameters, metadata_location(parameters))
    for component in pipeline.components:
        # The runner would package the module file for each of them, in every task.
        if isinstance(component, BaseComponent) and component.id != component_id:
            component._pip_dependencies = []
    config = AirflowPipelineConfig({"schedule": None, "start_date": context["dag"].start_date})
    task = AirflowDagRunner(config).run(pipeline).get_task(component_id)
    task.render_template_fields(context)
    task.python_callable(**task.op_kwargs, **context)
