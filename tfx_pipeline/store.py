"""What ML Metadata knows of the pipeline's runs, whichever orchestrator ran them."""

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
    """What a component made or took: its type's name, where it is, and what TFX noted of it."""

    id: int
    type: str
    uri: str
    properties: dict[str, Any]


@dataclass(frozen=True)
class Execution:
    """One run of a component: the component's name and the values it was given."""

    id: int
    component: str
    properties: dict[str, Any]


class Store:
    """Reads a store of ML Metadata.

    Args:
        location: as `metadata.connection_config` takes it.

    Raises:
        InvalidInputError: it cannot be reached.
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
        """Return the artifact that is at `uri`, or was pushed there."""
        found = self._store.get_artifacts_by_uri(uri)
        if not found and "PushedModel" in self._artifact_types.values():
            pushed = self._store.get_artifacts_by_type("PushedModel")
            found = [
                artifact for artifact in pushed if self._artifact(artifact).properties.get("pushed_destination") == uri
            ]
        return self._artifact(found[-1]) if found else None

    def latest(self, component: str) -> Execution | None:
        """Return the last run of a component."""
        names = [name for name in self._execution_types.values() if name.endswith(f".{component}")]
        runs = [execution for name in names for execution in self._store.get_executions_by_type(name)]
        return self._execution(max(runs, key=lambda execution: execution.id)) if runs else None

    def producer(self, artifact: Artifact) -> Execution | None:
        """Return the run that made the artifact; later ones may have taken it from the cache."""
        events = self._store.get_events_by_artifact_ids([artifact.id])
        made = sorted(event.execution_id for event in events if event.type == _OUTPUT)
        return self._execution(self._store.get_executions_by_id(made[:1])[0]) if made else None

    def inputs(self, execution: Execution) -> list[Artifact]:
        """Return what a run took."""
        return self._artifacts(execution, _INPUT)

    def outputs(self, execution: Execution) -> list[Artifact]:
        """Return what a run made."""
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
    """Return all properties of a node; TFX's Airflow runner writes None as text, which is left out too."""
    plain = {name: _plain(value) for name, value in sorted({**node.properties, **node.custom_properties}.items())}
    return {name: value for name, value in plain.items() if value not in (None, "", "None", "null")}


def _plain(value: metadata_store_pb2.Value) -> Any:
    kind = value.WhichOneof("value")
    if kind == "struct_value":
        return json_format.MessageToDict(value.struct_value).get("__value__")
    return getattr(value, kind) if kind else None
