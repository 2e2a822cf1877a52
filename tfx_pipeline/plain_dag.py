"""The pipeline as TFX documents it for Airflow: a DAG file in which AirflowDagRunner builds the DAG.

For Airflow 2.11 in TFX's environment, with this file in its DAGs folder; the parameters are environment variables
(CAPTIONFLOW_CSV, CAPTIONFLOW_PIPELINE_ROOT, CAPTIONFLOW_EPOCHS, …). Parsing it imports TFX, which takes longer than
Airflow gives a DAG file by default. dags/image_captioning_tfx.py is the form for the current Airflow.
"""

from tfx.orchestration.airflow.airflow_dag_runner import AirflowDagRunner, AirflowPipelineConfig

from tfx_pipeline.component_run import CONFIG
from tfx_pipeline.parameters import TfxParameters, metadata_location
from tfx_pipeline.pipeline import create_pipeline

parameters = TfxParameters.from_environment()
dag = AirflowDagRunner(AirflowPipelineConfig(CONFIG)).run(create_pipeline(parameters, metadata_location(parameters)))
