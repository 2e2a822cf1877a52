"""A next-word model of captions: the network, its training, and the functions of the served model."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
import tf_keras as keras

from captionflow.captioner.vocabulary import BOS, EOS, PAD, UNK

NEXT_WORDS = 5
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training:
    """The result of a training.

    Attributes:
        epochs: number of passes over the training split.
        perplexity: e to the mean cross-entropy of a token of the evaluation split, in nats.
        unigram_perplexity: the perplexity of a model that knows only how often each token occurs.
    """

    epochs: int
    perplexity: float
    unigram_perplexity: float


def build_network(vocabulary_size: int, width: int) -> keras.Model:
    """Return a network: token ids (batch, time) int64 → logits of the next token (batch, time, vocabulary) float32."""
    tokens = keras.Input((None,), dtype=tf.int64)
    vectors = keras.layers.Embedding(vocabulary_size, width)(tokens)
    states = keras.layers.GRU(width, return_sequences=True)(vectors)
    return keras.Model(tokens, keras.layers.Dense(vocabulary_size)(states))


def train(
    train_tokens: np.ndarray,
    eval_tokens: np.ndarray,
    vocabulary_size: int,
    log_dir: str,
    hyperparameters: Mapping[str, int | float],
) -> tuple[keras.Model, Training]:
    """Train until the loss on `eval_tokens` stops falling, and keep the best weights.

    Args:
        train_tokens, eval_tokens: int64 (captions, max length): `BOS token… EOS PAD…`.
        vocabulary_size: number of token ids, special tokens included.
        log_dir: folder for TensorBoard.
        hyperparameters: `width`, `learning_rate`, `batch_size`, `epochs`, `patience` and `seed`.
    """
    keras.utils.set_random_seed(int(hyperparameters["seed"]))
    tf.config.experimental.enable_op_determinism()
    network = build_network(vocabulary_size, int(hyperparameters["width"]))
    network.compile(
        keras.optimizers.Adam(hyperparameters["learning_rate"]),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=[
            keras.metrics.SparseCategoricalCrossentropy("cross_entropy", from_logits=True),
            keras.metrics.SparseCategoricalAccuracy("accuracy"),
        ],
    )
    batch_size = int(hyperparameters["batch_size"])
    stop = keras.callbacks.EarlyStopping(
        "val_cross_entropy", mode="min", patience=int(hyperparameters["patience"]), restore_best_weights=True
    )
    history = network.fit(
        _batches(train_tokens, batch_size, shuffle_seed=int(hyperparameters["seed"])),
        validation_data=_batches(eval_tokens, batch_size),
        epochs=int(hyperparameters["epochs"]),
        callbacks=[stop, keras.callbacks.TensorBoard(log_dir), keras.callbacks.LambdaCallback(on_epoch_end=_log_epoch)],
        verbose=0,
    ).history
    return network, Training(
        len(history["cross_entropy"]),
        float(np.exp(min(history["val_cross_entropy"]))),
        unigram_perplexity(train_tokens, eval_tokens, vocabulary_size),
    )


def _log_epoch(epoch: int, logs: Mapping[str, float]) -> None:
    train_loss, eval_loss = logs["cross_entropy"], logs["val_cross_entropy"]
    _LOG.info("epoch %d: cross-entropy %.3f, on the evaluation split %.3f", epoch + 1, train_loss, eval_loss)


def unigram_perplexity(train_tokens: np.ndarray, eval_tokens: np.ndarray, vocabulary_size: int) -> float:
    """Perplexity on `eval_tokens` of the unigram model of `train_tokens`, with add-one (Laplace) smoothing."""
    train_counts, eval_counts = (
        np.bincount(tokens[:, 1:].ravel(), minlength=vocabulary_size).astype(float)
        for tokens in (train_tokens, eval_tokens)
    )
    train_counts[PAD] = eval_counts[PAD] = 0
    log_shares = np.log((train_counts + 1) / (train_counts + 1).sum())
    return float(np.exp(-(eval_counts * log_shares).sum() / eval_counts.sum()))


def _batches(tokens: np.ndarray, batch_size: int, shuffle_seed: int | None = None) -> tf.data.Dataset:
    """Return batches of (input tokens, target tokens, weight of each target: 0 for padding)."""
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    dataset = tf.data.Dataset.from_tensor_slices((inputs, targets, (targets != PAD).astype(np.float32)))
    if shuffle_seed is not None:
        dataset = dataset.shuffle(len(tokens), seed=shuffle_seed)
    return dataset.batch(batch_size)


class ServedModel(tf.Module):
    """The exported model: the transform graph and the network in one, so that serving cannot differ from training.

    Args:
        transform: from raw to transformed features, as TensorFlow Transform gives it.
        raw_spec: how to parse the raw features of a serialised tf.Example.
        vocabulary: the token of each id.
    """

    def __init__(
        self, network: keras.Model, transform: keras.Model, raw_spec: Mapping[str, object], vocabulary: list[str]
    ) -> None:
        super().__init__()
        self.network, self.transform, self._raw_spec = network, transform, dict(raw_spec)
        self._vocabulary = tf.constant(vocabulary)
        examples = tf.TensorSpec([None], tf.string, name="examples")
        self.functions = {
            "serving_default": tf.function(self.continue_caption, [examples]),
            "transform_features": tf.function(self.transform_features, [examples]),
            "evaluate": tf.function(self.evaluate, [examples]),
        }

    def transform_features(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        """Serialised tf.Examples (batch,) → their transformed features."""
        features = self.transform(tf.io.parse_example(examples, self._raw_spec))
        return {
            name: tf.sparse.to_dense(value) if isinstance(value, tf.SparseTensor) else value
            for name, value in features.items()
        }

    def continue_caption(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        """Serialised tf.Examples (batch,) with the beginning of a `caption` → likely continuations.

        Returns:
            `caption` (batch,): the cleaned beginning and its greedy continuation up to the end;
            `next_words` and `probabilities` (batch, 5): the most likely next words, the best first; `<eos>` is
            the end of the caption.
        """
        tokens = self.transform_features(examples)["tokens"]
        # The transform ends each caption with EOS; here the caption continues.
        tokens = tf.where(tokens == EOS, tf.constant(PAD, tokens.dtype), tokens)
        length = tf.reduce_sum(tf.cast(tokens != PAD, tf.int32), axis=1)
        probabilities, best = tf.math.top_k(self._next_probabilities(tokens, length), NEXT_WORDS)
        return {
            "caption": self._detokenize(self._complete(tokens, length)),
            "next_words": tf.gather(self._vocabulary, best),
            "probabilities": probabilities,
        }

    def evaluate(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        """Serialised tf.Examples (batch,) → for each: `cross_entropy` in nats summed, `correct`, `tokens`; float32."""
        tokens = self.transform_features(examples)["tokens"]
        logits, targets = self.network(tokens[:, :-1]), tokens[:, 1:]
        weight = tf.cast(targets != PAD, tf.float32)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits)
        hits = tf.cast(tf.argmax(logits, axis=-1) == targets, tf.float32)
        return {
            "cross_entropy": tf.reduce_sum(losses * weight, axis=1),
            "correct": tf.reduce_sum(hits * weight, axis=1),
            "tokens": tf.reduce_sum(weight, axis=1),
        }

    def _next_probabilities(self, tokens: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
        """Return the probabilities (batch, vocabulary) of the token at `length`; only a word or EOS has any."""
        logits = tf.gather(self.network(tokens), length - 1, batch_dims=1)
        excluded = tf.reduce_sum(tf.one_hot([PAD, BOS, UNK], tf.shape(logits)[1]), axis=0)
        return tf.nn.softmax(logits - 1e9 * excluded)

    def _complete(self, tokens: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
        """Append the most likely token to each open caption until every caption has its EOS or is full."""
        time = tf.shape(tokens)[1]
        is_open = length < time

        def step(tokens: tf.Tensor, length: tf.Tensor, is_open: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            best = tf.argmax(self._next_probabilities(tokens, length), axis=1)
            position = tf.one_hot(length, time, on_value=True, off_value=False, dtype=tf.bool)
            tokens = tf.where(position & is_open[:, None], best[:, None], tokens)
            length = length + tf.cast(is_open, tf.int32)
            return tokens, length, is_open & (best != EOS) & (length < time)

        tokens, _, _ = tf.while_loop(
            lambda _tokens, _length, is_open: tf.reduce_any(is_open), step, (tokens, length, is_open)
        )
        return tokens

    def _detokenize(self, tokens: tf.Tensor) -> tf.Tensor:
        """Return the words of the tokens as text (batch,)."""
        words = tf.ragged.boolean_mask(tokens, (tokens != PAD) & (tokens != BOS) & (tokens != EOS))
        return tf.strings.reduce_join(tf.gather(self._vocabulary, words), axis=1, separator=" ")
