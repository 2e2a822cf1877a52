"""Compare the preprocess job on Flink clusters of one and of two task managers with DirectRunner.

    make flink && python -m benchmarks.flink [--count 5000] [--rounds 3]

Each task manager works on one part at a time. Everything runs on this machine, the image server included. So this
measures the cost of Flink, and not the gain of more machines. Figures are medians of interleaved runs.
"""

import argparse
import statistics
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

from benchmarks import contenders, pictures
from benchmarks.measure import Measurement, median
from benchmarks.preprocess import ROOT, Case, describe, log, run
from tests.flink_cluster import flink_cluster, missing

RESULT = ROOT / "benchmarks" / "results" / "flink.md"
DIRECT = "DirectRunner"


def main() -> None:
    """Measure, print and save the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=5000, help="images to fetch (default 5000)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each (default 3)")
    arguments = parser.parse_args()
    if reason := missing():
        parser.error(reason)
    measured: dict[str, list[Measurement]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="captionflow-benchmark-") as folder, ExitStack() as running:
        drawn = Path(folder, "pictures")
        pictures.draw(drawn, 64, 640, 480, quality=88)
        size = statistics.mean(path.stat().st_size for path in drawn.iterdir())
        cases = [Case(DIRECT, contenders.captionflow(), arguments.count)]
        for number in (1, 2):
            home = Path(folder, str(number))
            home.mkdir()
            cluster = running.enter_context(flink_cluster(home, number))
            beam = cluster.beam_arguments(number)
            cases.append(Case(f"Flink, task managers: {number}", contenders.captionflow(*beam), arguments.count))
        for number in range(arguments.rounds):
            for case in cases:
                log(f"round {number + 1} of {arguments.rounds}: {case.name}")
                measured[case.name].append(run(case, drawn, latency=0))
    text = table({name: median(rows) for name, rows in measured.items()})
    text = f"{arguments.count} images; {describe(None, size)}. Medians of {arguments.rounds} runs.\n\n{text}"
    print(text)
    RESULT.write_text(text)


def table(measured: dict[str, Measurement]) -> str:
    """Return the figures as a Markdown table, with their ratios to DirectRunner's."""
    lines = ["| | wall, s | ÷ DirectRunner's | steady images/s | ÷ DirectRunner's |", "| --- " * 5 + "|"]
    direct = measured[DIRECT]
    for name, m in measured.items():
        ratios = m.wall / direct.wall, m.steady / direct.steady
        lines.append(f"| {name} | {m.wall:.1f} | {ratios[0]:.2f} | {m.steady:.0f} | {ratios[1]:.2f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
