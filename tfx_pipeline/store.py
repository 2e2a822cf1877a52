"""Read the pipeline's runs from ML Metadata, whichever orchestrator ran them."""

from dataclasses import dataclass
from typing import Any

from google.protobuf import json_format
from ml_metadata import errors
from ml_metadata.metadata_store import MetadataStore
from ml_metadata.proto import metadata_store_pb2

from captionflow.core.errors import InvalidInputError
from tfx_pipeline.metadata import connection_config

_INPUT, _OUTPUT = metadata_store_pb2.Event.INPUT, metadata_store_pb2.Event.OUTPUT


@dataclass(frozen=True)
class Artifact:
    """An input or output of a component: the name of its type, its URI and its properties in the store."""

    id: int
    type: str
    uri: str
    properties: dict[str, Any]


@dataclass(frozen=True)
class Execution:
    """One run of a component: the component's name and its arguments."""

    id: int
    component: str
    properties: dict[str, Any]


class Store:
    """Reads a store of ML Metadata.

    Args:
        location: as in `metadata.connection_config`.

    Raises:
        InvalidInputError: the store cannot be reached.
    """

    def __init__(self, location: str) -> None:
        try:
            self._store = MetadataStore(connection_config(location))
            self._artifact_types = {kind.id: kind.name for kind in self._store.get_artifact_types()}
            self._execution_types = {kind.id: kind.name for kind in self._store.get_execution_types()}
        except (errors.StatusError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise InvalidInputError(f"--metadata: the metadata store cannot be reached: {reason}") from error

    def find(self, uri: str) -> Artifact | None:
        """Return the artifact that is at `uri` or was pushed there, None if there is none."""
        artifacts = self._store.get_artifacts_by_uri(uri)
        if not artifacts and "PushedModel" in self._artifact_types.values():
            pushed = self._store.get_artifacts_by_type("PushedModel")
            artifacts = [
                artifact for artifact in pushed if self._artifact(artifact).properties.get("pushed_destination") == uri
            ]
        return self._artifact(artifacts[-1]) if artifacts else None

    def latest(self, component: str) -> Execution | None:
        """Return the last run of a component, None if it never ran."""
        names = [name for name in self._execution_types.values() if name.endswith(f".{component}")]
        runs = [execution for name in names for execution in self._store.get_executions_by_type(name)]
        return self._execution(max(runs, key=lambda execution: execution.id)) if runs else None

    def producer(self, artifact: Artifact) -> Execution | None:
        """Return the run that made the artifact, not the later ones that got it from the cache."""
        events = self._store.get_events_by_artifact_ids([artifact.id])
        ids = sorted(event.execution_id for event in events if event.type == _OUTPUT)
        return self._execution(self._store.get_executions_by_id(ids[:1])[0]) if ids else None

    def inputs(self, execution: Execution) -> list[Artifact]:
        """Return the artifacts that a run read."""
        return self._artifacts(execution, _INPUT)

    def outputs(self, execution: Execution) -> list[Artifact]:
        """Return the artifacts that a run wrote."""
        return self._artifacts(execution, _OUTPUT)

    def _artifacts(self, execution: Execution, kind: Any) -> list[Artifact]:
        events = self._store.get_events_by_execution_ids([execution.id])
        ids = sorted({event.artifact_id for event in events if event.type == kind})
        return [self._artifact(artifact) for artifact in self._store.get_artifacts_by_id(ids)]

    def _artifact(self, artifact: metadata_store_pb2.Artifact) -> Artifact:
        return Artifact(artifact.id, self._artifact_types[artifact.type_id], artifact.uri, _properties(artifact))

    def _execution(self, execution: metadata_store_pb2.Execution) -> Execution:
        component = self._execution_types[execution.type_id].rpartition(".")[2]
        return Execution(execution.id, component, _properties(execution))


def _properties(node: metadata_store_pb2.Artifact | metadata_store_pb2.Execution) -> dict[str, Any]:
    """Return the properties of a node that have a value; TFX's Airflow runner writes None as text."""
    values = {name: _value(value) for name, value in sorted({**node.properties, **node.custom_properties}.items())}
    return {name: value for name, value in values.items() if value not in (None, "", "None", "null")}


def _value(value: metadata_store_pb2.Value) -> Any:
    kind = value.WhichOneof("value")
    if kind == "struct_value":
        return json_format.MessageToDict(value.struct_value).get("__value__")
    return getattr(value, kind) if kind else None
