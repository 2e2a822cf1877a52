"""The TFX pipeline as an Airflow DAG: one task a component, run by TFX's own Airflow runner in TFX's environment.

The graph is read from a description: TFX takes longer to import than Airflow gives a DAG file, and is not in Airflow's
environment.
"""

import os
from datetime import datetime

from airflow.sdk import DAG

from captionflow.airflow.form import ARTIFACT_ROOT, DEFAULT_ARGS, form
from captionflow.airflow.tfx_component import TfxComponent
from tfx_pipeline.parameters import METADATA_VARIABLE, PIPELINE_NAME, TfxParameters, TfxSettings
from tfx_pipeline.topology import topology

with DAG(
    PIPELINE_NAME,
    schedule=None,
    start_date=datetime(2024, 1, 1),
    catchup=False,
    max_active_runs=1,
    # SQLite, where ML Metadata keeps its store unless told otherwise, takes one writer at a time.
    max_active_tasks=16 if "://" in os.environ.get(METADATA_VARIABLE, "") else 1,
    params=form({"TFX": TfxParameters}, without=TfxSettings, csv=f"{ARTIFACT_ROOT}/sample_csv/captions.csv"),
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
        tasks[component] = TfxComponent(task_id=component)
        tasks[component].set_upstream([tasks[node] for node in upstream])
