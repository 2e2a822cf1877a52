"""The DAG file in the form that TFX documents: AirflowDagRunner builds the DAG when the file is parsed.

It is for Airflow 2.11 in TFX's environment; put it into the DAGs folder there. Its parameters are environment variables
(CAPTIONFLOW_CSV, CAPTIONFLOW_PIPELINE_ROOT, CAPTIONFLOW_EPOCHS, …). Parsing it imports TFX, which takes longer than
Airflow allows a DAG file by default. For the current Airflow use dags/image_captioning_tfx.py.
"""

from tfx.orchestration.airflow.airflow_dag_runner import AirflowDagRunner, AirflowPipelineConfig

from tfx_pipeline.component_run import CONFIG
from tfx_pipeline.parameters import TfxParameters, metadata_location
from tfx_pipeline.pipeline import create_pipeline

parameters = TfxParameters.from_environment()
dag = AirflowDagRunner(AirflowPipelineConfig(CONFIG)).run(create_pipeline(parameters, metadata_location(parameters)))
