"""The TFX pipeline as an Airflow DAG: one task a component, run by TFX's own Airflow runner.

TFX takes longer to import than Airflow gives a DAG file. So the graph is read from a description, and
TFX is imported, and its runner's DAG built, only inside a running task.
"""

import os
from dataclasses import replace
from datetime import datetime

from airflow import DAG
from airflow.operators.python import PythonOperator, get_current_context
from airflow.utils.context import Context
from trigger_form import ARTIFACT_ROOT, DEFAULT_ARGS, check_conf, form, no_retry_in_vain, read, settings

from captionflow import beam_tuning
from tfx_pipeline.parameters import METADATA_VARIABLE, PIPELINE_NAME, TfxParameters, TfxSettings
from tfx_pipeline.topology import topology


def run(component_id: str) -> None:
    """Run one component with the parameters of the form."""
    with no_retry_in_vain():
        from tfx_pipeline.airflow import run_component

        context = get_current_context()
        run_component(component_id, parameters_of(context), context)


def parameters_of(context: Context) -> TfxParameters:
    """Return what the form gives, with what the deployment says of code, places and Beam.

    Raises:
        InvalidInputError: the form, or a setting of the deployment, cannot be used.
    """
    from airflow.providers.apache.beam.hooks.beam import beam_options_to_args  # takes seconds to import

    check_conf(context, settings(TfxSettings))
    given = read(TfxParameters, context)
    tuning = beam_tuning.parsed("beam_args", given.beam_args)
    options = beam_tuning.options_for(given.beam_runner, "beam_args", tuning)
    beam_args = tuple(beam_options_to_args(options))
    said = TfxSettings.from_environment(pipeline_root=f"{ARTIFACT_ROOT}/{PIPELINE_NAME}")
    return replace(given, **said.to_json(), beam_args=beam_args)


with DAG(
    PIPELINE_NAME,
    schedule=None,
    start_date=datetime(2024, 1, 1),
    catchup=False,
    max_active_runs=1,
    # SQLite, where ML Metadata keeps its store unless told otherwise, takes one writer at a time.
    max_active_tasks=16 if METADATA_VARIABLE in os.environ else 1,
    params=form(TfxParameters, "TFX", without=TfxSettings, csv=f"{ARTIFACT_ROOT}/sample_csv/captions.csv"),
    tags=["captionflow", "tfx"],
    default_args=DEFAULT_ARGS,
    doc_md="""
### A next-word model of the captions, through TFX's ready-made components

Trigger it as it is to run on the captions of the built-in sample, or point *csv* at a file that
`captionflow csv` made from an ingested artifact.

| task | does |
| --- | --- |
| `CsvExampleGen` | reads the CSV; all captions of an image go to the same split |
| `StatisticsGen`, `SchemaGen`, `ExampleValidator` | describe the data and look for anomalies |
| `Transform` | cleans the captions, finds the vocabulary, makes tokens |
| `Trainer` | trains the model and exports it with the transform graph in it |
| `LatestBlessedModel` | finds the model to compare with |
| `DriftValidator` | compares the words with those of that model's data, and between the splits |
| `Evaluator` | computes perplexity and accuracy by caption length; blesses the model or not |
| `Pusher` | copies a blessed model to where TensorFlow Serving finds it |

`captionflow lineage` tells what a pushed model was made from.
""",
) as image_captioning_tfx:
    tasks = {}
    for component, upstream in topology().items():
        tasks[component] = PythonOperator(task_id=component, python_callable=run, op_args=[component])
        tasks[component].set_upstream([tasks[node] for node in upstream])
