"""The Airflow DAG: how it parses, what its form offers, and real runs of it, disturbed and not."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from copy import copy
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import pytest

from captionflow.captioner.parameters import TrainParameters
from captionflow.core.artifact import open_artifact
from captionflow.core.summary import summary
from captionflow.evaluation.parameters import EvaluateParameters
from captionflow.preprocess.parameters import PreprocessParameters
from captionflow.sources.parameters import IngestParameters
from captionflow.validation.parameters import ValidateParameters
from tests.dags import DAGS, load
from tests.processes import kill_when
from tests.servers import Site

ROOT = Path(__file__).parents[1]
KINDS = ("ingested", "validation", "preprocessed", "model", "evaluation")
RUN_AT = "2026-01-02T03:04:05+00:00"
RUN_ID = f"manual__{RUN_AT}"
QUICK = {"image_size": 64, "split": "0.8,0.1,0.1", "epochs": 2, "width": 32, "encoder_depth": 0, "licenses": ["*"]}


class Airflow:
    """An Airflow of its own: home, SQLite database, artifact root."""

    def __init__(self, home: Path) -> None:
        self.artifacts = home / "artifacts"
        self.home = home
        self.env = os.environ | {
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "CAPTIONFLOW_ARTIFACT_ROOT": str(self.artifacts),
            "PYTHONPATH": str(ROOT),
        }
        self.run("db", "migrate").check_returncode()

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-P", "-m", "airflow", *arguments]

    def set(self, **settings: str) -> Self:
        """Return this Airflow with what its deployment says of the DAGs."""
        found = copy(self)
        found.env = self.env | {f"CAPTIONFLOW_{name.upper()}": value for name, value in settings.items()}
        return found

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self._done(self.command(*arguments))

    def dag_test(self, conf: dict[str, Any]) -> list[str]:
        return [sys.executable, "-m", "tests.dag_test", "image_captioning", RUN_AT, json.dumps(conf)]

    def run_dag(self, conf: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        return self._done(self.dag_test(conf))

    def _done(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=self.env, capture_output=True, text=True, check=False)

    def folder(self, kind: str) -> Path:
        return self.artifacts / "image_captioning" / RUN_ID / kind

    def xcoms(self) -> dict[str, Any]:
        rows = self.query("SELECT task_id, value FROM xcom WHERE key = 'return_value' AND run_id = ?", RUN_ID)
        return {task: json.loads(value) for task, value in rows}

    def retried(self, run_id: str = RUN_ID) -> list[str]:
        """Names of the tasks that a run began more than once."""
        query = "SELECT task_id FROM task_instance WHERE try_number > 1 AND run_id = ?"
        return [task for (task,) in self.query(query, run_id)]

    def query(self, query: str, *values: str) -> list[tuple[str, ...]]:
        """Return what the metadata database says."""
        with sqlite3.connect(self.home / "airflow.db") as database:
            return database.execute(query, values).fetchall()


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Airflow:
    return Airflow(tmp_path_factory.mktemp("airflow"))


@pytest.fixture(scope="module")
def dag() -> Any:
    return load(DAGS / "image_captioning.py")["image_captioning"]


def conf_for(sample: Path, **changes: Any) -> dict[str, Any]:
    images = str(sample / "images")
    return {
        "sources": [str(sample / "captions.json")], "image_root": [images], "allow_url_prefix": [images],
        **QUICK, **changes,
    }  # fmt: skip


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


Artifacts = dict[str, tuple[str, dict[str, bytes]]]


def artifacts(airflow: Airflow) -> Artifacts:
    """By kind: the digest of the manifest, and every file but the manifest."""
    found = {}
    for kind in KINDS:
        files = content(airflow.folder(kind))
        del files["manifest.json"]
        found[kind] = (open_artifact(str(airflow.folder(kind)), kind).manifest.sha256, files)
    return found


def test_the_chain_is_ingest_validate_preprocess_train_evaluate(dag: Any) -> None:
    assert dag.topological_sort()[0].task_id == "ingest"
    assert {task.task_id: task.downstream_task_ids for task in dag.tasks} == {
        "ingest": {"validate", "preprocess"},
        "validate": {"preprocess"},
        "preprocess": {"train", "evaluate"},
        "train": {"evaluate"},
        "evaluate": set(),
    }


def test_preprocess_is_the_beam_operator_fed_by_xcom(dag: Any) -> None:
    from airflow.providers.apache.beam.operators.beam import BeamRunPythonPipelineOperator
    from airflow.sdk.definitions.xcom_arg import XComArg

    task = dag.get_task("preprocess")
    assert isinstance(task, BeamRunPythonPipelineOperator)
    assert isinstance(task.uris["ingested"], XComArg)
    assert Path(task.py_file).samefile(ROOT / "captionflow" / "cli" / "beam_job.py")


def test_tasks_are_safe_to_retry_and_runs_do_not_pile_up(dag: Any) -> None:
    assert not dag.catchup
    assert dag.max_active_runs == 1
    assert dag.tags
    assert "| task | does |" in dag.doc_md
    for task in dag.tasks:
        assert task.retries > 0
        assert task.retry_exponential_backoff
        assert task.execution_timeout is not None


def test_the_form_shows_what_changes_from_run_to_run_and_folds_the_rest(dag: Any) -> None:
    sections = {name: dag.params.get_param(name).schema.get("section") for name in dag.params}
    assert [name for name, section in sections.items() if section is None] == [
        "artifact_root", "sources", "image_root", "allow_url_prefix", "licenses", "image_size", "split", "reuse",
        "runner", "beam_options", "epochs", "batch_size", "learning_rate", "seed", "beam_size",
    ]  # fmt: skip
    assert {section for section in sections.values() if section} == {
        "Advanced: ingest", "Advanced: validate", "Advanced: preprocess", "Advanced: train", "Advanced: evaluate",
    }  # fmt: skip


def test_the_form_offers_every_parameter_with_its_meaning_and_bounds(dag: Any) -> None:
    for step in (IngestParameters, ValidateParameters, PreprocessParameters, TrainParameters, EvaluateParameters):
        for name, schema in step.json_schema().items():
            offered = dag.params.get_param(name)
            assert offered.description == schema["description"]
            for word in ("type", "minimum", "maximum", "enum", "pattern"):
                assert offered.schema.get(word) == schema.get(word), (name, word)
    for name in dag.params:
        assert dag.params.get_param(name).description
        assert "type" in dag.params.get_param(name).schema
    dag.params.validate()


def test_parsing_imports_nothing_heavy() -> None:
    code = (
        "import sys; from tests.dags import DAGS, load; load(DAGS / 'image_captioning.py');"
        "print([m for m in ('torch', 'apache_beam', 'tensorflow', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


WARNINGS_OF_OURS = """
import sys, warnings
from pathlib import Path
from airflow import settings  # which takes warnings for its log
from tests.dags import DAGS, load

ours = {str(DAGS), str(DAGS.parent / "captionflow" / "airflow")}
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    load(DAGS / sys.argv[1])
print([str(told) for told in caught if str(Path(told.filename).parent) in ours])
"""


@pytest.mark.parametrize("name", sorted(path.name for path in DAGS.glob("image_captioning*.py")))
def test_parsing_uses_nothing_that_airflow_will_drop(name: str) -> None:
    command = [sys.executable, "-c", WARNINGS_OF_OURS, name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.fixture(scope="module")
def undisturbed(airflow: Airflow, small_sample: Path) -> Artifacts:
    """What a run leaves that nothing has disturbed. Its folder of images is open because the form names it."""
    done = airflow.run_dag(conf_for(small_sample, allow_url_prefix=[]))
    assert done.returncode == 0, done.stdout[-3000:]
    return artifacts(airflow)


@pytest.mark.slow
@pytest.mark.usefixtures("undisturbed")
def test_a_run_ends_in_an_evaluated_model_and_passes_uris_only(airflow: Airflow) -> None:
    assert airflow.xcoms() == {
        task: str(airflow.folder(kind))
        for task, kind in zip(("ingest", "validate", "preprocess", "train", "evaluate"), KINDS, strict=True)
    }
    for kind in KINDS:
        open_artifact(str(airflow.folder(kind)), kind).verify()
    told = summary(str(airflow.folder("model").parent)).splitlines()
    assert told[0].split() == ["state", "success"]
    uris = [line.split()[1] for line in told if line.split()[0] in KINDS]
    assert uris == [str(airflow.folder(kind)) for kind in KINDS]
    assert told[-1].split() == ["report", str(airflow.folder("evaluation") / "report.html")]


@pytest.mark.slow
@pytest.mark.parametrize(("killed", "ingest_runner"), [("preprocess", "none"), ("train", "DirectRunner")])
def test_a_killed_task_runs_again_to_the_same_artifacts_as_does_ingest_on_beam(
    airflow: Airflow, small_sample: Path, undisturbed: Artifacts, killed: str, ingest_runner: str
) -> None:
    conf = conf_for(small_sample, allow_url_prefix=[], ingest_runner=ingest_runner)
    shutil.rmtree(airflow.artifacts)
    begun: dict[str, Callable[[], bool]] = {
        "preprocess": lambda: any(airflow.folder("preprocessed").glob("*/*.tmp")),
        "train": lambda: (airflow.folder("model") / "manifest.partial.json").exists(),
    }
    kill_when(airflow.dag_test(conf), begun[killed], airflow.env)
    assert not (airflow.folder("evaluation")).exists()
    missing = {"preprocess": "preprocessed", "train": "model"}[killed]
    assert f"failed: there is no {missing} artifact" in summary(str(airflow.folder("model").parent))
    assert airflow.run_dag(conf).returncode == 0
    assert artifacts(airflow) == undisturbed
    assert sorted(path.name for path in airflow.folder("model").parent.iterdir()) == sorted(KINDS)


FIRST_REFUSED = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)
DATAFLOW = {"runner": "DataflowRunner"}
TOO_STRICT = {
    "numbers": {"captions_per_image": {"minimum": 6, "maximum": 9}}, "max_shares": {"duplicate_captions": 1},
    "categories": {"licenses": {"allowed": ["Attribution License"]}}, "only_warn": ["licenses"],
}  # fmt: skip
"""A schema that the sample does not fit."""
REFUSED: list[tuple[dict[str, Any], dict[str, str], str]] = [
    ({"sources": ["{artifacts}/none.json"]}, {}, "/artifacts/none.json: cannot be read (no such file)"),
    ({"split": "0.5,0.5,0.5"}, {}, "--split: 0.5,0.5,0.5 adds up to 1.5, not to 1"),
    ({"image_size": 250}, {}, "250 is not a multiple of 16"),
    (DATAFLOW, {}, "CAPTIONFLOW_REGION: DataflowRunner needs it; the deployment must set it"),
    ({"epoch": 3}, {}, "epoch: is no field of this form; leave it out"),
    ({"epochs": "many"}, {}, "Invalid input for param epochs: 'many' is not of type 'integer'"),
    ({"beam_options": ["--direct_num_workers=many"]}, {}, "argument --direct_num_workers: invalid int value: 'many'"),
    (
        DATAFLOW,
        {"DATAFLOW_STAGING_ROOT": "gs://b/s", "REGION": "r"},
        "artifact_root: Dataflow's workers do not reach {artifacts}; give a gs:// folder",
    ),
    (
        DATAFLOW,
        {"BEAM_OPTIONS": '{"DataflowRunner": 1}'},
        'CAPTIONFLOW_BEAM_OPTIONS: is not JSON like {{"FlinkRunner": ',
    ),
    (
        {"schema": "{artifacts}/schema.json", "on_anomaly": "fail"},
        {},
        "the captions have anomalies: captions_per_image; see {artifacts}/",
    ),
]
"""What changes in a run's form, what its deployment says, and what the run says of that."""


@pytest.fixture(scope="module")
def refusals(airflow: Airflow, small_sample: Path) -> list[tuple[bool, str]]:
    """Of each run that is refused: whether it succeeded, and what it said."""
    airflow.artifacts.mkdir(exist_ok=True)
    (airflow.artifacts / "schema.json").write_text(json.dumps(TOO_STRICT))
    runs = []
    for changes, said, _ in REFUSED:
        conf = conf_for(small_sample, **changes)
        conf["sources"] = [source.format(artifacts=airflow.artifacts) for source in conf["sources"]]
        conf["schema"] = conf.get("schema", "").format(artifacts=airflow.artifacts)
        runs.append({"conf": conf, "env": {f"CAPTIONFLOW_{name}": value for name, value in said.items()}})
    command = [sys.executable, "-m", "tests.dag_test", "image_captioning", FIRST_REFUSED.isoformat(), "--each"]
    done = subprocess.run(command, env=airflow.env, input=json.dumps(runs), capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]


@pytest.mark.slow
@pytest.mark.parametrize("case", range(len(REFUSED)), ids=lambda case: REFUSED[case][2][:40])
def test_wrong_input_and_wrong_settings_fail_at_once_with_a_clear_line(
    airflow: Airflow, refusals: list[tuple[bool, str]], case: int
) -> None:
    succeeded, said = refusals[case]
    assert not succeeded
    assert REFUSED[case][2].format(artifacts=airflow.artifacts) in said
    run_id = f"manual__{(FIRST_REFUSED + timedelta(minutes=case)).isoformat()}"
    # What Airflow itself refuses is no run.
    begun = [] if "Invalid input for param" in said else [("failed",)]
    assert airflow.query("SELECT state FROM dag_run WHERE run_id = ?", run_id) == begun
    assert airflow.retried(run_id) == []


@pytest.mark.slow
@pytest.mark.usefixtures("refusals")
def test_captions_that_fail_validation_go_no_further_and_the_report_stays(airflow: Airflow) -> None:
    (case,) = (case for case, (changes, _, _) in enumerate(REFUSED) if "schema" in changes)
    run_id = f"manual__{(FIRST_REFUSED + timedelta(minutes=case)).isoformat()}"
    states = airflow.query("SELECT task_id, state FROM task_instance WHERE run_id = ?", run_id)
    assert dict(states) == {
        "ingest": "success", "validate": "failed", "preprocess": "upstream_failed", "train": "upstream_failed",
        "evaluate": "upstream_failed",
    }  # fmt: skip
    assert (airflow.artifacts / "image_captioning" / run_id / "validation" / "report.html").is_file()


@pytest.mark.slow
def test_real_photographs_from_a_web_server(airflow: Airflow, coco_mini: Path, site: Site) -> None:
    for path in coco_mini.glob("*2017/*.jpg"):
        site.pages[f"/{path.parent.name}/{path.name}"] = path.read_bytes()
    splits = ("train2017", "val2017")
    conf = {
        "sources": [f"{coco_mini}/annotations/captions_{split}.json" for split in splits],
        "image_root": [f"{site.url}/{split}" for split in splits],
        **QUICK,
    }
    airflow = airflow.set(trigger_prefixes=f"{airflow.artifacts} {coco_mini} {site.url}")
    done = airflow.run_dag(conf)
    assert done.returncode == 0, done.stdout[-3000:]
    counts = open_artifact(str(airflow.folder("preprocessed"))).manifest.counts
    assert counts["captions"] == {"in": 795, "out": 795, "rejected": 0}
    assert counts["images"] == {"in": 159, "out": 159, "rejected": 0}
    assert set(site.hits.values()) == {1}
