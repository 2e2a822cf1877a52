"""Karpathy's splits of COCO, Flickr8k and Flickr30k: one JSON object whose images hold their sentences and their split.

The files `dataset_coco.json`, `dataset_flickr8k.json` and `dataset_flickr30k.json` come from
https://cs.stanford.edu/people/karpathy/deepimagesent/. They name no URLs and no licences.
"""

from typing import Any

from captionflow.sources.caption_file import CaptionFile
from captionflow.sources.columns import Columns
from captionflow.sources.json_stream import first_object_keys, items
from captionflow.sources.parameters import IngestParameters
from captionflow.sources.rows import Rows, in_folder, reject, to_record

DESCRIPTION = "Karpathy's JSON (an object with images that hold sentences and a split)"
_LEVEL_OF_IMAGES = 3  # {"images": [{


def is_karpathy(head: bytes, columns: Columns) -> bool:
    """Whether a file that begins like this is of the format."""
    return head.startswith(b"{") and first_object_keys(head, _LEVEL_OF_IMAGES) >= {"sentences", "split"}


def read_karpathy(source: CaptionFile, parameters: IngestParameters, image_root: str | None) -> Rows:
    """Yield the captions of a source; its images are in `image_root`, a folder URI, or beside the file."""
    for image in items(source, "images"):
        row = _image(image, image_root)
        sentences = image.get("sentences")
        if not isinstance(sentences, list):
            yield reject(row, "ill_typed_field", "sentences is not a list")
            continue
        is_rest = image.get("split") == "restval" and not source.split
        if is_rest:
            row["split"] = parameters.restval
        for sentence in sentences:
            if not isinstance(sentence, dict):
                yield reject(row, "ill_typed_field", "a sentence is no object")
                continue
            caption = {**row, "id": sentence.get("sentid"), "caption": sentence.get("raw")}
            if is_rest and parameters.restval == "reject":
                yield reject(caption, "restval", "the image is in none of the splits (--restval)")
            else:
                yield to_record(caption, source)


def _image(image: dict[str, Any], image_root: str | None) -> dict[str, Any]:
    """Return the fields that the captions of an image share."""
    name, folder = image.get("filename"), image.get("filepath")  # COCO's images are in two folders
    path = f"{folder}/{name}" if isinstance(name, str) and isinstance(folder, str) and folder else name
    return {
        "image_id": image.get("cocoid", image.get("imgid")),
        "image_url": in_folder(image_root, path) if image_root and isinstance(path, str) else path,
        "image_name": name,
        "split": image.get("split"),
    }
