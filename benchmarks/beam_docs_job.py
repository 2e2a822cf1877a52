"""The preprocessing job with the structure of the Beam documentation's example, as a baseline.

    python -m benchmarks.beam_docs_job captions.jsonl OUTPUT

One element is one caption: its image is requested each time, decoded in full, made a float tensor,
resized and stored. The structure is the documentation's; the code is our own.
"""

import io
import json
import sys
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import requests
import torch
from apache_beam.io.avroio import WriteToAvro
from PIL import Image

SIZE = 224
SCHEMA = {
    "type": "record",
    "name": "Sample",
    "fields": [
        {"name": "id", "type": "long"},
        {"name": "caption", "type": "string"},
        {"name": "image", "type": "bytes"},
    ],
}


def download(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Request the image of one caption; pixels as a float tensor of shape (3, height, width), 0 to 1."""
    answer = requests.get(row["image_url"], timeout=30)
    if answer.status_code == requests.codes.ok:
        pixels = np.array(Image.open(io.BytesIO(answer.content)).convert("RGB"))
        yield {**row, "image": torch.from_numpy(pixels).permute(2, 0, 1).float() / 255}


def resize(row: dict[str, Any]) -> dict[str, Any]:
    """Resize to a square."""
    batch = row["image"][None]
    return {**row, "image": torch.nn.functional.interpolate(batch, (SIZE, SIZE), mode="bilinear", antialias=True)[0]}


def clean(row: dict[str, Any]) -> dict[str, Any]:
    """Lower the caption and drop its punctuation."""
    words = "".join(char for char in row["caption"].lower() if char.isalnum() or char == " ")
    return {**row, "caption": words.strip()}


def serialize(row: dict[str, Any]) -> dict[str, Any]:
    """Return the record to store."""
    buffer = io.BytesIO()
    torch.save(row["image"], buffer)
    return {"id": row["id"], "caption": row["caption"], "image": buffer.getvalue()}


def main() -> None:
    """Run the job."""
    captions, output = sys.argv[1:]
    # Not DirectRunner, which would download a Prism binary and run that.
    with beam.Pipeline("FnApiRunner") as pipeline:
        (
            pipeline
            | beam.io.ReadFromText(captions)
            | beam.Map(json.loads)
            | beam.FlatMap(download)
            | beam.Map(resize)
            | beam.Map(clean)
            | beam.Map(serialize)
            | WriteToAvro(output, SCHEMA, file_name_suffix=".avro")
        )


if __name__ == "__main__":
    main()
