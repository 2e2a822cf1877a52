"""What train and evaluate tell MLflow: a store in a file, a real server, and one that is not there."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts

from captionflow.captioner.parameters import TrainParameters
from captionflow.captioner.train import train
from captionflow.core.artifact import open_artifact
from captionflow.core.errors import InvalidInputError, StepFailedError
from captionflow.core.tracking import NOTE
from captionflow.evaluation.evaluate import evaluate
from captionflow.evaluation.parameters import EvaluateParameters
from tests.conftest import SMALL
from tests.mlflow_server import mlflow_server

pytestmark = pytest.mark.slow

PARAMETERS = TrainParameters(**SMALL, epochs=2)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A tracking store in a file, as `make run` has it."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return uri


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A tracking server."""
    with mlflow_server(tmp_path) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        yield uri


def runs_of(uri: str) -> list[Any]:
    client = MlflowClient(uri)
    (experiment,) = [e for e in client.search_experiments() if e.name == "image_captioning"]
    return list(client.search_runs([experiment.experiment_id]))


def assert_tracked(uri: str, preprocessed: str, model: str, evaluation: str) -> None:
    (run,) = runs_of(uri)
    client = MlflowClient(uri)
    assert (run.info.run_name, run.info.status) == ("one", "FINISHED")
    assert run.data.params["epochs"] == "2"
    assert run.data.params["beam_size"] == "1"
    assert run.data.tags["model_uri"] == model
    scores = open_artifact(evaluation).manifest.metrics
    assert {name: run.data.metrics[name] for name in scores} == scores
    history = json.loads(open_artifact(model).read("history.json"))
    curve = client.get_metric_history(run.info.run_id, "epoch/val_loss")
    assert [(point.step, point.value) for point in curve] == [(row["epoch"], row["val_loss"]) for row in history]
    data = next(found.dataset for found in run.inputs.dataset_inputs if found.dataset.name == "preprocessed")
    assert open_artifact(preprocessed).manifest.sha256.startswith(data.digest)
    assert json.loads(data.source) == {"uri": preprocessed}
    for artifact in (model, evaluation):
        for file in open_artifact(artifact).manifest.files:
            kind = artifact.rpartition("/")[2]
            logged = download_artifacts(run_id=run.info.run_id, artifact_path=f"{kind}/{file.path}", tracking_uri=uri)
            assert Path(logged).read_bytes() == open_artifact(artifact).read(file.path)
    note = {"experiment_id": run.info.experiment_id, "run_id": run.info.run_id}
    assert [open_artifact(artifact).manifest.run[NOTE] for artifact in (model, evaluation)] == [note, note]


def run_both(trainable: str, folder: Path) -> tuple[str, str]:
    model = train(trainable, str(folder / "one" / "model"), PARAMETERS)
    return model, evaluate(model, trainable, str(folder / "one" / "evaluation"), EvaluateParameters())


def test_training_and_evaluation_are_one_run(store: str, trainable: str, tmp_path: Path) -> None:
    assert_tracked(store, trainable, *run_both(trainable, tmp_path))


def test_a_server_is_told_the_same(server: str, trainable: str, tmp_path: Path) -> None:
    assert_tracked(server, trainable, *run_both(trainable, tmp_path))


def test_a_model_evaluated_again_is_another_run(store: str, trainable: str, tmp_path: Path) -> None:
    model, _ = run_both(trainable, tmp_path)
    evaluate(model, trainable, str(tmp_path / "two" / "evaluation"), EvaluateParameters(beam_size=2))
    assert {run.info.run_name: run.data.params["beam_size"] for run in runs_of(store)} == {"one": "1", "two": "2"}


def test_tracking_changes_no_artifact(store: str, trainable: str, model: str, tmp_path: Path) -> None:
    tracked = train(trainable, str(tmp_path / "tracked"), TrainParameters(**SMALL, epochs=8))
    assert open_artifact(tracked).manifest.sha256 == open_artifact(model).manifest.sha256


def test_a_step_that_fails_is_a_failed_run(
    store: str, trainable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("captionflow.captioner.train._mean_loss", lambda *_: math.nan)
    with pytest.raises(StepFailedError):
        train(trainable, str(tmp_path / "one" / "model"), PARAMETERS)
    (run,) = runs_of(store)
    assert run.info.status == "FAILED"


def test_an_evaluation_tried_again_goes_on_in_the_same_run(store: str, trainable: str, tmp_path: Path) -> None:
    model = train(trainable, str(tmp_path / "one" / "model"), PARAMETERS)
    output = str(tmp_path / "one" / "evaluation")
    shards = list(Path(trainable).glob("test/*.avro"))
    for shard in shards:
        shard.rename(shard.with_suffix(".away"))
    with pytest.raises(InvalidInputError, match="is missing"):
        evaluate(model, trainable, output, EvaluateParameters())
    for shard in shards:
        shard.with_suffix(".away").rename(shard)
    assert_tracked(store, trainable, model, evaluate(model, trainable, output, EvaluateParameters()))


def test_a_model_that_was_tracked_elsewhere_is_evaluated_in_a_run_of_its_own(
    store: str, trainable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = train(trainable, str(tmp_path / "one" / "model"), PARAMETERS)
    other = f"sqlite:///{tmp_path}/other.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", other)
    evaluation = evaluate(model, trainable, str(tmp_path / "one" / "evaluation"), EvaluateParameters())
    (run,) = runs_of(other)
    assert run.data.tags["evaluation_uri"] == evaluation
    assert run.info.status == "FINISHED"


def test_a_server_that_is_away_holds_nothing_up(
    trainable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somebody:hidden-word@127.0.0.1:1")
    model = train(trainable, str(tmp_path / "model"), PARAMETERS)
    assert NOTE not in open_artifact(model).manifest.run
    (warning,) = [record for record in caplog.records if record.name == "captionflow.core.tracking"]
    assert warning.getMessage().startswith("MLflow: ")
    assert "\n" not in warning.getMessage()
    assert "hidden-word" not in warning.getMessage()
