"""Caption pictures with a trained model."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from safetensors.torch import load

from captionflow.captioner.dataset import to_tensor
from captionflow.captioner.model import Captioner, ModelConfig
from captionflow.captioner.models import BUILT_IN, CAPTIONERS, captioner_named
from captionflow.captioner.train import CONFIG, VOCABULARY, WEIGHTS, choose_device
from captionflow.captioner.vocabulary import Vocabulary
from captionflow.core.artifact import open_artifact
from captionflow.core.errors import InvalidInputError
from captionflow.core.steps import MODEL
from captionflow.core.uris import file_system
from captionflow.images.decode import ImageError, process
from captionflow.images.parameters import ImageParameters


@dataclass(frozen=True)
class TrainedModel:
    """A loaded model artifact: the network, the vocabulary, and how its pictures were prepared."""

    captioner: Captioner
    vocabulary: Vocabulary
    images: ImageParameters
    device: torch.device

    def caption(self, images: torch.Tensor, beam_size: int) -> list[str]:
        """Return a caption for each of the pictures, uint8 [B, 3, H, W]."""
        ids = self.captioner.generate(images.to(self.device), beam_size=beam_size)
        return [self.vocabulary.decode(row) for row in ids.tolist()]


def load_model(uri: str) -> TrainedModel:
    """Load the model artifact at `uri` onto the best device of this machine.

    Raises:
        InvalidInputError: `uri` is no model artifact, or its captioner is none of `CAPTIONERS`.
    """
    artifact = open_artifact(uri, MODEL)
    config = json.loads(artifact.read(CONFIG))
    device = choose_device("auto")
    name = config.get("captioner", BUILT_IN)
    if name not in [*CAPTIONERS]:
        raise InvalidInputError(f"{artifact.uri}/{CONFIG}: its captioner {name!r:.100} is none of {[*CAPTIONERS]}")
    captioner = captioner_named(name)(ModelConfig(**config["model"]))
    captioner.load_state_dict(load(artifact.read(WEIGHTS)))
    captioner.to(device).eval()
    vocabulary = Vocabulary.from_json(artifact.read(VOCABULARY))
    return TrainedModel(captioner, vocabulary, ImageParameters.from_mapping(config["images"]), device)


def caption(images: Iterable[str], model: str, beam_size: int) -> Iterator[tuple[str, str]]:
    """Yield each image's URI with its caption; the pictures are prepared like those of the training.

    Raises:
        InvalidInputError: an image cannot be read, or `model` is no model artifact.
    """
    trained = load_model(model)
    for uri in images:
        fs, path = file_system(uri)
        try:
            stored = process(fs.cat_file(path), trained.images)
        except (OSError, ImageError) as error:
            raise InvalidInputError(
                f"{uri}: {'no such file' if isinstance(error, FileNotFoundError) else error}"
            ) from error
        picture = to_tensor(stored.data, trained.images.image_format, stored.height, stored.width)
        yield uri, trained.caption(picture[None], beam_size)[0]
