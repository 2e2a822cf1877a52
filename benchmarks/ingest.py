"""Measure the time and memory of ingest, and of validate, on a collection of COCO train2014's size, or on Parquet.

    python benchmarks/ingest.py [--images N] [--captions N] [--gzip]
    python benchmarks/ingest.py --parquet [--captions N]

The collection is synthetic, with COCO's fields and their typical lengths, or LAION's columns of URLs and texts in files
of a million rows. Each command runs in a process of its own; the peak resident memory of ingest is printed, for COCO's
size beside the goal of 300 MB.
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

import pyarrow as pa
import pyarrow.parquet as pq

from captionflow.core.licenses import COCO_LICENSES

GOAL_MB = 300
_ROWS_OF_A_TABLE = 1_000_000
_WORDS = ("a", "the", "man", "woman", "dog", "red", "bicycle", "standing", "street", "kitchen", "next", "to", "on")


def main() -> None:
    """Write the collection, ingest it, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=82_783)
    parser.add_argument("--captions", type=int, default=414_113)
    parser.add_argument("--gzip", action="store_true", help="compress the source")
    parser.add_argument("--parquet", action="store_true", help="one caption an image, in Parquet")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="captionflow-benchmark-") as folder:
        source = Path(folder, "source")
        written = _write_parquet(source, arguments.captions) if arguments.parquet else _write_coco(source, arguments)
        ingested = f"{folder}/ingested"
        seconds = _seconds("ingest", "--sources", str(source), "--output", ingested)
        counts = json.loads(Path(folder, "ingested", "manifest.json").read_bytes())["counts"]
        # Linux counts in KiB, macOS in bytes.
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        print(f"source           {written / 1e6:8.1f} MB")
        print(f"captions         {counts['captions']['in']:8d}, {counts['images']} images")
        print(f"time             {seconds:8.1f} s, {counts['captions']['in'] / seconds:.0f} captions/s")
        print(f"peak memory      {peak / 1e6:8.0f} MB{'' if arguments.parquet else f', goal: under {GOAL_MB} MB'}")
        seconds = _seconds("validate", "--ingested", ingested, "--output", f"{folder}/validation")
        print(f"validate         {seconds:8.1f} s, {counts['captions']['in'] / seconds:.0f} captions/s")


def _write_coco(path: Path, arguments: argparse.Namespace) -> int:
    """Write the collection as COCO's JSON; returns its size in bytes, not compressed."""
    with gzip.open(path, "wb", 6) if arguments.gzip else path.open("wb") as file:
        return sum(file.write(part.encode()) for part in _coco(arguments.images, arguments.captions))


def _write_parquet(folder: Path, rows: int) -> int:
    """Write a folder of tables with LAION's columns; returns its size in bytes."""
    rng = random.Random(0)
    folder.mkdir()
    for first in range(0, rows, _ROWS_OF_A_TABLE):
        numbers = range(first, min(rows, first + _ROWS_OF_A_TABLE))
        urls = [f"https://images.example/{rng.getrandbits(64):016x}/{number}.jpg" for number in numbers]
        texts = [" ".join(rng.choices(_WORDS, k=11)).capitalize() for _ in numbers]
        table = pa.table({"URL": urls, "TEXT": texts, "NSFW": ["UNLIKELY"] * len(urls)})
        pq.write_table(table, folder / f"part-{first // _ROWS_OF_A_TABLE:05d}.parquet")
    return sum(path.stat().st_size for path in folder.iterdir())


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
