"""Lineage of TFX's artifacts, from ML Metadata: from a pushed model back to the CSV and its sources."""

from dataclasses import asdict, dataclass
from typing import Any

from captionflow.core import lineage as manifests
from captionflow.core.errors import InvalidInputError
from captionflow.core.terminal import one_line
from tfx_pipeline import results
from tfx_pipeline.store import Artifact, Execution, Store

# Properties that every execution has, and those that name a place and no setting.
_HIDDEN = frozenset(
    {"component_id", "pipeline_name", "pipeline_root", "run_id", "state", "name", "producer_component", "tfx_version"}
)


@dataclass(frozen=True)
class Node:
    """An artifact, the run of the component that made it, that run's metrics and anomalies, and its inputs.

    Attributes:
        source: lineage of the folder that the component read from outside the pipeline, if it is an artifact of
            CaptionFlow's.
        parents: the artifacts that the component read.
    """

    artifact: Artifact
    made_by: Execution | None
    metrics: dict[str, dict[str, float]]
    anomalies: dict[str, str]
    source: manifests.Node | None
    parents: tuple["Node", ...]

    def to_json(self) -> dict[str, Any]:
        """Return the tree as a JSON object."""
        return {
            "artifact": asdict(self.artifact),
            "made_by": asdict(self.made_by) if self.made_by else None,
            "metrics": self.metrics,
            "anomalies": self.anomalies,
            "source": self.source.to_json() if self.source else None,
            "parents": [parent.to_json() for parent in self.parents],
        }


def lineage(store: Store, uri: str) -> Node:
    """Return the lineage of the artifact that is at `uri` or was pushed there.

    Raises:
        InvalidInputError: the store has no such artifact.
    """
    artifact = store.find(uri.rstrip("/"))
    if artifact is None:
        raise InvalidInputError(f"{uri}: the metadata store knows of no artifact there")
    return _node(store, artifact)


def _node(store: Store, artifact: Artifact) -> Node:
    execution = store.producer(artifact)
    outputs = {output.type: output.uri for output in store.outputs(execution)} if execution else {}
    return Node(
        artifact,
        execution,
        results.metrics(outputs["ModelEvaluation"]) if "ModelEvaluation" in outputs else {},
        results.anomalies(outputs["ExampleAnomalies"]) if "ExampleAnomalies" in outputs else {},
        _source(execution) if execution else None,
        tuple(_node(store, parent) for parent in store.inputs(execution)) if execution else (),
    )


def _source(execution: Execution) -> manifests.Node | None:
    folder = execution.properties.get("input_base")
    try:
        return manifests.lineage(folder) if folder else None
    except InvalidInputError:
        return None  # A folder of CSV files need not be an artifact.


def render(node: Node) -> str:
    """Return the tree as text for a terminal: a block for each artifact, its parents indented below."""
    return "\n".join(map(one_line, _lines(node, "", set())))


def _lines(node: Node, indent: str, shown: set[int]) -> list[str]:
    artifact, made_by = node.artifact, node.made_by
    if artifact.id in shown:
        return [f"{indent}{artifact.type}  {artifact.uri}  (shown above)"]
    shown.add(artifact.id)
    lines = [f"{indent}{artifact.type}  {artifact.uri}"]
    lines += _section("properties", artifact.properties, indent)
    if made_by:
        lines.append(f"{indent}  made by     {made_by.component}")
        lines += _section("parameters", made_by.properties, indent)
    lines += _section("scores", node.metrics, indent)
    lines += _section("anomalies", node.anomalies, indent)
    if node.source:
        lines += [f"{indent}    {line}" for line in manifests.render(node.source).splitlines()]
    for parent in node.parents:
        lines += _lines(parent, indent + "    ", shown)
    return lines


def _section(title: str, values: dict[str, Any], indent: str) -> list[str]:
    shown = {name: value for name, value in values.items() if name not in _HIDDEN}
    return [
        f"{indent}  {title if i == 0 else '':<11} {name}={' '.join(str(value).split())}"
        for i, (name, value) in enumerate(shown.items())
    ]
