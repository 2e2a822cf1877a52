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
        metadata: where ML Metadata keeps its store, see `metadata.connection_config`; None when the
            orchestrator brings its own, as Kubeflow does.
    """
    # Other processes, in other folders, read the paths too.
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
        **_code("preprocessing_fn", parameters, "vocabulary_size", "max_caption_length"),
        disable_statistics=True,
    )
    trainer = Trainer(
        examples=transform.outputs["transformed_examples"],
        transform_graph=transform.outputs["transform_graph"],
        schema=schema_gen.outputs["schema"],
        **_code("run_fn", parameters, "epochs", "batch_size", "learning_rate", "width", "patience", "seed"),
        # How long it trains is told by epochs.
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
    """All captions of an image go into the same split."""
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


def _code(function: str, parameters: TfxParameters, *names: str) -> dict[str, object]:
    """Return the arguments that tell a component where its function is, and the parameters `names` to call it with."""
    custom_config = {name: getattr(parameters, name) for name in names}
    if parameters.module_file:
        return {"module_file": parameters.module_file, "custom_config": custom_config}
    # Named by its import path, our own module needs no packaging. Its digest tells the cache when it has changed.
    sources = [Path(inspect.getfile(part)).read_bytes() for part in (features, language_model, module)]
    digest = hashlib.sha256(b"".join(sources)).hexdigest()
    return {function: f"{module.__name__}.{function}", "custom_config": {**custom_config, "code": digest}}


def _eval_config(max_perplexity: float) -> tfma.EvalConfig:
    """Bless a model whose perplexity is neither above the bound nor worse than the last blessed one's."""
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
