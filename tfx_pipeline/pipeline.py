"""The TFX pipeline: CSV → examples → statistics, schema, anomalies → transform → language model → evaluation → push."""

import hashlib
import inspect
from dataclasses import replace
from pathlib import Path

import tensorflow_model_analysis as tfma
from tfx.components import (
    CsvExampleGen,
    Evaluator,
    ExampleValidator,
    Pusher,
    SchemaGen,
    StatisticsGen,
    Trainer,
    Transform,
)
from tfx.dsl.components.base.base_node import BaseNode
from tfx.dsl.components.common.resolver import Resolver
from tfx.dsl.input_resolution.strategies.latest_blessed_model_strategy import LatestBlessedModelStrategy
from tfx.orchestration.pipeline import Pipeline
from tfx.proto import example_gen_pb2, pusher_pb2, trainer_pb2
from tfx.types import Channel
from tfx.types.standard_artifacts import Model, ModelBlessing

from captionflow.core.uris import resolve
from tfx_pipeline import features, language_model, metrics, module
from tfx_pipeline.beam_args import beam_args
from tfx_pipeline.checks import input_pattern
from tfx_pipeline.drift import DriftValidator
from tfx_pipeline.metadata import connection_config
from tfx_pipeline.parameters import TfxParameters


def create_pipeline(parameters: TfxParameters, metadata: str | None) -> Pipeline:
    """Build the pipeline.

    Args:
        metadata: location of ML Metadata's store, as in `metadata.connection_config`; None if the orchestrator
            has a store of its own, as Kubeflow has.
    """
    # Processes in other working folders read the paths too.
    parameters = replace(parameters, csv=resolve(parameters.csv), pipeline_root=resolve(parameters.pipeline_root))
    return Pipeline(
        pipeline_name=parameters.pipeline_name,
        pipeline_root=parameters.pipeline_root,
        components=_components(parameters),
        enable_cache=parameters.enable_cache,
        metadata_connection_config=connection_config(metadata) if metadata else None,
        beam_pipeline_args=beam_args(parameters),
    )


def _components(parameters: TfxParameters) -> list[BaseNode]:
    folder, pattern = input_pattern(parameters.csv)
    example_gen = CsvExampleGen(
        input_base=folder,
        input_config=example_gen_pb2.Input(splits=[example_gen_pb2.Input.Split(name="csv", pattern=pattern)]),
        output_config=_splits(parameters.eval_percent),
    )
    statistics_gen = StatisticsGen(examples=example_gen.outputs["examples"])
    schema_gen = SchemaGen(statistics=statistics_gen.outputs["statistics"], infer_feature_shape=True)
    example_validator = ExampleValidator(
        statistics=statistics_gen.outputs["statistics"], schema=schema_gen.outputs["schema"]
    )
    transform = Transform(
        examples=example_gen.outputs["examples"],
        schema=schema_gen.outputs["schema"],
        **_function("preprocessing_fn", parameters, "vocabulary_size", "max_caption_length"),
        disable_statistics=True,
    )
    trainer = Trainer(
        examples=transform.outputs["transformed_examples"],
        transform_graph=transform.outputs["transform_graph"],
        schema=schema_gen.outputs["schema"],
        **_function("run_fn", parameters, "epochs", "batch_size", "learning_rate", "width", "patience", "seed"),
        # Without a number of steps: `epochs` bounds the training.
        train_args=trainer_pb2.TrainArgs(),
        eval_args=trainer_pb2.EvalArgs(),
    )
    blessed = Resolver(
        strategy_class=LatestBlessedModelStrategy,
        model=Channel(type=Model),
        model_blessing=Channel(type=ModelBlessing),
    ).with_id("LatestBlessedModel")
    drift_validator = DriftValidator(
        transform_graph=transform.outputs["transform_graph"],
        examples=transform.outputs["transformed_examples"],
        baseline_model=blessed.outputs["model"],
        threshold=parameters.drift_threshold,
    )
    evaluator = Evaluator(
        examples=example_gen.outputs["examples"],
        model=trainer.outputs["model"],
        baseline_model=blessed.outputs["model"],
        eval_config=_eval_config(parameters.max_perplexity),
    )
    serving_dir = resolve(parameters.serving_dir or f"{parameters.pipeline_root}/serving")
    pusher = Pusher(
        model=trainer.outputs["model"],
        model_blessing=evaluator.outputs["blessing"],
        push_destination=pusher_pb2.PushDestination(
            filesystem=pusher_pb2.PushDestination.Filesystem(base_directory=serving_dir)
        ),
    )
    return [
        example_gen,
        statistics_gen,
        schema_gen,
        example_validator,
        transform,
        trainer,
        blessed,
        drift_validator,
        evaluator,
        pusher,
    ]


def _splits(eval_percent: int) -> example_gen_pb2.Output:
    """Split by image, so that all captions of an image are in the same split."""
    split = example_gen_pb2.SplitConfig.Split
    return example_gen_pb2.Output(
        split_config=example_gen_pb2.SplitConfig(
            splits=[
                split(name="eval", hash_buckets=eval_percent),
                split(name="train", hash_buckets=100 - eval_percent),
            ],
            partition_feature_name="image_id",
        )
    )


def _function(function: str, parameters: TfxParameters, *names: str) -> dict[str, object]:
    """Return a component's arguments: where its function is, and the parameters `names`, which the function gets."""
    custom_config = {name: getattr(parameters, name) for name in names}
    if parameters.module_file:
        return {"module_file": parameters.module_file, "custom_config": custom_config}
    # Our own module is named by its import path, so TFX need not package it. TFX's cache compares the digest, and so
    # sees when the code has changed.
    sources = [Path(inspect.getfile(part)).read_bytes() for part in (features, language_model, module)]
    digest = hashlib.sha256(b"".join(sources)).hexdigest()
    return {function: f"{module.__name__}.{function}", "custom_config": {**custom_config, "code": digest}}


def _eval_config(max_perplexity: float) -> tfma.EvalConfig:
    """Bless a model if its perplexity is within the bound and no worse than that of the last blessed model."""
    perplexity = tfma.MetricThreshold(
        value_threshold=tfma.GenericValueThreshold(upper_bound={"value": max_perplexity}),
        change_threshold=tfma.GenericChangeThreshold(
            direction=tfma.MetricDirection.LOWER_IS_BETTER, relative={"value": 0.0}
        ),
    )
    return tfma.EvalConfig(
        model_specs=[tfma.ModelSpec(signature_name="evaluate", preprocessing_function_names=["transform_features"])],
        slicing_specs=[tfma.SlicingSpec(), tfma.SlicingSpec(feature_keys=[features.LENGTH])],
        metrics_specs=[
            tfma.MetricsSpec(
                metrics=[
                    _metric(metrics.CrossEntropy),
                    _metric(metrics.Accuracy),
                    _metric(metrics.Perplexity, threshold=perplexity),
                ]
            )
        ],
    )


def _metric(metric: type[tfma.metrics.Metric], **options: object) -> tfma.MetricConfig:
    return tfma.MetricConfig(class_name=metric.__name__, module=metric.__module__, **options)
