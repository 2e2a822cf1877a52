"""How long Airflow takes to parse the DAG file, against a file that only imports the Beam operator.

    python benchmarks/dag_parse.py [--rounds 5]

Each parse is a new process that has Airflow loaded, as the DAG processor's children have. The two
files take turns; medians are compared. Goal: at most 1.3 times.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

DAGS = Path(__file__).parents[1] / "dags"
BARE = "from airflow.providers.apache.beam.operators.beam import BeamRunPythonPipelineOperator  # airflow dag\n"
PARSE = """
import sys, time
from airflow.models.dagbag import DagBag
start = time.perf_counter()
bag = DagBag(sys.argv[1], include_examples=False)
seconds = time.perf_counter() - start
assert not bag.import_errors, bag.import_errors
print(seconds)
"""


def parse_seconds(file: Path) -> float:
    """Parse one DAG file in a new process."""
    command = [sys.executable, "-W", "ignore", "-c", PARSE, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="parses of each file (default 5)")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder, "bare.py")
        bare.write_text(BARE)
        files = {"bare Beam operator": bare, **{path.name: path for path in sorted(DAGS.glob("*.py"))}}
        seconds: dict[str, list[float]] = {name: [] for name in files}
        for _ in range(rounds):
            for name, path in files.items():
                seconds[name].append(parse_seconds(path))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, median in medians.items():
        print(f"{name:<24} {median:6.2f} s   {median / medians['bare Beam operator']:.2f} ×")


if __name__ == "__main__":
    main()
