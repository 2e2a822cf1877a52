"""Metrics of a language model for TensorFlow Model Analysis: cross-entropy, perplexity and accuracy, by token."""

import math
from collections.abc import Callable, Iterable
from functools import partial

import apache_beam as beam
import numpy as np
from tensorflow_model_analysis.metrics import metric_types

# The outputs of the `evaluate` signature, one value a caption; the metrics sum them.
_SUMS = ("cross_entropy", "correct", "tokens")


class CrossEntropy(metric_types.Metric):
    """Mean cross-entropy of a token, in nats."""

    def __init__(self, name: str = "cross_entropy") -> None:
        super().__init__(
            partial(_computations, lambda cross_entropy, _correct, tokens: cross_entropy / tokens), name=name
        )


class Perplexity(metric_types.Metric):
    """e to the mean cross-entropy of a token in nats."""

    def __init__(self, name: str = "perplexity") -> None:
        super().__init__(
            partial(_computations, lambda cross_entropy, _correct, tokens: np.exp(cross_entropy / tokens)), name=name
        )


class Accuracy(metric_types.Metric):
    """Share of the tokens that the model predicted."""

    def __init__(self, name: str = "accuracy") -> None:
        super().__init__(partial(_computations, lambda _cross_entropy, correct, tokens: correct / tokens), name=name)


def _computations(
    value: Callable[..., float], name: str, model_names: list[str]
) -> list[metric_types.MetricComputation]:
    keys = [metric_types.MetricKey(name, model_name=model, example_weighted=False) for model in model_names]
    return [metric_types.MetricComputation(keys=[key], preprocessors=None, combiner=_SumFn(key, value)) for key in keys]


class _SumFn(beam.CombineFn):
    def __init__(self, key: metric_types.MetricKey, value: Callable[..., float]) -> None:
        self._key, self._value = key, value

    def create_accumulator(self) -> np.ndarray:
        return np.zeros(len(_SUMS))

    def add_input(self, sums: np.ndarray, element: metric_types.StandardMetricInputs) -> np.ndarray:
        outputs = element.get_predictions(self._key.model_name)
        return sums + [float(np.sum(outputs[name])) for name in _SUMS]

    def merge_accumulators(self, accumulators: Iterable[np.ndarray]) -> np.ndarray:
        return sum(accumulators, start=self.create_accumulator())

    def extract_output(self, sums: np.ndarray) -> dict[metric_types.MetricKey, float]:
        return {self._key: float(self._value(*sums)) if sums[-1] else math.nan}
