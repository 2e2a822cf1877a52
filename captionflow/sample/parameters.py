"""The parameters of the built-in dataset."""

from dataclasses import dataclass

from captionflow.core.parameters import Parameters, parameter


@dataclass(frozen=True, kw_only=True)
class SampleParameters(Parameters):
    """The built-in dataset."""

    images: int = parameter(900, "Pictures to draw; each has five captions.", minimum=1, maximum=1_000_000)
    seed: int = parameter(0, "Seed of the scenes.", minimum=0, maximum=2**32 - 1)
