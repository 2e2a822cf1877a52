"""The captioner: a convolutional encoder and a Transformer decoder, from pixels to token ids.

Read it top to bottom. The encoder turns a picture into a grid of feature vectors, 16 times smaller
than the picture on each side; the decoder writes a caption word by word and attends to the words
so far (causal self-attention) and to the grid (cross-attention). At the default size it learns the
built-in sample on two CPU cores in about a minute; for photographs raise `width`,
`encoder_depth` and `decoder_depth` and train on a GPU.

This module has no training loop, files or words: see `captionflow.captioner.train`, `captionflow.captioner.vocabulary`.

Sources: Vaswani et al. 2017, "Attention is all you need" (decoder); Xiong et al. 2020, "On layer
normalization in the Transformer architecture" (normalising before each block); He et al. 2016,
"Deep residual learning" (residual blocks); Xu et al. 2015, "Show, attend and tell" (attending to a
grid of convolutional features).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captionflow.captioner.vocabulary import BOS, EOS, PAD, UNK

#: Pixels of the picture to one cell of the encoder's grid, on each side.
STRIDE = 16
# Mean and standard deviation of ImageNet's pixels, 0 to 255, as customary for photographs.
_PIXEL_MEAN = (123.675, 116.28, 103.53)
_PIXEL_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class ModelConfig:
    """The captioner's shape; everything needed, with the weights, to build it again.

    Attributes:
        vocabulary_size: number of token ids, the four special ones included.
        image_size: side of the square input pictures, in pixels; a multiple of `STRIDE`.
        width: length of the feature vectors; a multiple of `heads` and of 4.
        encoder_depth: residual blocks in the encoder.
        decoder_depth: Transformer blocks.
        heads: attention heads in each Transformer block.
        dropout: probability of zeroing an activation while training.
        max_length: longest sequence of token ids the decoder can read or write.

    Raises:
        ValueError: a value is out of range or does not divide as it must.
    """

    vocabulary_size: int
    image_size: int = 224
    width: int = 96
    encoder_depth: int = 1
    decoder_depth: int = 2
    heads: int = 4
    dropout: float = 0.1
    max_length: int = 40

    def __post_init__(self) -> None:
        for name in ("width", "image_size", "decoder_depth", "heads", "max_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.encoder_depth < 0:
            raise ValueError(f"encoder_depth must not be negative, not {self.encoder_depth}")
        if self.vocabulary_size <= UNK + 1:
            raise ValueError(f"vocabulary_size {self.vocabulary_size} leaves no room for words")
        if self.image_size % STRIDE:
            raise ValueError(f"image_size must be a multiple of {STRIDE}, not {self.image_size}")
        if self.width % 4 or self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of 4 and of {self.heads} heads")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), not {self.dropout}")


class Captioner(nn.Module):
    """Pictures in, next-token logits (`forward`) or whole captions (`generate`) out.

    The weights are drawn from the global torch generator: after the same `torch.manual_seed` two
    models are identical, and on a CPU so are two trainings.

    Another captioner is a subclass with another encoder or decoder (`captionflow.captioner.models`).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder: nn.Module = Encoder(config)
        self.decoder: nn.Module = Decoder(config)

    def forward(self, images: Tensor, tokens: Tensor) -> Tensor:
        """Logits of the token after each prefix (teacher forcing).

        Args:
            images: [B, 3, image_size, image_size] RGB; uint8, or floating point in 0 to 1.
            tokens: [B * K, T] int64, T at most `max_length`: K captions of the first picture, then
                K of the second, and so on. Each picture is encoded once, whatever K is.

        Returns:
            [B * K, T, vocabulary_size] floating point; position t has seen tokens 0 to t.
        """
        logits: Tensor = self.decoder(self.encoder(images), tokens)
        return logits

    def loss(self, images: Tensor, captions: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Mean cross-entropy per token, in nats.

        Args:
            images: as in `forward`.
            captions: [B * K, T] int64, each `BOS, words, EOS, PAD...`; T at most `max_length` + 1.
            label_smoothing: share of the probability spread over the vocabulary (Szegedy et al.
                2016); 0 when measuring.

        Returns:
            A scalar, averaged over all tokens that are to be predicted and are not `PAD`.
        """
        logits = self(images, captions[:, :-1])
        return F.cross_entropy(
            logits.flatten(0, 1).float(),
            captions[:, 1:].flatten(),
            ignore_index=PAD,
            label_smoothing=label_smoothing,
        )

    @torch.no_grad()
    def generate(
        self,
        images: Tensor,
        beam_size: int = 1,
        max_length: int | None = None,
        length_penalty: float = 0.7,
    ) -> Tensor:
        """Writes one caption for each picture; put the model in `eval` mode first.

        Keeps the `beam_size` most probable prefixes of each picture, extending all at once, until
        as many captions of it are finished. The result is the finished caption with the greatest
        log-probability divided by `((5 + length) / 6) ** length_penalty` (Wu et al. 2016,
        "Google's neural machine translation system", eq. 14), or the most probable prefix if none
        was finished in time. With `beam_size` 1 this is greedy decoding. `UNK` is never written.

        Args:
            images: [B, 3, image_size, image_size] as in `forward`.
            beam_size: prefixes kept for each picture.
            max_length: tokens to write at most, `EOS` included; the model's own by default.
            length_penalty: 0 compares plain log-probabilities, which favours short captions.

        Returns:
            [B, L] int64, L at most `max_length`: words, `EOS`, then `PAD`; no `BOS`. A row that
            reached `max_length` has no `EOS`.

        Raises:
            ValueError: `beam_size` or `max_length` is out of range.
        """
        steps = self.config.max_length if max_length is None else max_length
        if not 1 <= steps <= self.config.max_length:
            raise ValueError(f"max_length must be in 1 to {self.config.max_length}, not {steps}")
        if beam_size < 1:
            raise ValueError(f"beam_size must be at least 1, not {beam_size}")
        grid = self.encoder(images)
        batch, device = len(images), images.device
        vocabulary = self.config.vocabulary_size
        first_row = torch.arange(batch, device=device)[:, None] * beam_size

        tokens = torch.full((batch * beam_size, 1), BOS, device=device)
        # All beams begin alike: let only the first of each picture be extended at the first step.
        scores = torch.full((batch, beam_size), -math.inf, device=device)
        scores[:, 0] = 0.0
        result = torch.full((batch, steps), PAD, device=device)
        result_score = torch.full((batch,), -math.inf, device=device)
        finished = torch.zeros(batch, dtype=torch.long, device=device)
        for length in range(1, steps + 1):
            # Captions are short: reading the prefix anew each time is simpler than a cache.
            logits = self.decoder(grid, tokens)[:, -1].float()
            logits[:, [PAD, BOS, UNK]] = -math.inf
            total = scores.view(-1, 1) + logits.log_softmax(-1)
            # Each beam can end in one way only, so half of twice as many candidates can continue.
            ranked, best = total.view(batch, -1).topk(2 * beam_size)
            beam, word = best // vocabulary, best % vocabulary
            extended = torch.cat([tokens[first_row + beam], word[:, :, None]], dim=2)

            # To finish, a caption must be among the best `beam_size`: greedy stays greedy.
            ends = (word == EOS) & ranked.isfinite() & (finished < beam_size)[:, None]
            ends[:, beam_size:] = False
            length_norm = ((5 + length) / 6) ** length_penalty
            score, which = (ranked / length_norm).masked_fill(~ends, -math.inf).max(1)
            ending = extended[torch.arange(batch, device=device), which, 1:]
            better = score > result_score
            result_score = torch.where(better, score, result_score)
            result[:, :length] = torch.where(better[:, None], ending, result[:, :length])
            finished += ends.sum(1)

            scores, continuing = ranked.masked_fill(word == EOS, -math.inf).topk(beam_size)
            tokens = extended.gather(1, continuing[:, :, None].expand(-1, -1, length + 1))
            tokens = tokens.flatten(0, 1)
            if bool((finished >= beam_size).all()):
                break
        longest = tokens.shape[1] - 1
        unfinished = tokens[first_row[:, 0], 1:]  # topk sorts: a picture's first beam is its best
        return torch.where((finished > 0)[:, None], result[:, :longest], unfinished)


class Encoder(nn.Module):
    """[B, 3, S, S] pictures to [B, (S / 16)^2, width] feature vectors, with their positions added."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(_PIXEL_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_PIXEL_STD).view(3, 1, 1), persistent=False)
        quarter, half, full = config.width // 4, config.width // 2, config.width
        # The first convolution shrinks the picture fourfold, since there are the most pixels.
        # The residual blocks work on the grid itself: small shapes need a grid this fine, and on
        # the built-in sample blocks before it cost much time and improved little.
        self.stages = nn.Sequential(
            _convolution(3, quarter, kernel=7, stride=4),
            nn.ReLU(),
            _convolution(quarter, half, kernel=3, stride=2),
            nn.ReLU(),
            _convolution(half, full, kernel=3, stride=2),
            nn.ReLU(),
            *(ResidualBlock(full) for _ in range(config.encoder_depth)),
        )
        side = config.image_size // STRIDE
        # As large as the features (of deviation 1 after `norm`), so that "left of" is learnt early.
        self.row = nn.Parameter(0.5 * torch.randn(side, 1, full))
        self.column = nn.Parameter(0.5 * torch.randn(1, side, full))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, S, S] uint8, or floating point in 0 to 1, to [B, (S / 16)^2, width]."""
        pixels = images.float() if images.dtype == torch.uint8 else images * 255.0
        pixels = (pixels - self.mean) / self.std
        # Convolutions over channels-last memory are faster on CPUs and on tensor cores, and their
        # output has it too. The weights stay contiguous, as safetensors requires.
        features = self.stages(pixels.contiguous(memory_format=torch.channels_last))
        grid: Tensor = self.norm(features.permute(0, 2, 3, 1)) + self.row + self.column
        return grid.flatten(1, 2)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions whose result is added to their input; [B, C, H, W] to the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _convolution(width, width, kernel=3, stride=1)
        self.second = _convolution(width, width, kernel=3, stride=1)

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, H, W] to the same shape."""
        change: Tensor = self.second(F.relu(self.first(features)))
        return F.relu(features + change)


class Decoder(nn.Module):
    """[B, N, width] grids and [B * K, T] tokens to [B * K, T, vocabulary_size] logits."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.words = nn.Embedding(config.vocabulary_size, config.width)
        self.places = nn.Embedding(config.max_length, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(DecoderBlock(config) for _ in range(config.decoder_depth))
        self.norm = nn.LayerNorm(config.width)
        self._initialise(config)

    def _initialise(self, config: ModelConfig) -> None:
        """Draw normal weights and set zero biases, as GPT-2 does (Radford et al. 2019).

        GPT-2's deviation of 0.02 is meant for its width of 768 or more; at this width it makes
        attention so even at first that the model ignores the picture for long.
        """
        deviation = 0.8 / math.sqrt(config.width)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=deviation)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        # What each block adds shrinks with the number of additions, so depth is stable.
        for name, weight in self.named_parameters():
            if name.endswith("out.weight"):
                nn.init.normal_(weight, std=deviation / math.sqrt(3 * config.decoder_depth))

    def forward(self, grid: Tensor, tokens: Tensor) -> Tensor:
        """Logits of the token after each prefix; the two batch sizes give K."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.dropout(self.words(tokens) + self.places(places))
        for block in self.blocks:
            x = block(x, grid)
        # The words' embeddings serve as output weights too (Press and Wolf 2017).
        return F.linear(self.norm(x), self.words.weight)


class DecoderBlock(nn.Module):
    """Self-attention over the words so far, cross-attention over the grid, then an MLP."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.width
        self.self_norm = nn.LayerNorm(width)
        self.self_attention = Attention(width, config.heads)
        self.cross_norm = nn.LayerNorm(width)
        self.cross_attention = Attention(width, config.heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential()
        self.mlp.add_module("in", nn.Linear(width, 4 * width))
        self.mlp.add_module("activation", nn.GELU())
        self.mlp.add_module("out", nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, grid: Tensor) -> Tensor:
        """x: [B * K, T, width]; grid: [B, N, width]; returns the shape of x."""
        # PAD needs no mask: it comes after all words, and causality hides it from them.
        y = self.self_norm(x)
        x = x + self.dropout(self.self_attention(y, y, causal=True))
        # No word attends to other words here, so the K captions of a picture can be joined to one
        # sequence: the grid is then used once instead of being repeated K times.
        y = self.cross_norm(x).reshape(len(grid), -1, x.shape[-1])
        x = x + self.dropout(self.cross_attention(y, grid).reshape(x.shape))
        x = x + self.dropout(self.mlp(self.mlp_norm(x)))
        return x


class Attention(nn.Module):
    """Multi-head scaled dot-product attention: [B, T, C] attends to [B, N, C]; returns [B, T, C]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, queries: Tensor, memory: Tensor, causal: bool = False) -> Tensor:
        """Returns the shape of `queries`; `causal` hides the keys after each query's position."""

        def split(x: Tensor) -> Tensor:  # [B, T, C] -> [B, heads, T, C / heads]
            return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)

        key, value = self.key_value(memory).chunk(2, dim=-1)
        attended = F.scaled_dot_product_attention(
            split(self.query(queries)), split(key), split(value), is_causal=causal
        )
        mixed: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return mixed


def _convolution(width_in: int, width_out: int, kernel: int, stride: int) -> nn.Sequential:
    """Convolution and normalisation: [B, C, H, W] to [B, C', H / stride, W / stride]."""
    return nn.Sequential(
        nn.Conv2d(width_in, width_out, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(width_out),
    )
