"""Measure the time and memory of ingest, and of validate, on a collection of COCO train2014's size.

    python benchmarks/ingest.py [--images N] [--captions N] [--gzip]

The collection is synthetic, with COCO's fields and their typical lengths. Each command runs in a process of its own;
the peak resident memory of ingest is printed beside the goal of 300 MB.
"""

import argparse
import gzip
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from captionflow.core.licenses import COCO_LICENSES

GOAL_MB = 300
_WORDS = ("a", "the", "man", "woman", "dog", "red", "bicycle", "standing", "street", "kitchen", "next", "to", "on")


def main() -> None:
    """Write the collection, ingest it, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=82_783)
    parser.add_argument("--captions", type=int, default=414_113)
    parser.add_argument("--gzip", action="store_true", help="compress the source")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="captionflow-benchmark-") as folder:
        source = Path(folder, "captions.json.gz" if arguments.gzip else "captions.json")
        with gzip.open(source, "wb", 6) if arguments.gzip else source.open("wb") as file:
            written = sum(file.write(part.encode()) for part in _coco(arguments.images, arguments.captions))
        ingested = f"{folder}/ingested"
        seconds = _seconds("ingest", "--sources", str(source), "--output", ingested)
        counts = json.loads(Path(folder, "ingested", "manifest.json").read_bytes())["counts"]
        # Linux counts in KiB, macOS in bytes.
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        print(f"JSON             {written / 1e6:8.1f} MB, the file {source.stat().st_size / 1e6:.1f} MB")
        print(f"captions         {counts['captions']['in']:8d}, {counts['images']} images")
        print(f"time             {seconds:8.1f} s, {counts['captions']['in'] / seconds:.0f} captions/s")
        print(f"peak memory      {peak / 1e6:8.0f} MB, goal: under {GOAL_MB} MB")
        seconds = _seconds("validate", "--ingested", ingested, "--output", f"{folder}/validation")
        print(f"validate         {seconds:8.1f} s, {counts['captions']['in'] / seconds:.0f} captions/s")


def _seconds(*arguments: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "captionflow", *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def _coco(images: int, captions: int) -> Iterator[str]:
    """Yield the JSON text piece by piece."""
    rng = random.Random(0)
    licenses = [
        {"id": i, "name": name, "url": "http://creativecommons.org/licenses/by-nc-sa/2.0/"}
        for i, name in enumerate(COCO_LICENSES, start=1)
    ]
    yield f'{{"info": {{"description": "synthetic", "year": 2014}}, "licenses": {json.dumps(licenses)}, "images": ['
    for i in range(images):
        yield (", " if i else "") + json.dumps(_image(rng, i))
    yield '], "annotations": ['
    for i in range(captions):
        caption = " ".join(rng.choices(_WORDS, k=11)).capitalize() + "."
        yield (", " if i else "") + json.dumps({"image_id": i % images, "id": i, "caption": caption})
    yield "]}"


def _image(rng: random.Random, number: int) -> dict[str, object]:
    name = f"COCO_train2014_{number:012d}.jpg"
    photo = f"{rng.randrange(10**9, 10**10)}_{rng.randrange(16**10):010x}_z.jpg"
    return {
        "license": 1 + number % len(COCO_LICENSES),
        "file_name": name,
        "coco_url": f"http://images.cocodataset.org/train2014/{name}",
        "height": 480,
        "width": 640,
        "date_captured": f"2013-11-{1 + number % 28:02d} {number % 24:02d}:{number % 60:02d}:{number % 59:02d}",
        "flickr_url": f"http://farm{1 + number % 9}.staticflickr.com/{rng.randrange(1000, 9999)}/{photo}",
        "id": number,
    }


if __name__ == "__main__":
    main()
