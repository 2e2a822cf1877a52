"""Compile the pipeline for Kubeflow Pipelines or Vertex AI Pipelines."""

from dataclasses import replace
from pathlib import Path

from tfx.orchestration.kubeflow.v2.kubeflow_v2_dag_runner import KubeflowV2DagRunner, KubeflowV2DagRunnerConfig

from tfx_pipeline.parameters import TfxParameters
from tfx_pipeline.pipeline import create_pipeline


def compile_pipeline(parameters: TfxParameters, image: str, output: str) -> None:
    """Write the pipeline's specification: JSON if `output` ends in .json, else YAML; the same bytes every time.

    Args:
        image: container image that holds CaptionFlow and its requirements, for all components.
    """
    path = Path(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    config = KubeflowV2DagRunnerConfig(default_image=image, use_pipeline_spec_2_1=True)
    # Kubeflow allows no other characters.
    name = parameters.pipeline_name.lower().replace("_", "-")
    pipeline = create_pipeline(replace(parameters, pipeline_name=name), metadata=None)
    KubeflowV2DagRunner(config, str(path.parent), path.name).run(pipeline)
