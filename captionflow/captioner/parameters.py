"""The parameters of the captioner: its size, its training, its captioning."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from captionflow.captioner import models
from captionflow.core.errors import InvalidInputError
from captionflow.core.parameters import Parameters, parameter


@dataclass(frozen=True, kw_only=True)
class TrainParameters(Parameters):
    """The captioner's size and how it is trained."""

    captioner: ClassVar[str] = models.BUILT_IN  # no parameter, since there is no other to choose

    epochs: int = parameter(14, "Passes over the training split, at most.", minimum=1, maximum=10_000, common=True)
    batch_size: int = parameter(
        16,
        "Images in a step; all captions of an image are in the same step.",
        minimum=1,
        maximum=4096,
        common=True,
    )
    learning_rate: float = parameter(3e-3, "Peak of the learning rate.", minimum=1e-7, maximum=1.0, common=True)
    warmup_share: float = parameter(
        0.1, "Share of the steps in which the learning rate rises.", minimum=0.0, maximum=1.0
    )
    weight_decay: float = parameter(0.05, "AdamW's weight decay, of matrices only.", minimum=0.0, maximum=1.0)
    label_smoothing: float = parameter(
        0.1, "Probability given to the other words in the loss.", minimum=0.0, maximum=0.9
    )
    gradient_clip: float = parameter(1.0, "Largest norm of the gradient.", minimum=1e-3, maximum=1e3)
    patience: int = parameter(
        10, "Epochs without a better validation loss before training stops.", minimum=1, maximum=10_000
    )
    width: int = parameter(
        96, "Length of the feature vectors; a multiple of 4 and of --heads.", minimum=8, maximum=4096
    )
    encoder_depth: int = parameter(1, "Residual blocks in each stage of the image encoder.", minimum=0, maximum=48)
    decoder_depth: int = parameter(2, "Transformer layers over the caption.", minimum=1, maximum=48)
    heads: int = parameter(4, "Attention heads of a layer.", minimum=1, maximum=64)
    dropout: float = parameter(
        0.0, "Share of activations dropped while training; worth 0.1 when epochs are many.", minimum=0.0, maximum=0.9
    )
    min_count: int = parameter(
        1, "How often a word must occur in the training split to be learnt.", minimum=1, maximum=1000
    )
    max_vocabulary: int = parameter(
        20_000,
        "Words learnt, at most: the most frequent ones. It bounds the memory, whatever the captions hold.",
        minimum=1,
        maximum=1_000_000,
    )
    max_caption_length: int = parameter(
        32, "Longest caption, in tokens, start and end included.", minimum=4, maximum=512
    )
    loader_workers: int = parameter(0, "Processes that decode images beside the training one.", minimum=0, maximum=64)
    device: Literal["auto", "cpu", "cuda", "mps"] = parameter(
        "auto", "Where to train; auto takes CUDA, then MPS, then the CPU."
    )
    seed: int = parameter(
        0, "Seed of the weights, the order of the images and dropout.", minimum=0, maximum=2**32 - 1, common=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % 4 or self.width % self.heads:
            raise InvalidInputError(f"--width: {self.width} is not a multiple of 4 and of --heads, {self.heads}")


@dataclass(frozen=True, kw_only=True)
class CaptionParameters(Parameters):
    """How captions are generated."""

    beam_size: int = parameter(1, "Beams of the caption search; 1 is greedy.", minimum=1, maximum=32, common=True)
