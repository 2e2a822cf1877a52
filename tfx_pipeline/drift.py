"""A TFX component that detects drift and skew in the words of the captions.

TFX's ExampleValidator checks data against a schema and compares them with no other data. DriftValidator compares the
share of each word, by the comparators of TensorFlow Data Validation: between the training split and the data of the
last blessed model (drift), and between the training and the evaluation split (skew).
"""

from collections.abc import Mapping

import tensorflow_data_validation as tfdv
import tensorflow_transform as tft
from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import artifact_utils, standard_artifacts
from tfx.utils import io_utils, writer_utils

from tfx_pipeline.features import read_tokens, vocabulary
from tfx_pipeline.module import WORD_COUNTS, read_extra, word_counts

FEATURE = "words"
_SPLITS = ("train", "eval")


@component
def DriftValidator(  # noqa: N802 - TFX names components like classes
    transform_graph: InputArtifact[standard_artifacts.TransformGraph],
    examples: InputArtifact[standard_artifacts.Examples],
    drift: OutputArtifact[standard_artifacts.ExampleAnomalies],
    threshold: Parameter[float],
    baseline_model: InputArtifact[standard_artifacts.Model] = None,
) -> None:
    """Compare the shares of the words; if a share changes by more than `threshold`, that is an anomaly.

    The output is called `drift`, as ExampleValidator's is called `anomalies`: within a run, TFX's Airflow runner
    distinguishes artifacts of one type by the name of the output.
    """
    output = tft.TFTransformOutput(transform_graph.uri)
    words = vocabulary(output)
    counts = {
        split: word_counts(
            read_tokens([io_utils.all_files_pattern(artifact_utils.get_split_uri([examples], split))], output), words
        )
        for split in _SPLITS
    }
    baseline = read_extra(baseline_model.uri, WORD_COUNTS) if baseline_model else {}
    anomalies = tfdv.validate_statistics(
        statistics(counts["train"]),
        _schema(threshold),
        previous_statistics=statistics(baseline) if baseline else None,
        serving_statistics=statistics(counts["eval"]),
    )
    drift.split_names = artifact_utils.encode_split_names(["train"])
    folder = artifact_utils.get_split_uri([drift], "train")
    writer_utils.write_anomalies(f"{folder}/SchemaDiff.pb", anomalies)


def statistics(counts: Mapping[str, int]) -> statistics_pb2.DatasetFeatureStatisticsList:
    """Return the counts as the statistics of a feature called `words`."""
    result = statistics_pb2.DatasetFeatureStatisticsList()
    total = sum(counts.values())
    dataset = result.datasets.add(num_examples=total)
    feature = dataset.features.add(type=statistics_pb2.FeatureNameStatistics.STRING)
    feature.path.step.append(FEATURE)
    feature.string_stats.common_stats.CopyFrom(
        statistics_pb2.CommonStatistics(num_non_missing=total, min_num_values=1, max_num_values=1, avg_num_values=1)
    )
    feature.string_stats.unique = len(counts)
    for rank, (word, count) in enumerate(sorted(counts.items(), key=lambda item: (-item[1], item[0]))):
        feature.string_stats.rank_histogram.buckets.add(
            low_rank=rank, high_rank=rank, label=word, sample_count=float(count)
        )
    return result


def _schema(threshold: float) -> schema_pb2.Schema:
    schema = schema_pb2.Schema()
    feature = schema.feature.add(name=FEATURE, type=schema_pb2.BYTES)
    feature.drift_comparator.infinity_norm.threshold = threshold
    feature.skew_comparator.infinity_norm.threshold = threshold
    return schema
