"""Lineage: from an artifact's manifest back to the source files, and the answer as text."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from captionflow.core.artifact import Artifact, open_artifact
from captionflow.core.errors import InvalidInputError, StoreError
from captionflow.core.manifest import Parent
from captionflow.core.terminal import one_line

_DEEPEST = 100
_SHOWN = "shown above"


@dataclass(frozen=True)
class Node:
    """An artifact in the lineage: what its child's manifest recorded, the artifact if it still exists, its parents.

    An artifact appears once with its parents; its further nodes hold a note alone.
    """

    recorded: Parent
    artifact: Artifact | None
    note: str
    parents: tuple["Node", ...]

    def to_json(self) -> dict[str, Any]:
        """Return the tree as JSON holds it."""
        manifest = self.artifact.manifest if self.artifact else None
        names = ("parameters", "code_version", "counts", "metrics", "run")
        return {
            **asdict(self.recorded),
            "note": self.note,
            **{name: getattr(manifest, name) if manifest else None for name in names},
            "parents": [parent.to_json() for parent in self.parents],
        }


def lineage(uri: str) -> Node:
    """Follow the manifests from the artifact at `uri` to its sources.

    Raises:
        InvalidInputError: `uri` is no artifact. A parent that is gone or changed is a note, not an error; the
            parents of a changed one are left out, since they are not those of the one that was used.
    """
    return _node(open_artifact(uri).parent, set(), 0)


def _node(recorded: Parent, shown: set[str], depth: int) -> Node:
    if recorded.sha256 in shown:
        return Node(recorded, None, _SHOWN, ())
    shown.add(recorded.sha256)
    if depth == _DEEPEST:
        return Node(recorded, None, "too far back: ask for its own lineage", ())
    if recorded.kind == "source":
        return Node(recorded, None, "", ())
    try:
        artifact = open_artifact(recorded.uri)
    except InvalidInputError:
        return Node(recorded, None, "no longer there", ())
    except StoreError:
        return Node(recorded, None, "cannot be reached", ())
    if artifact.manifest.sha256 != recorded.sha256:
        return Node(recorded, artifact, "changed since it was used", ())
    return Node(recorded, artifact, "", tuple(_node(parent, shown, depth + 1) for parent in artifact.manifest.parents))


def render(node: Node, *, times: bool = True) -> str:
    """Return the tree as text for a terminal: one block an artifact, its parents indented below.

    Args:
        times: show when each artifact was committed; without times, equal work gives equal text.
    """
    return "\n".join(map(one_line, _lines(node, "", times)))


def _lines(node: Node, indent: str, times: bool) -> list[str]:
    lines = [f"{indent}{node.recorded.kind}  {node.recorded.uri}" + (f"  ({node.note})" if node.note else "")]
    if node.note == _SHOWN:
        return lines
    lines.append(f"{indent}  sha256      {node.recorded.sha256}")
    if node.artifact:
        manifest = node.artifact.manifest
        if times:
            lines.append(f"{indent}  committed   {manifest.run.get('committed_at', '?')}")
        lines.append(f"{indent}  code        {manifest.code_version}")
        sections = {"parameters": manifest.parameters, "counts": manifest.counts, "scores": manifest.metrics}
        for title, values in sections.items():
            lines += section(title, [f"{name}={short(value)}" for name, value in values.items()], indent)
    for parent in node.parents:
        lines += _lines(parent, indent + "    ", times)
    return lines


def section(title: str, lines: Iterable[str], indent: str = "") -> list[str]:
    """Return the lines of a block with their title before the first; none if there are none."""
    return [f"{indent}  {title if i == 0 else '':<11} {line}" for i, line in enumerate(lines)]


def short(value: Any) -> str:
    """Return a value of a manifest as text."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {short(item)}" for name, item in value.items()) or "-"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "-"
    return str(value)
