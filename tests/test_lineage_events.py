"""What others hear of a run: events of Airflow's assets, and OpenLineage's events with the artifacts in them."""

import json
from pathlib import Path
from typing import Any

import pytest

from captionflow.core.artifact import open_artifact
from tests.test_dag import KINDS, Airflow, conf_for

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def events(small_sample: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Airflow, list[dict[str, Any]]]:
    """An Airflow after a run by its own command, and the events that OpenLineage's file transport has."""
    airflow = Airflow(tmp_path_factory.mktemp("airflow"))
    file = airflow.home / "events.jsonl"
    airflow.env["AIRFLOW__OPENLINEAGE__TRANSPORT"] = json.dumps(
        {"type": "file", "log_file_path": str(file), "append": True}
    )
    # Of a plugin that it finds twice, here beside the code as well, Airflow 3.3's tasks skip the ones that follow.
    del airflow.env["PYTHONPATH"]
    done = airflow.run("dags", "test", "image_captioning", "--conf", json.dumps(conf_for(small_sample)))
    assert done.returncode == 0, done.stdout[-3000:]
    return airflow, [json.loads(line) for line in file.read_text().splitlines()]


def folder(airflow: Airflow, kind: str) -> Path:
    (run,) = (airflow.artifacts / "image_captioning").iterdir()
    assert run.name.startswith("manual__")
    return run / kind


def test_each_step_tells_of_its_artifact_by_an_event_of_its_asset(
    events: tuple[Airflow, list[dict[str, Any]]],
) -> None:
    airflow, _ = events
    told = airflow.query(
        "SELECT asset.name, asset_event.extra FROM asset_event JOIN asset ON asset.id = asset_event.asset_id"
    )
    extras = {name: json.loads(extra) for name, extra in told}
    for kind in KINDS:
        artifact = open_artifact(str(folder(airflow, kind)), kind)
        artifact.verify()
        manifest = artifact.manifest
        extra = extras.pop(f"image_captioning.{kind}")
        assert (extra["uri"], extra["sha256"]) == (str(folder(airflow, kind)), manifest.sha256)
        assert extra.get("scores") == (manifest.metrics if kind == "evaluation" else None)
    assert extras == {}


def test_openlineage_hears_what_each_step_was_given_and_what_it_made(
    events: tuple[Airflow, list[dict[str, Any]]], small_sample: Path
) -> None:
    airflow, told = events
    complete = {event["job"]["name"]: event for event in told if event["eventType"] == "COMPLETE"}
    ingested, validation, preprocessed, model, evaluation = (str(folder(airflow, kind)) for kind in KINDS)
    assert {name: (names(event["inputs"]), names(event["outputs"])) for name, event in complete.items()} == {
        "image_captioning.ingest": ({str(small_sample / "captions.json")}, {ingested}),
        "image_captioning.validate": ({ingested}, {validation}),
        "image_captioning.preprocess": ({ingested}, {preprocessed}),
        "image_captioning.train": ({preprocessed}, {model}),
        "image_captioning.evaluate": ({model, preprocessed}, {evaluation}),
        "image_captioning": (set(), set()),
    }


def names(datasets: list[dict[str, str]]) -> set[str]:
    assert {dataset["namespace"] for dataset in datasets} <= {"file://"}
    return {f"/{dataset['name']}" for dataset in datasets}
