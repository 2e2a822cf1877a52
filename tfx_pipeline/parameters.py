"""The parameters of the TFX pipeline. Imports nothing but the standard library."""

import os
from dataclasses import dataclass
from typing import Literal

from captionflow.core.parameters import URI, Parameters, parameter

PIPELINE_NAME = "image_captioning_tfx"
METADATA_FILE = "metadata.db"
METADATA_VARIABLE = "CAPTIONFLOW_TFX_METADATA"


def metadata_location(parameters: "TfxParameters") -> str:
    """Return the location of ML Metadata's store.

    It is set by an environment variable, since it may hold a password; the default is in the pipeline's root.
    """
    return os.environ.get(METADATA_VARIABLE) or f"{parameters.pipeline_root}/{METADATA_FILE}"


@dataclass(frozen=True, kw_only=True)
class TfxSettings(Parameters):
    """What runs, and where. On Airflow the deployment sets this, not the form of a run."""

    module_file: str | None = parameter(
        None, "Python file with preprocessing_fn and run_fn, instead of CaptionFlow's own."
    )
    serving_dir: str | None = parameter(
        None, "Folder that receives blessed models for TensorFlow Serving; by default `serving` in the pipeline's root."
    )
    # A model is a program: whoever may write to this folder can run code.
    pipeline_root: str = parameter("artifacts/image_captioning_tfx", "Folder or bucket that receives all artifacts.")
    gcp_project: str | None = parameter(None, "Google Cloud project of Dataflow jobs.")
    region: str | None = parameter(None, "Google Cloud region of Dataflow jobs.")


@dataclass(frozen=True, kw_only=True)
class TfxParameters(TfxSettings):
    """What the TFX pipeline reads, and how its model is trained."""

    csv: str = parameter(
        "",
        "CSV file, or a folder of them, as `captionflow csv` writes them: a path, gs:// or the like.",
        reaches=URI,
        common=True,
    )
    pipeline_name: str = parameter(
        PIPELINE_NAME, "Name under which the metadata store keeps the runs.", pattern="^[a-zA-Z][a-zA-Z0-9_-]*$"
    )
    runner: Literal["DirectRunner", "DataflowRunner", "FlinkRunner"] = parameter(
        "DirectRunner",
        "Where the components' Beam jobs run; DirectRunner is this machine.",
        common=True,
    )
    direct_num_workers: int = parameter(
        1, "Processes of the DirectRunner; 0 takes one for each CPU.", minimum=0, maximum=1024
    )
    beam_options: tuple[str, ...] = parameter(
        (), "Further Beam options, such as --flink_master=host:8081.", common=True
    )
    enable_cache: bool = parameter(
        True, "Do not run again what ran before with the same inputs and parameters.", common=True
    )
    eval_percent: int = parameter(
        25, "Share of the images whose captions are kept for evaluation, in percent.", minimum=1, maximum=90
    )
    vocabulary_size: int = parameter(10_000, "Words the model knows, at most.", minimum=10, maximum=1_000_000)
    max_caption_length: int = parameter(
        32, "Longest caption, in tokens, start and end included.", minimum=4, maximum=512
    )
    epochs: int = parameter(20, "Passes over the training split, at most.", minimum=1, maximum=10_000, common=True)
    batch_size: int = parameter(64, "Captions in a step.", minimum=1, maximum=65_536, common=True)
    learning_rate: float = parameter(3e-3, "Adam's learning rate.", minimum=1e-7, maximum=1.0, common=True)
    width: int = parameter(128, "Length of the word vectors and of the network's state.", minimum=8, maximum=4096)
    patience: int = parameter(
        2, "Epochs without a better loss on the evaluation split before training stops.", minimum=1, maximum=10_000
    )
    seed: int = parameter(
        0, "Seed of the weights and of the order of the captions.", minimum=0, maximum=2**31 - 1, common=True
    )
    max_perplexity: float = parameter(
        100.0,
        "A model with a higher perplexity on the evaluation split is not blessed.",
        minimum=1.0,
        maximum=1e9,
        common=True,
    )
    drift_threshold: float = parameter(
        0.05,
        "Change of a word's share of all words since the last run, or between the splits, that is an anomaly.",
        minimum=0.0,
        maximum=1.0,
    )
