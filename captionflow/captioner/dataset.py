"""Read the preprocessed artifact as batches of tensors."""

import io
import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from captionflow.captioner.vocabulary import PAD, Vocabulary
from captionflow.core.artifact import Artifact
from captionflow.core.errors import InvalidInputError
from captionflow.core.manifest import FileInfo
from captionflow.core.records import Sample
from captionflow.core.shards import read_shard
from captionflow.images.formats import IMAGE_FORMATS
from captionflow.images.parameters import ImageParameters

# Samples (encoded pictures) in the shuffle buffer: far more than a batch, some tens of megabytes.
_SHUFFLE_BUFFER = 2048


@dataclass(frozen=True)
class Batch:
    """B pictures with K captions each; pictures with fewer captions are filled up with empty ones.

    images: uint8 [B, 3, H, W] RGB. tokens: int64 [B * K, T], each `BOS … EOS` then PAD, or all PAD.
    """

    images: torch.Tensor
    tokens: torch.Tensor
    samples: list[Sample]

    def to(self, device: torch.device) -> "Batch":
        """Return the batch with its tensors on `device`."""
        return Batch(self.images.to(device, non_blocking=True), self.tokens.to(device, non_blocking=True), self.samples)


def to_tensor(image: bytes, image_format: str, height: int, width: int) -> torch.Tensor:
    """Return a stored image as uint8 [3, height, width]."""
    if IMAGE_FORMATS[image_format].pillow is None:
        return torch.frombuffer(bytearray(image), dtype=torch.uint8).view(3, height, width)
    with Image.open(io.BytesIO(image)) as picture:
        return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)


class Samples(IterableDataset[Sample]):
    """The samples of one split: with a `seed` in a new order each `epoch`, without one in stored order.

    Args:
        check: check the shards against the manifest while they are read. Once is enough; not for loader workers, since
            each reads only a part of the shards.

    Raises:
        InvalidInputError: the split holds no image, the manifest's parameters are not those of a preprocess job, or
            (while iterating) a shard is not as the manifest says.
    """

    def __init__(self, artifact: Artifact, split: str, seed: int | None = None, *, check: bool = False) -> None:
        self._artifact, self._split, self._seed, self._check = artifact, split, seed, check
        self.count = artifact.count("splits", split, default=0)
        if not self.count:
            raise InvalidInputError(
                f"{artifact.uri}: its {split} split is empty; preprocess with another --split or more images"
            )
        self._shards = artifact.files(f"{split}/")
        self.images = ImageParameters.from_mapping(artifact.manifest.parameters)
        self.epoch = 0

    def __iter__(self) -> Iterator[Sample]:
        shards = list(self._shards)
        rng = None if self._seed is None else random.Random(f"{self._seed}/{self.epoch}")
        if rng:
            rng.shuffle(shards)
        worker = get_worker_info()
        if worker:
            shards = shards[worker.id :: worker.num_workers]
        samples = self._counted(shards) if self._check else self._read(shards)
        return samples if rng is None else _shuffled(samples, rng)

    def _counted(self, shards: list[FileInfo]) -> Iterator[Sample]:
        count = 0
        for sample in self._read(shards):
            count += 1
            yield sample
        if count != self.count:
            raise InvalidInputError(
                f"{self._artifact.uri}: its {self._split} split holds {count} images, its manifest says {self.count}"
            )

    def _read(self, shards: list[FileInfo]) -> Iterator[Sample]:
        for file in shards:
            with self._artifact.parse(file.path, check=self._check) as shard:
                yield from read_shard(shard, file.path)


class Collate:
    """Turns samples into a Batch."""

    def __init__(self, vocabulary: Vocabulary, image_format: str, max_length: int) -> None:
        self._vocabulary, self._format, self._max_length = vocabulary, image_format, max_length

    def __call__(self, samples: list[Sample]) -> Batch:
        """Stack pictures of one size and pad their captions.

        Raises:
            InvalidInputError: a picture cannot be decoded.
        """
        images = torch.stack([self._picture(sample) for sample in samples])
        encoded = [[self._vocabulary.encode(c.text, self._max_length) for c in s.captions] for s in samples]
        captions = max(len(ids) for ids in encoded)
        length = max(len(ids) for per_image in encoded for ids in per_image)
        tokens = torch.full((len(samples), captions, length), PAD)
        for i, per_image in enumerate(encoded):
            for j, ids in enumerate(per_image):
                tokens[i, j, : len(ids)] = torch.tensor(ids)
        return Batch(images, tokens.flatten(0, 1), samples)

    def _picture(self, sample: Sample) -> torch.Tensor:
        try:
            return to_tensor(sample.image, self._format, sample.height, sample.width)
        except Exception as error:  # Pillow may raise anything on a broken file.
            raise InvalidInputError(
                f"the stored picture of image {sample.image_id} cannot be decoded; preprocess again"
            ) from error


def loader(samples: Samples, collate: Collate, batch_size: int, workers: int = 0) -> DataLoader[Batch]:
    """Return an iterable of batches of `batch_size` pictures; the last may be smaller."""
    # PyTorch's types have it that batches are of the type of samples.
    return DataLoader(samples, batch_size=batch_size, collate_fn=collate, num_workers=workers)  # type: ignore[arg-type]


def _shuffled(samples: Iterator[Sample], rng: random.Random) -> Iterator[Sample]:
    buffer: list[Sample] = []
    for sample in samples:
        if len(buffer) < _SHUFFLE_BUFFER:
            buffer.append(sample)
        else:
            index = rng.randrange(_SHUFFLE_BUFFER)
            yield buffer[index]
            buffer[index] = sample
    rng.shuffle(buffer)
    yield from buffer
