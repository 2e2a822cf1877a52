"""Measure how long Airflow takes to parse the DAG files, beside files that only import an operator.

    python benchmarks/dag_parse.py [--rounds 5]

Each parse is a new process that has Airflow loaded, as the DAG processor's children have. The files
take turns; medians are compared. Goal: at most 1.3 times. tfx_pipeline/plain_dag.py, which builds the pipeline when it
is parsed, is measured too, with the Airflow of TFX's environment (`make tfx` installs it).
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tfx_pipeline.environment import tfx_python

ROOT = Path(__file__).parents[1]
DAGS = ROOT / "dags"
WRITTEN = {
    "bare Beam operator": "from airflow.providers.apache.beam.operators.beam import BeamRunPythonPipelineOperator",
    "bare Python operator": "from airflow.providers.standard.operators.python import PythonOperator",
    "bare Python operator, Airflow 2": "from airflow.operators.python import PythonOperator",
}
PLAIN = "plain_dag.py"
BARE = {
    "image_captioning.py": "bare Beam operator",
    "image_captioning_tfx.py": "bare Python operator",
    "image_captioning_vertex.py": "bare Python operator",
    PLAIN: "bare Python operator, Airflow 2",
}
AIRFLOW_2 = {PLAIN, BARE[PLAIN]}
PARSE = """
import sys, time
from airflow.dag_processing.dagbag import BundleDagBag
start = time.perf_counter()
bag = BundleDagBag(sys.argv[1], bundle_path=sys.argv[2], bundle_name="dags-folder")
seconds = time.perf_counter() - start
assert not bag.import_errors, bag.import_errors
print(seconds)
"""
PARSE_2 = """
import sys, time
from airflow.models.dagbag import DagBag
start = time.perf_counter()
bag = DagBag(sys.argv[1], include_examples=False)
seconds = time.perf_counter() - start
assert not bag.import_errors, bag.import_errors
print(seconds)
"""


def parse_seconds(name: str, file: Path, home: str) -> float:
    """Parse one DAG file in a new process."""
    python, code = (tfx_python(), PARSE_2) if name in AIRFLOW_2 else (sys.executable, PARSE)
    env = {name: value for name, value in os.environ.items() if "AIRFLOW_" not in name} | {
        "AIRFLOW_HOME": f"{home}/{Path(python).parts[-3]}",
        "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "300",
        "CAPTIONFLOW_CSV": "captions.csv",
        "CAPTIONFLOW_PIPELINE_ROOT": f"{home}/root",
    }
    command = [python, "-W", "ignore", "-c", code, str(file), str(DAGS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env, cwd=file.parent)
    return float(done.stdout.split()[-1])


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="parses of each file (default 5)")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        files = {name: (ROOT / "tfx_pipeline" if name == PLAIN else DAGS) / name for name in BARE}
        for name, source in WRITTEN.items():
            files[name] = Path(folder, name.replace(" ", "_") + ".py")
            files[name].write_text(f"{source}  # airflow dag\n")
        seconds: dict[str, list[float]] = {name: [] for name in files}
        for _ in range(rounds):
            for name, path in files.items():
                seconds[name].append(parse_seconds(name, path, folder))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, median in medians.items():
        ratio = f"{median / medians[BARE[name]]:6.2f} × the {BARE[name]}" if name in BARE else ""
        print(f"{name:<24} {median:6.2f} s   {ratio}".rstrip())


if __name__ == "__main__":
    main()
