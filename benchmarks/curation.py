"""What curation finds, and what it costs.

    python -m benchmarks.curation found --images FOLDER [--planted 700]
    python -m benchmarks.curation pairs [--pictures 1000000]
    python -m benchmarks.curation speed --images FOLDER [--count 5000] [--rounds 3]

found: plants near duplicates of photographs and prints, by the way in which they were changed, how many are found, and
how many of the pairs found among the photographs themselves were not planted. pairs: seconds and memory to find the
near duplicates among random hashes, a tenth of which are planted. speed: the preprocess job with duplicates and the
basic filters beside the job without them, in turns.
"""

import argparse
import io
import random
import resource
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path

from PIL import Image, ImageEnhance, ImageOps

from benchmarks import contenders
from benchmarks.preprocess import Case, log, run
from captionflow.images.decode import process
from captionflow.images.formats import HASH_BITS
from captionflow.preprocess import duplicates
from captionflow.preprocess.duplicates import Edge, Picture, Place
from captionflow.preprocess.parameters import PreprocessParameters

_PARAMETERS = PreprocessParameters(duplicates="near")
_CURATED = ("--duplicates=near", "--filters=basic")


def _jpeg(image: Image.Image, quality: int = 85) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _cropped(image: Image.Image, share: float) -> Image.Image:
    width, height = (round(side * share / 2) for side in image.size)
    return image.crop((width, height, image.width - width, image.height - height))


CHANGES: dict[str, Callable[[Image.Image], bytes]] = {
    "re-encoded at quality 40": lambda image: _jpeg(image, 40),
    "half the size": lambda image: _jpeg(image.resize((image.width // 2, image.height // 2))),
    "twice the size": lambda image: _jpeg(image.resize((image.width * 2, image.height * 2))),
    "cropped by 2 %": lambda image: _jpeg(_cropped(image, 0.02)),
    "cropped by 5 %": lambda image: _jpeg(_cropped(image, 0.05)),
    "brighter by 20 %": lambda image: _jpeg(ImageEnhance.Brightness(image).enhance(1.2)),
    "in grey": lambda image: _jpeg(image.convert("L")),
    "with a white border of 2 %": lambda image: _jpeg(ImageOps.expand(image, image.width // 100, "white")),
    "flipped": lambda image: _jpeg(ImageOps.mirror(image)),
}


def found(arguments: argparse.Namespace) -> None:
    """Print recall by change, and the pairs that nobody planted."""
    paths = sorted(arguments.images.glob("*.jpg"))
    pictures = [_picture("train", number, path.read_bytes()) for number, path in enumerate(paths)]
    planted: dict[int, tuple[str, int]] = {}
    # Each photograph once: of two copies, one could be found by way of the other.
    chosen = iter(random.Random(0).sample(range(len(paths)), arguments.planted * len(CHANGES)))
    for change, make in CHANGES.items():
        for number in islice(chosen, arguments.planted):
            image_id = len(paths) + len(planted)
            planted[image_id] = (change, number)
            pictures.append(_picture("train", image_id, make(Image.open(paths[number]).convert("RGB"))))
    recalled, others = Counter[str](), []
    for each in duplicates.duplicates(_edges(pictures), _PARAMETERS):
        change, number = planted.get(each.place.image_id, ("", -1))
        if each.kept.image_id == number:
            recalled[change] += 1
        else:
            others.append([_name(place.image_id, paths, planted) for place in (each.place, each.kept)])
    print(
        f"{len(paths)} photographs, {arguments.planted} of each change; distance {_PARAMETERS.max_duplicate_distance}"
    )
    for change in CHANGES:
        print(f"{change:30} {100 * recalled[change] / arguments.planted:6.1f} % found")
    print(f"others that were left out: {len(others)}")
    for names in others:
        print("   ", *names)


def _name(image_id: int, paths: list[Path], planted: dict[int, tuple[str, int]]) -> str:
    change, number = planted.get(image_id, ("", image_id))
    return f"{paths[number].name} {change}".strip()


def _picture(split: str, image_id: int, data: bytes) -> Picture:
    stored = process(data, _PARAMETERS)
    return Picture(Place(3, image_id, f"{split}/0"), str(image_id), stored.perceptual_hash.hex())


def _edges(pictures: Iterable[Picture]) -> list[Edge]:
    """Find near duplicates as the job does, in one process and without Beam."""
    equal, buckets = defaultdict(list), defaultdict(list)
    for picture in pictures:
        equal[picture.perceptual_hash].append(picture)
    edges = []
    for members in equal.values():
        edges += duplicates.edges(members)
        for band, each in duplicates.bands(min(members)):
            buckets[band].append(each)
    log(f"largest bucket: {max(map(len, buckets.values()))} of {len(equal)} distinct hashes")
    for bucket in buckets.items():
        edges += duplicates.near_pictures(bucket, _PARAMETERS.max_duplicate_distance)
    return edges


def pairs(arguments: argparse.Namespace) -> None:
    """Print the time and memory of finding all pairs among random hashes."""
    rng, pictures = random.Random(0), list[Picture]()
    for image_id in range(arguments.pictures):
        bits = rng.getrandbits(HASH_BITS)
        if image_id % 10 == 0 and pictures:
            bits = int(rng.choice(pictures).perceptual_hash, 16)
            for bit in rng.sample(range(HASH_BITS), _PARAMETERS.max_duplicate_distance):
                bits ^= 1 << bit
        hashed = bits.to_bytes(HASH_BITS // 8).hex()
        pictures.append(Picture(Place(3, image_id, f"train/{image_id % 1000:05d}"), str(image_id), hashed))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    edges = _edges(pictures)
    left_out = duplicates.duplicates(edges, _PARAMETERS)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{arguments.pictures} pictures: {len(edges)} pairs, {len(left_out)} left out of {arguments.pictures // 10}")
    print(f"{seconds:.1f} s, {(after - before) / 1e3:.0f} MB")


def speed(arguments: argparse.Namespace) -> None:
    """Print the throughput with curation beside that without."""
    cases = {
        "plain": Case("without", contenders.captionflow(), arguments.count),
        "curated": Case(" ".join(_CURATED), contenders.captionflow(*_CURATED), arguments.count),
    }
    walls = defaultdict(list)
    for number in range(arguments.rounds):
        for name, case in cases.items():
            log(f"round {number + 1} of {arguments.rounds}: {case.name}")
            walls[name].append(run(case, arguments.images, 0.0).wall)
    ratios = [plain / curated for plain, curated in zip(walls["plain"], walls["curated"], strict=True)]
    for name, seconds in walls.items():
        rates = sorted(arguments.count / each for each in seconds)
        print(f"{cases[name].name:40} {statistics.median(rates):7.0f} images/s ({rates[0]:.0f} to {rates[-1]:.0f})")
    print(f"ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}); goal: at least 0.9")


def main() -> None:
    """Run what the first argument names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for function, needs_images in ((found, True), (pairs, False), (speed, True)):
        command = commands.add_parser(function.__name__)
        command.set_defaults(function=function)
        if needs_images:
            command.add_argument("--images", type=Path, required=True, help="folder of JPEGs")
    commands.choices["found"].add_argument("--planted", type=int, default=700, help="of each change (default 700)")
    commands.choices["pairs"].add_argument("--pictures", type=int, default=1_000_000)
    commands.choices["speed"].add_argument("--count", type=int, default=5000, help="images to fetch (default 5000)")
    commands.choices["speed"].add_argument("--rounds", type=int, default=3, help="runs of each (default 3)")
    arguments = parser.parse_args()
    arguments.function(arguments)


if __name__ == "__main__":
    main()
