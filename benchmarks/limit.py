"""Measure the upper limit of preprocessing: decode, resize and encode as the job does, and nothing else.

    python -m benchmarks.limit FOLDER COUNT PROCESSES

Pictures come from memory, without network and Beam, and each process works alone. It prints images per
second, without the start of the processes.
"""

import multiprocessing
import sys
import time
from pathlib import Path
from typing import Any

from captionflow.images.decode import process
from captionflow.preprocess.parameters import PreprocessParameters


def work(pictures: list[bytes], count: int, barrier: Any) -> None:
    """Process `count` pictures once all workers are ready."""
    parameters = PreprocessParameters(resize="pad")
    process(pictures[0], parameters)
    barrier.wait()
    for number in range(count):
        process(pictures[number % len(pictures)], parameters)


def main() -> None:
    """Measure and print."""
    folder, count, processes = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    pictures = [path.read_bytes() for path in sorted(folder.glob("*.jpg"))]
    barrier = multiprocessing.Barrier(processes + 1)
    workers = [
        multiprocessing.Process(target=work, args=(pictures, count // processes, barrier)) for _ in range(processes)
    ]
    for worker in workers:
        worker.start()
    barrier.wait()
    start = time.perf_counter()
    for worker in workers:
        worker.join()
    print(count / (time.perf_counter() - start))


if __name__ == "__main__":
    main()
