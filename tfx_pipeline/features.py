"""Turn captions into the language model's features, in a TensorFlow Transform graph.

    python -m tfx_pipeline.features "A room with blue walls." …

runs `preprocessing_fn` on a few captions and prints the features.
"""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam

from captionflow.captioner.vocabulary import BOS, EOS, PAD, SPECIAL_TOKENS, UNK
from captionflow.core.errors import InvalidInputError
from tfx_pipeline.parameters import TfxParameters

RAW_FEATURE = "caption"
TOKENS, LENGTH = "tokens", "length"
_VOCABULARY = "words"
# Shares of the mean caption length.
_SHORT, _LONG = 0.8, 1.2
_EMPTY_SPLIT = "a split holds no captions: there are too few images, or --eval-percent is extreme"
_EXAMPLES = (
    "A bicycle replica with a clock as the front wheel.",
    "A black Honda motorcycle parked in front of a garage.",
    "A room with blue walls, a white sink and a door.",
)


def preprocessing_fn(inputs: Mapping[str, Any], custom_config: Mapping[str, Any]) -> dict[str, Any]:
    """Turn captions into the model's features; TFX's Transform calls this function by its name.

    Args:
        custom_config: `max_caption_length` and `vocabulary_size`, as in TfxParameters.

    Returns:
        `tokens`, int64 (batch, max_caption_length): `BOS token… EOS PAD…`;
        `length`, string (batch,): short, medium or long, beside the mean length of all captions.

    Raises:
        InvalidInputError: the schema has no captions.
    """
    if RAW_FEATURE not in inputs:
        raise InvalidInputError(_EMPTY_SPLIT)
    max_length = custom_config["max_caption_length"]
    words = tf.strings.split(clean(_column(inputs[RAW_FEATURE])))
    ranks = tft.compute_and_apply_vocabulary(
        words, default_value=-1, top_k=custom_config["vocabulary_size"], vocab_filename=_VOCABULARY
    )
    ids = tf.where(ranks < 0, tf.constant(UNK, tf.int64), ranks + len(SPECIAL_TOKENS))
    ones = tf.ones([ids.nrows(), 1], tf.int64)
    tokens = tf.concat([ones * BOS, ids[:, : max_length - 2], ones * EOS], axis=1)
    length = tf.cast(words.row_lengths(), tf.float32)
    share = length / tft.mean(length)
    return {
        TOKENS: tokens.to_tensor(PAD, shape=[None, max_length]),
        LENGTH: tf.where(share < _SHORT, "short", tf.where(share > _LONG, "long", "medium")),
    }


def clean(captions: tf.Tensor) -> tf.Tensor:
    """Clean captions like `captionflow.preprocess.cleaning.clean_caption`, for text in NFC, as graph operations."""
    # `lower` ends a text at its first NUL.
    text = tf.strings.lower(tf.strings.regex_replace(captions, r"\x00", " "), "utf-8")
    for pattern, replacement in (
        (r"(?:[a-z][a-z0-9+.-]{0,30}://|www\.)[^\s\p{Z}]+", " "),
        (r"['’ʼ]|\p{Cf}", ""),
        (r"[^\p{L}\p{M}\p{N}]+", " "),
    ):
        text = tf.strings.regex_replace(text, pattern, replacement)
    return tf.strings.strip(text)


def vocabulary(output: tft.TFTransformOutput) -> list[str]:
    """Return the token of each id."""
    return [*SPECIAL_TOKENS, *(word.decode() for word in output.vocabulary_by_name(_VOCABULARY))]


def read_tokens(patterns: Sequence[str], output: tft.TFTransformOutput) -> np.ndarray:
    """Read the `tokens` of all transformed examples, int64 (captions, max_caption_length).

    They are sorted: Beam keeps no order, and the same captions must train the same model.

    Raises:
        InvalidInputError: there are none.
    """
    spec = {TOKENS: output.transformed_feature_spec()[TOKENS]}
    files = tf.data.TFRecordDataset(tf.io.gfile.glob(list(patterns)), compression_type="GZIP")
    parsed = files.batch(1024).map(lambda examples: tf.io.parse_example(examples, spec)[TOKENS])
    batches = list(parsed.as_numpy_iterator())
    if not batches:
        raise InvalidInputError(_EMPTY_SPLIT)
    tokens = np.concatenate(batches)
    return tokens[np.lexsort(tokens.T[::-1])]


def _column(feature: Any) -> tf.Tensor:
    """Return a feature with at most one value an example as (batch,); an example without it gets an empty text."""
    if isinstance(feature, tf.SparseTensor):
        feature = tf.sparse.to_dense(tf.SparseTensor(feature.indices, feature.values, [feature.dense_shape[0], 1]), "")
    return tf.reshape(feature, [-1])


def main() -> None:
    """Run `preprocessing_fn` on the captions of the command line."""
    parser = argparse.ArgumentParser("python -m tfx_pipeline.features", description=main.__doc__)
    parser.add_argument("captions", nargs="*", default=_EXAMPLES, help="captions; by default three examples")
    captions = parser.parse_args().captions
    spec = {RAW_FEATURE: tf.io.FixedLenFeature([], tf.string)}
    metadata = tft.DatasetMetadata.from_feature_spec(spec)
    config = TfxParameters().to_json()
    with tempfile.TemporaryDirectory() as folder, tft_beam.Context(folder):
        (rows, _), _ = (
            [{RAW_FEATURE: caption} for caption in captions],
            metadata,
        ) | tft_beam.AnalyzeAndTransformDataset(lambda inputs: preprocessing_fn(inputs, config))
    for caption, row in zip(captions, rows, strict=True):
        print(f"{caption}\n  tokens  {row[TOKENS].tolist()}\n  length  {row[LENGTH].decode()}")


if __name__ == "__main__":
    main()
