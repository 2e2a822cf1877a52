"""The module file: TFX's Transform calls `preprocessing_fn`, its Trainer `run_fn`, both by name."""

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_transform as tft
from tfx.components.trainer.fn_args_utils import FnArgs
from tfx.dsl.io import fileio
from tfx.utils import path_utils

from captionflow.captioner.vocabulary import SPECIAL_TOKENS
from tfx_pipeline.features import RAW_FEATURE, preprocessing_fn, read_tokens, vocabulary
from tfx_pipeline.language_model import ServedModel, train

__all__ = ["TRAINING", "WORD_COUNTS", "preprocessing_fn", "read_extra", "run_fn"]

# TensorFlow Serving does not read this folder of a model. It holds the result of the training, and how often each
# word occurs in the training split.
EXTRA = "assets.extra"
TRAINING = "training.json"
WORD_COUNTS = "word_counts.json"


def run_fn(arguments: FnArgs) -> None:
    """Train on the transformed captions, and export the model with the transform graph in it."""
    output = tft.TFTransformOutput(arguments.transform_output)
    tokens, words = read_tokens(arguments.train_files, output), vocabulary(output)
    network, training = train(
        tokens,
        read_tokens(arguments.eval_files, output),
        len(words),
        arguments.model_run_dir,
        arguments.custom_config,
    )
    raw_spec = {RAW_FEATURE: tf.io.FixedLenFeature([1], tf.string, default_value=[""])}
    model = ServedModel(network, output.transform_features_layer(), raw_spec, words)
    tf.saved_model.save(model, arguments.serving_model_dir, signatures=model.functions)
    extra = f"{arguments.serving_model_dir}/{EXTRA}"
    fileio.makedirs(extra)
    for name, content in {TRAINING: asdict(training), WORD_COUNTS: word_counts(tokens, words)}.items():
        with fileio.open(f"{extra}/{name}", "w") as file:
            json.dump(content, file, ensure_ascii=False, indent=1)


def read_extra(model: str, name: str) -> dict[str, Any]:
    """Return what `run_fn` wrote beside the model of a Model artifact's URI; empty if another module trained it."""
    path = f"{path_utils.serving_model_path(model)}/{EXTRA}/{name}"
    if not fileio.exists(path):
        return {}
    with fileio.open(path) as file:
        content: dict[str, Any] = json.load(file)
        return content


def word_counts(tokens: np.ndarray, words: list[str]) -> dict[str, int]:
    """Return how often each word occurs in `tokens`, special ones left out."""
    counts = np.bincount(tokens.ravel(), minlength=len(words)).tolist()
    return dict(list(zip(words, counts, strict=True))[len(SPECIAL_TOKENS) :])
