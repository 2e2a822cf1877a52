"""The built-in sample: drawn scenes as a COCO captions file and a folder of JPEGs."""

import io
import json
import random
from typing import Any

from PIL import Image
from tqdm import tqdm

from captionflow.core.draft import begin
from captionflow.core.licenses import COCO_LICENSES
from captionflow.core.manifest import FileInfo
from captionflow.core.steps import SAMPLE
from captionflow.sample import scenes
from captionflow.sample.parameters import SampleParameters

ANNOTATIONS, IMAGES = "captions.json", "images"
_JPEG_QUALITY = 92
# About one picture in twenty has a licence that the default filter drops.
_LICENSE_WEIGHTS = (2, 2, 1, 40, 30, 0, 15, 10)


def sample(output: str, parameters: SampleParameters) -> str:
    """Draw the scenes and commit the artifact at `output`; returns its URI.

    The same parameters give the same bytes. Ingest it with
    `--sources OUTPUT/captions.json --image-root OUTPUT/images`.

    Raises:
        InvalidInputError: `output` is a folder that holds other files.
    """
    draft = begin(output, SAMPLE, parameters.to_json(), [])
    rng = random.Random(parameters.seed)
    files: list[FileInfo] = []
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id in tqdm(range(1, parameters.images + 1), "sample", unit=" images", disable=None):
        scene = scenes.random_scene(rng)
        picture = scenes.draw(scene)
        name = f"{image_id:012d}.jpg"
        files.append(draft.put(f"{IMAGES}/{name}", _jpeg(picture)))
        (license_id,) = rng.choices(range(1, len(COCO_LICENSES) + 1), _LICENSE_WEIGHTS)
        images.append(
            {
                "id": image_id,
                "file_name": name,
                "coco_url": f"{IMAGES}/{name}",
                "width": picture.width,
                "height": picture.height,
                "license": license_id,
            }
        )
        for text in scenes.captions(scene):
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, "caption": text})
    coco = {
        "info": {"description": "CaptionFlow's built-in sample: drawn scenes"},
        "licenses": [{"id": i, "name": name} for i, name in enumerate(COCO_LICENSES, start=1)],
        "images": images,
        "annotations": annotations,
    }
    files.append(draft.put(ANNOTATIONS, json.dumps(coco).encode()))
    draft.commit(files, counts={"images": len(images), "captions": len(annotations)})
    return draft.uri


def _jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()
