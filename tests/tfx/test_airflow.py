"""The same pipeline by three runners: TFX's local one, AirflowDagRunner under Airflow 3, and under Airflow 2.11."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from captionflow.sources.csv_export import FILE
from tests.tfx.conftest import QUICK, latest, pushed, run
from tfx_pipeline import plain_dag
from tfx_pipeline.parameters import METADATA_FILE, PIPELINE_NAME
from tfx_pipeline.topology import topology

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
RUN_AT = "2026-02-03T04:05:06+00:00"


def environment(home: Path, **settings: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if "AIRFLOW_" not in name}
    return kept | {"AIRFLOW_HOME": str(home), "AIRFLOW__CORE__LOAD_EXAMPLES": "False", **settings}


def airflow(python: Path | str, env: dict[str, str], dag_test: list[str]) -> None:
    """Run a DAG to its success in an Airflow of its own."""
    for command in (["-m", "airflow", "db", "migrate"], dag_test):
        done = subprocess.run([python, *command], env=env, capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.fixture(scope="module")
def local(csv_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("local") / "root"
    done = run(f"{csv_uri}/{FILE}", root)
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture(scope="module")
def current(csv_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the DAG image_captioning_tfx under the main environment's Airflow; returns Airflow's home."""
    home = tmp_path_factory.mktemp("airflow3")
    env = environment(
        home,
        AIRFLOW__CORE__DAGS_FOLDER=str(ROOT / "dags"),
        CAPTIONFLOW_PIPELINE_ROOT=str(home / "root"),
        CAPTIONFLOW_TRIGGER_PREFIXES="*",
        CAPTIONFLOW_TFX_PYTHON=sys.executable,
    )
    conf = json.dumps({"csv": f"{csv_uri}/{FILE}", **QUICK})
    airflow(ROOT / ".venv" / "bin" / "python", env, ["-m", "tests.dag_test", PIPELINE_NAME, RUN_AT, conf])
    return home


@pytest.fixture(scope="module")
def plain(csv_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the plain form under Airflow 2.11; returns the pipeline's root."""
    home = tmp_path_factory.mktemp("airflow2")
    env = environment(
        home,
        AIRFLOW__CORE__DAGS_FOLDER=str(Path(plain_dag.__file__)),
        AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT="300",
        CAPTIONFLOW_CSV=f"{csv_uri}/{FILE}",
        CAPTIONFLOW_PIPELINE_ROOT=str(home / "root"),
        **{f"CAPTIONFLOW_{name.upper()}": str(value) for name, value in QUICK.items()},
    )
    airflow(sys.executable, env, ["-W", "ignore", "-m", "airflow", "dags", "test", PIPELINE_NAME, RUN_AT])
    return home / "root"


@pytest.mark.parametrize("name", ["current", "plain"])
def test_airflow_makes_the_same_of_the_same_captions(local: Path, name: str, request: pytest.FixtureRequest) -> None:
    from tfx_pipeline.results import metrics

    folder: Path = request.getfixturevalue(name)
    root = folder / "root" if name == "current" else folder
    assert pushed(root).is_dir()
    made = [metrics(str(latest(one, "Evaluator/evaluation/*"))) for one in (local, root)]
    assert made[0] == made[1]
    for pattern in ("SchemaGen/schema/*/schema.pbtxt", "Transform/transform_graph/*/transform_fn/assets/words"):
        assert latest(local, pattern).read_bytes() == latest(root, pattern).read_bytes()
    assert statistics(local) == statistics(root)
    with sqlite3.connect(root / METADATA_FILE) as database:
        names = {name for (name,) in database.execute("SELECT name FROM Context")}
    assert f"{PIPELINE_NAME}.manual__{RUN_AT}.Trainer" in names


def test_a_tasks_xcom_is_where_its_outputs_are(current: Path) -> None:
    with sqlite3.connect(current / "airflow.db") as database:
        rows = database.execute("SELECT task_id, value FROM xcom WHERE key = 'return_value'").fetchall()
    outputs = {task: json.loads(value) for task, value in rows}
    assert outputs.keys() == topology().keys()
    assert outputs["CsvExampleGen"] == {"examples": [str(latest(current / "root", "CsvExampleGen/examples/*"))]}
    assert outputs["Evaluator"].keys() == {"blessing", "evaluation"}


def statistics(root: Path) -> dict[str, Any]:
    """Statistics of the captions by split."""
    import tensorflow_data_validation as tfdv
    from google.protobuf import json_format

    folder = latest(root, "StatisticsGen/statistics/*")
    statistics = {}
    for split in ("train", "eval"):
        stats = tfdv.load_stats_binary(str(folder / f"Split-{split}" / "FeatureStats.pb"))
        statistics[split] = json_format.MessageToDict(stats)
    return statistics
