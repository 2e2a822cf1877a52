"""MLflow tracking of a step: its parameters, its metrics as it runs, and its artifact.

Without MLFLOW_TRACKING_URI nothing is tracked. The manifests are the source of truth: where the tracking server fails,
a warning is logged and the step goes on without it.
"""

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from captionflow.core.artifact import open_artifact
from captionflow.core.draft import Draft
from captionflow.core.manifest import Manifest
from captionflow.core.runs import PIPELINE
from captionflow.core.steps import EVALUATION, MODEL
from captionflow.core.terminal import one_line

_LOG = logging.getLogger(__name__)

NOTE = "mlflow"
"""Under this name a manifest's `run` section holds `experiment_id` and `run_id`."""

# With MLflow's defaults an absent server delays training for minutes, and usage is reported.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
_DIGEST_LENGTH = 36


class Tracking:
    """A step's run in MLflow, or none; no method raises what MLflow raises."""

    def __init__(self) -> None:
        self._client: Any = None
        self._failed = False
        self.note: dict[str, dict[str, str]] = {}

    def start(self, draft: Draft, earlier: Mapping[str, Any] | None) -> None:
        """Start a run, or continue the one that made a parent and has no scores yet."""
        with self._errors_as_warnings():
            self._client = _client()
            run = self._earlier_run(earlier, draft) or self._client.create_run(
                _experiment(self._client), run_name=draft.uri.split("/")[-2]
            )
            self.note = {NOTE: {"experiment_id": run.info.experiment_id, "run_id": run.info.run_id}}
            self._log_inputs(draft)

    def _earlier_run(self, earlier: Mapping[str, Any] | None, draft: Draft) -> Any:
        from mlflow.exceptions import MlflowException

        if not earlier:
            return None
        try:
            run = self._client.get_run(earlier["run_id"])
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None  # the model was tracked elsewhere
        tags, parents = run.data.tags, {parent.uri for parent in draft.parents}
        is_open = run.info.lifecycle_stage == "active" and f"{EVALUATION}_uri" not in tags
        # A manifest may name any run; only the model's own has the tag of the model's URI.
        return run if is_open and tags.get(f"{MODEL}_uri") in parents else None

    def _log_inputs(self, draft: Draft) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param, RunTag

        self._call(
            "log_batch",
            params=[Param(name, json.dumps(value)) for name, value in draft.parameters.items()],
            tags=[RunTag("code_version", draft.code_version)],
        )
        datasets = [
            DatasetInput(
                Dataset(parent.kind, parent.sha256[:_DIGEST_LENGTH], "uri", json.dumps({"uri": parent.uri})),
                [InputTag("mlflow.data.context", draft.kind)],
            )
            for parent in draft.parents
        ]
        self._call("log_inputs", datasets=datasets)

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Log metrics: of one epoch by its `step`, or of the whole."""
        for name, value in values.items():
            with self._errors_as_warnings():
                self._call("log_metric", key=name, value=value, step=step)

    def result(self, uri: str, manifest: Manifest) -> None:
        """Log a committed artifact: its metrics and its files."""
        if self._client is None:
            return
        self.metrics(manifest.metrics)
        with self._errors_as_warnings(), TemporaryDirectory() as folder:
            self._call("set_tag", key=f"{manifest.kind}_uri", value=uri)
            artifact = open_artifact(uri)
            for file in manifest.files:
                path = Path(folder, file.path)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(artifact.read(file.path))
            self._call("log_artifacts", local_dir=folder, artifact_path=manifest.kind)

    def end(self, status: str) -> None:
        """Close the run as FINISHED or FAILED, whatever failed on the way."""
        self._failed = False
        with self._errors_as_warnings():
            self._call("set_terminated", status=status)

    def _call(self, method: str, **arguments: Any) -> None:
        if self.note and not self._failed:
            getattr(self._client, method)(self.note[NOTE]["run_id"], **arguments)

    @contextmanager
    def _errors_as_warnings(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Its store's client has errors of its own, and no step fails for a log of it.
            reason = one_line(_reason(error))
            _LOG.warning("MLflow: %s; the rest of this step is not tracked", reason)
            self._failed = True


@contextmanager
def track(draft: Draft, earlier: Mapping[str, Any] | None = None) -> Iterator[Tracking]:
    """Track the making of an artifact while the block lasts.

    Args:
        earlier: the value of NOTE in the `run` section of a parent's manifest, to continue its run.
    """
    tracking = Tracking()
    if os.environ.get("MLFLOW_TRACKING_URI"):
        tracking.start(draft, earlier)
    try:
        yield tracking
    except BaseException:
        tracking.end("FAILED")
        raise
    tracking.end("FINISHED")


def _reason(error: Exception) -> str:
    """Return an error's message; only its type where the server's URI, which clients repeat, may hold a password."""
    if {"@", "?"} & {*os.environ["MLFLOW_TRACKING_URI"]}:
        return f"{type(error).__name__} (its text is left out, since MLFLOW_TRACKING_URI may hold a password)"
    return str(error).strip().partition("\n")[0]


def _client() -> Any:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    from mlflow import MlflowClient

    return MlflowClient()


def _experiment(client: Any) -> str:
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PIPELINE)
    if found := client.get_experiment_by_name(name):
        return str(found.experiment_id)
    return str(client.create_experiment(name, artifact_location=_artifact_location(client.tracking_uri)))


def _artifact_location(tracking_uri: str) -> str | None:
    """Return where files go: beside a SQLite database, not into the working folder; a server decides itself."""
    if not tracking_uri.startswith("sqlite:///"):
        return None
    return str(Path(tracking_uri.removeprefix("sqlite:///")).resolve().parent / "mlflow-artifacts")
