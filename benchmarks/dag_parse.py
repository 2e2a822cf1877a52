"""How long Airflow takes to parse the DAG files, against files that only import the operator they use.

    python benchmarks/dag_parse.py [--rounds 5]

Each parse is a new process that has Airflow loaded, as the DAG processor's children have. The files
take turns; medians are compared. Goal: at most 1.3 times. The plain form of the TFX DAG, which builds the
pipeline when it is parsed as TFX documents it, stands beside ours.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

DAGS = Path(__file__).parents[1] / "dags"
# What is only measured, not kept as a DAG file.
WRITTEN = {
    "bare Beam operator": "from airflow.providers.apache.beam.operators.beam import BeamRunPythonPipelineOperator",
    "bare Python operator": "from airflow.operators.python import PythonOperator",
    "plain TFX": """
from datetime import datetime

from tfx.orchestration.airflow.airflow_dag_runner import AirflowDagRunner, AirflowPipelineConfig

from tfx_pipeline.parameters import TfxParameters
from tfx_pipeline.pipeline import create_pipeline

config = AirflowPipelineConfig({"schedule": None, "start_date": datetime(2024, 1, 1)})
dag = AirflowDagRunner(config).run(create_pipeline(TfxParameters(csv="captions.csv"), "metadata.db"))
""",
}
BARE = {
    "image_captioning.py": "bare Beam operator",
    "image_captioning_tfx.py": "bare Python operator",
    "plain TFX": "bare Python operator",
}
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
    plugins = str(DAGS.parent / "plugins")
    env = os.environ | {"AIRFLOW__CORE__DAGS_FOLDER": str(DAGS), "AIRFLOW__CORE__PLUGINS_FOLDER": plugins}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env, cwd=file.parent)
    return float(done.stdout.split()[-1])


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="parses of each file (default 5)")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        files = {name: DAGS / name for name in BARE if name not in WRITTEN}
        for name, source in WRITTEN.items():
            files[name] = Path(folder, name.replace(" ", "_") + ".py")
            files[name].write_text(f"{source}  # airflow dag\n")
        seconds: dict[str, list[float]] = {name: [] for name in files}
        for _ in range(rounds):
            for name, path in files.items():
                seconds[name].append(parse_seconds(path))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, median in medians.items():
        ratio = f"{median / medians[BARE[name]]:6.2f} × the {BARE[name]}" if name in BARE else ""
        print(f"{name:<24} {median:6.2f} s   {ratio}".rstrip())


if __name__ == "__main__":
    main()
