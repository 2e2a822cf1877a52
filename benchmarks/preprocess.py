"""How fast the preprocess job is, beside img2dataset, the Beam documentation's job and the processor's limit.

    python -m benchmarks.preprocess [--images FOLDER] [--count 5000] [--rounds 3] [--latency-ms 0]

All fetch the same pictures from one local HTTP server and take turns; figures are medians of the
rounds. Steady images/s are measured from the first request to the last, wall time from the start
of the process. img2dataset is installed into an environment of its own under .bench. By default
it fits the picture into the square and pads it with white; ours does the same with --resize pad.
In the case with one CPU the server shares that CPU. The table and the plot go to benchmarks/results.
"""

import argparse
import os
import platform
import statistics
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from benchmarks import contenders, pictures
from benchmarks.contenders import Contender, Job
from benchmarks.measure import Measurement, median
from benchmarks.report import Report
from benchmarks.server import serve

ROOT = Path(__file__).parents[1]
SMALL = 500
# The documentation's job is slow: fewer images suffice to measure its rate.
DOCS_ONE, DOCS_FIVE = 300, 60


@dataclass(frozen=True)
class Case:
    """A contender with its numbers of images, captions an image and CPUs."""

    name: str
    contender: Contender
    images: int
    captions: int = 1
    cpus: frozenset[int] = frozenset(os.sched_getaffinity(0))


def main() -> None:
    """Measure, print and plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder of JPEGs (default: drawn at COCO's size)")
    parser.add_argument("--count", type=int, default=5000, help="images to fetch (default 5000)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each contender (default 3)")
    parser.add_argument("--latency-ms", type=float, default=0.0, help="delay before each answer (default 0)")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results", help="where results go")
    arguments = parser.parse_args()
    if arguments.images and not any(arguments.images.glob("*.jpg")):
        parser.error(f"--images: there is no .jpg in {arguments.images}")
    environment = ROOT / ".bench" / "img2dataset"
    contenders.install_img2dataset(environment)
    with tempfile.TemporaryDirectory(prefix="captionflow-benchmark-") as folder:
        large = arguments.images or Path(folder, "pictures")
        if not arguments.images:
            pictures.draw(large, 64, 640, 480, quality=88)
        tiny = Path(folder, "tiny")
        pictures.draw(tiny, 64, 96, 72, quality=85)
        measured, limits = run_rounds(compared(environment, arguments.count), large, arguments)
        measured |= run_once(growing(), tiny)
        measured |= run_once([Case("ours, 50 ms latency", contenders.captionflow(), arguments.count)], large, 0.05)
        size = statistics.mean(path.stat().st_size for path in large.glob("*.jpg"))
    report = Report(
        measured, statistics.median(limits), arguments.count, describe(large if arguments.images else None, size)
    )
    print(report.text())
    report.save(arguments.output)


def compared(environment: Path, count: int) -> list[Case]:
    """Return the cases that take turns."""
    ours, theirs = contenders.captionflow(), contenders.img2dataset(environment)
    sharded = contenders.img2dataset(environment, "--number_sample_per_shard=1000")
    return [
        Case("img2dataset", theirs, count),
        Case("img2dataset, 1,000 a shard", sharded, count),
        Case("ours", ours, count),
        Case("ours, five captions", ours, count, captions=5),
        Case("ours, one CPU", ours, count // 2, cpus=frozenset([0])),
        Case("img2dataset, few", theirs, SMALL),
        Case("ours, few", ours, SMALL),
        Case("Beam documentation", contenders.beam_docs, DOCS_ONE),
        Case("Beam documentation, five captions", contenders.beam_docs, DOCS_FIVE, captions=5),
    ]


def growing() -> list[Case]:
    """Return cases of more and more tiny pictures, whose memory, and time for a picture, should not grow."""
    return [Case(f"ours, {n} tiny", contenders.captionflow(), n) for n in (500, 5_000, 50_000)]


def run_rounds(
    cases: list[Case], folder: Path, arguments: argparse.Namespace
) -> tuple[dict[str, Measurement], list[float]]:
    """Run the cases and the limit in turns; returns the medians by name, and the limit of each round."""
    measured: dict[str, list[Measurement]] = defaultdict(list)
    limits = []
    for number in range(arguments.rounds):
        for case in cases:
            log(f"round {number + 1} of {arguments.rounds}: {case.name}")
            measured[case.name].append(run(case, folder, arguments.latency_ms / 1000))
        log(f"round {number + 1} of {arguments.rounds}: the limit")
        limits.append(contenders.limit(folder, arguments.count))
    return {name: median(values) for name, values in measured.items()}, limits


def run_once(cases: list[Case], folder: Path, latency: float = 0.0) -> dict[str, Measurement]:
    """Run each case once."""
    measured = {}
    for case in cases:
        log(case.name)
        measured[case.name] = run(case, folder, latency)
    return measured


def run(case: Case, folder: Path, latency: float) -> Measurement:
    """Run one case in a folder of its own."""
    work = tempfile.TemporaryDirectory(prefix="captionflow-benchmark-")
    with work as path, serve(folder, latency, set(case.cpus)) as traffic:
        measured = case.contender(Job(case.images, case.captions, Path(path), traffic, set(case.cpus)))
    log(f"    {measured.wall:.1f} s in all, {measured.steady:.0f} images/s")
    return measured


def log(text: str) -> None:
    """Print progress."""
    print(text, file=sys.stderr, flush=True)


def describe(folder: Path | None, size: float) -> str:
    """Return the machine and the pictures of the measurement, in words."""
    source = folder.name if folder else "drawn pictures, 640×480"
    return f"{os.cpu_count()} CPUs ({platform.machine()}), {source}, {size / 1000:.0f} KB on average"


if __name__ == "__main__":
    main()
