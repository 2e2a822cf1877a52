"""The parameters of the validate step."""

from dataclasses import dataclass
from typing import Literal

from captionflow.core.parameters import URI, Parameters, parameter


@dataclass(frozen=True, kw_only=True)
class ValidateParameters(Parameters):
    """What the captions are compared with, and what becomes of a difference."""

    schema: str | None = parameter(
        None,
        "Schema that the ingested captions are held to: URI of a JSON file, or of a validation artifact, which has "
        "one. By default it is inferred from the captions themselves.",
        reaches=URI,
    )
    baseline: str | None = parameter(
        None,
        "URI of an earlier ingested or validation artifact: how far the captions have drifted from it is measured.",
        reaches=URI,
    )
    on_anomaly: Literal["warn", "fail"] = parameter(
        "warn",
        "What becomes of an anomaly. warn: it is logged and reported; fail: the step fails, unless the schema says of "
        "its name that it only warns.",
    )
    max_share_change: float = parameter(
        0.1,
        "Largest change since the baseline of the share of a word, a licence, a host, a split or a language.",
        minimum=0.0,
        maximum=1.0,
    )
    max_divergence: float = parameter(
        0.1,
        "Largest Jensen-Shannon divergence, in bits, between the lengths of the captions and those of the baseline; "
        "likewise of the captions an image.",
        minimum=0.0,
        maximum=1.0,
    )
    language_sample: int = parameter(
        10_000,
        "Captions whose language is guessed, which takes long: about so many, chosen by a hash of their ids. 0: none.",
        minimum=0,
        maximum=1_000_000,
    )
