"""Read the components' results: anomalies, metrics, and why a model was not blessed."""

from pathlib import PurePosixPath
from typing import Any

import tensorflow_model_analysis as tfma
from tensorflow_metadata.proto.v0 import anomalies_pb2
from tfx.dsl.io import fileio

from tfx_pipeline.module import TRAINING, read_extra

OVERALL = "all"


def anomalies(uri: str) -> dict[str, str]:
    """Return split/feature → description of the anomaly, of an ExampleAnomalies artifact."""
    descriptions: dict[str, str] = {}
    for split in sorted(fileio.listdir(uri)):
        for name in fileio.listdir(f"{uri}/{split}"):
            with fileio.open(f"{uri}/{split}/{name}", "rb") as file:
                info = anomalies_pb2.Anomalies.FromString(file.read()).anomaly_info
            descriptions |= {f"{_split_name(split)}/{feature}": info[feature].description for feature in sorted(info)}
    return descriptions


def metrics(uri: str) -> dict[str, dict[str, float]]:
    """Return slice → metric → value, of a ModelEvaluation artifact; the slice `all` holds all captions."""
    result = tfma.load_eval_result(uri)
    return {
        ", ".join(f"{column} {value}" for column, value in key) or OVERALL: {
            name: value["doubleValue"] for name, value in sorted(values[""][""].items())
        }
        for key, values in sorted(result.slicing_metrics, key=lambda item: str(item[0]))
    }


def failures(uri: str) -> list[str]:
    """Return the thresholds that the model of a ModelEvaluation artifact failed, for each slice that failed."""
    return [
        f"{failure.metric_key.name}{' against the last blessed model' * failure.metric_key.is_diff} "
        f"is {failure.metric_value.double_value.value:.4g}"
        for validated in tfma.load_validation_result(uri).metric_validations_per_slice
        for failure in validated.failures
    ]


def training(uri: str) -> dict[str, Any]:
    """Return the result of the training, of a Model artifact; empty if another module file trained it."""
    return read_extra(uri, TRAINING)


def _split_name(split_folder: str) -> str:
    return PurePosixPath(split_folder).name.removeprefix("Split-")
