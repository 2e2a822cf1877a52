"""The TFX pipeline as the main environment has it: its DAG and its commands, with and without TFX's environment."""

import contextlib
import json
import logging
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pytest
from google.protobuf.text_encoding import CEscape
from hypothesis import given
from hypothesis import strategies as st

from captionflow.sources.csv_export import COLUMNS
from tests.dags import load
from tests.processes import captionflow, wait_until
from tests.test_dag import RUN_AT, Airflow
from tfx_pipeline.logs import Formatter
from tfx_pipeline.parameters import TfxParameters, TfxSettings
from tfx_pipeline.topology import topology

ROOT = Path(__file__).parents[1]
DAG = "image_captioning_tfx"
GOOD_ROW = "318556,255,An angled view.,http://a.example/1.jpg,1.jpg,Attribution License\n"
HEADER = ",".join(COLUMNS) + "\n"
HEAVY = {"tfx", "tensorflow", "apache_beam", "ml_metadata", "torch", "kfp"}


def test_airflow_has_the_same_graph() -> None:
    dag = load()[DAG]
    assert {task.task_id: sorted(task.upstream_task_ids) for task in dag.tasks} == topology()
    form = {name: dag.params.get_param(name) for name in dag.params}
    schema = TfxParameters.json_schema()
    assert form.keys() == schema.keys() - TfxSettings.json_schema().keys()
    assert all(form[name].description == schema[name]["description"] for name in form)


@pytest.mark.parametrize(
    ("metadata", "tasks"), [(None, 1), ("", 1), ("/data/metadata.db", 1), ("postgresql://me:pw@host/db", 16)]
)
def test_sqlite_has_one_writer_at_a_time(monkeypatch: pytest.MonkeyPatch, metadata: str | None, tasks: int) -> None:
    if metadata is not None:
        monkeypatch.setenv("CAPTIONFLOW_TFX_METADATA", metadata)
    assert load(ROOT / "dags" / f"{DAG}.py")[DAG].max_active_tasks == tasks


def test_a_component_ends_with_the_process_that_started_it() -> None:
    code = "import subprocess, sys, time; print(subprocess.Popen(sys.argv[1:]).pid, flush=True); time.sleep(600)"
    component = [sys.executable, "-m", "tfx_pipeline.task"]
    with subprocess.Popen(
        [sys.executable, "-c", code, *component], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        child = psutil.Process(int(parent.stdout.readline()))
        try:
            # Not before it watches its parent; until then the test must end it.
            wait_until(lambda: child.num_threads() > 1)
            parent.kill()
            # Its input stays open; at the end of its input it would end by itself.
            wait_until(lambda: not child.is_running())
        finally:
            parent.kill()
            with suppress(psutil.NoSuchProcess):
                child.kill()


def test_a_dag_file_imports_nothing_heavy() -> None:
    code = f"""
import runpy, sys
runpy.run_path({str(ROOT / "dags" / "image_captioning_tfx.py")!r})
import captionflow.cli.tfx
print(*sorted({{name.partition(".")[0] for name in sys.modules}} & {HEAVY!r}))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", "lacks the column image_id"),
        (HEADER.encode(), "holds no captions"),
        ((HEADER + GOOD_ROW).replace("caption,", "text,").encode(), "lacks the column caption"),
        (HEADER.encode() + GOOD_ROW.encode().replace(b"angled", b"\xff\xfe"), "is not UTF-8 (near byte"),
    ],
)
def test_a_csv_that_cannot_be_used_is_one_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "captions.csv"
    if content is not None:
        file.write_bytes(content)
    done = captionflow("tfx", "run", "--csv", str(file), "--pipeline-root", str(tmp_path / "root"))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("captionflow: --csv:")
    assert message in line
    assert "captions.csv" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--module-file", "{tmp}/none.py"], "--module-file: {tmp}/none.py: cannot be read"),
        (["--module-file", "{tmp}/broken.py"], "is not Python"),
        (["--module-file", "{tmp}/half.py"], "defines no run_fn"),
        (["--pipeline-root", "/proc/here"], "--pipeline-root: /proc/here: cannot be written"),
        (["--runner", "DataflowRunner"], "--gcp-project: DataflowRunner needs it"),
        (["--runner", "FlinkRunner"], "--beam-options: FlinkRunner needs --flink_master"),
        (["--epochs", "0"], "--epochs"),
        (["--runner", "NoSuchRunner"], "NoSuchRunner"),
    ],
)
def test_an_argument_that_cannot_be_used_is_named(tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "captions.csv").write_text(HEADER + GOOD_ROW)
    (tmp_path / "half.py").write_text("def preprocessing_fn(inputs):\n    return inputs\n")
    (tmp_path / "broken.py").write_text("def (")
    given_ = [argument.format(tmp=tmp_path) for argument in arguments]
    done = captionflow("tfx", "run", "--csv", str(tmp_path), "--pipeline-root", str(tmp_path / "root"), *given_)
    assert done.returncode == 2
    assert message.format(tmp=tmp_path) in done.stderr
    assert "Traceback" not in done.stderr


def test_without_its_environment_a_command_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "captions.csv").write_text(HEADER + GOOD_ROW)
    monkeypatch.setenv("CAPTIONFLOW_TFX_PYTHON", str(tmp_path / "python"))
    done = captionflow("tfx", "run", "--csv", str(tmp_path), "--pipeline-root", str(tmp_path / "root"))
    assert done.returncode == 2
    assert done.stderr == (
        f"captionflow: {tmp_path}/python: no such Python; `make tfx` installs TFX beside the checkout, "
        "or CAPTIONFLOW_TFX_PYTHON names another Python\n"
    )


def test_a_python_without_tfx_is_refused_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "captions.csv").write_text(HEADER + GOOD_ROW)
    monkeypatch.setenv("CAPTIONFLOW_TFX_PYTHON", sys.executable)
    done = captionflow("tfx", "run", "--csv", str(tmp_path), "--pipeline-root", str(tmp_path / "root"))
    assert done.returncode == 2
    assert done.stderr.startswith(f"captionflow: {sys.executable}: has no TFX; `make tfx` installs")


@pytest.mark.security
@given(secret=st.text(min_size=4))
def test_no_spelling_of_a_secret_is_logged(secret: str) -> None:
    spelled = [
        secret,
        quote(secret, safe=""),
        repr(secret),
        CEscape(secret, as_utf8=True),
        CEscape(secret, as_utf8=False),
    ]
    for text in spelled:
        record = logging.LogRecord("tfx", logging.INFO, __file__, 1, "password: <%s>", (text,), None)
        shown = Formatter("%(message)s", secret).format(record)
        assert shown.strip("'\"") in ("password: <***>", "password: <'***'>", 'password: <"***">')


class TfxAirflow(Airflow):
    """Runs of the TFX DAG."""

    def dag_test(self, conf: dict[str, Any]) -> list[str]:
        return [sys.executable, "-m", "tests.dag_test", DAG, RUN_AT, json.dumps(conf)]


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> TfxAirflow:
    return TfxAirflow(tmp_path_factory.mktemp("airflow"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tfx_python": sys.executable}, f"{sys.executable}: has no TFX; `make tfx` installs TFX"),
        ({}, "/none/captions.csv: no such file, or no .csv file in it"),
    ],
)
def test_what_cannot_work_fails_at_once_with_one_line(
    airflow: TfxAirflow, tmp_path: Path, settings: dict[str, str], message: str
) -> None:
    done = airflow.set(**settings).run_dag({"csv": f"{tmp_path}/none/captions.csv"})
    assert done.returncode == 1
    assert message in done.stdout
    assert airflow.retried() == []


# In place of TFX's Python: prints something, starts a child, and waits; its environment lacks the worker's secrets.
WAITING = """#!{python}
import json, os, subprocess, sys, time
request = json.load(sys.stdin)
print("INFO:tfx:begun " + request["component"], file=sys.stderr, flush=True)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
with open({pids!r}, "w") as file:
    left = [name for name in os.environ if "AIRFLOW__" in name or name == "PYTHONPATH"]
    file.write(f"{{os.getpid()}} {{child.pid}} " + " ".join(left))
time.sleep(600)
"""


@pytest.mark.slow
def test_a_stopped_task_ends_all_that_its_component_started(airflow: TfxAirflow, tmp_path: Path) -> None:
    pids, log = tmp_path / "pids", tmp_path / "log"
    python = tmp_path / "python"
    python.write_text(WAITING.format(python=sys.executable, pids=str(pids)))
    python.chmod(0o755)
    airflow = airflow.set(tfx_python=str(python))
    airflow.env |= {"AIRFLOW__CORE__FERNET_KEY": "not for TFX", "PYTHONUNBUFFERED": "1"}
    assert "PYTHONPATH" in airflow.env
    with log.open("wb") as sink:
        interpreter, *arguments = airflow.dag_test({"csv": f"{tmp_path}/captions.csv"})
        run = subprocess.Popen([interpreter, "-P", *arguments], env=airflow.env, stdout=sink, stderr=sink)
    try:
        wait_until(lambda: pids.exists() and len(pids.read_text().split()) > 1, 120)
        wait_until(lambda: "INFO:tfx:begun " in log.read_text(), 20)
        first, second, *secrets = pids.read_text().split()
        assert secrets == ["_AIRFLOW__AS_LIBRARY"]
        run.send_signal(signal.SIGINT)
        wait_until(lambda: not any(psutil.pid_exists(int(pid)) for pid in (first, second)), 60)
    finally:
        # The run may have begun its next task.
        for process in (*psutil.Process(run.pid).children(recursive=True), run):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        run.wait()
