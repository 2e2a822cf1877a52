"""What a run of the main job left behind, in a few lines."""

from captionflow.artifacts import Manifest, open_artifact, resolve
from captionflow.errors import InvalidInputError

# The kinds in the order of the steps; named here so that a summary needs no step's imports.
_KINDS = ("ingested", "preprocessed", "model", "evaluation")
_REPORT = "report.html"


def summary(run: str) -> str:
    """Return the state of the run whose artifacts are in the folder `run`, their URIs, scores and report."""
    lines: list[str] = []
    manifest: Manifest | None = None
    for kind in _KINDS:
        uri = f"{resolve(run)}/{kind}"
        try:
            manifest = open_artifact(uri, kind).manifest
        except InvalidInputError:
            lines.insert(0, f"state         failed: there is no {kind} artifact")
            return "\n".join(lines)
        lines.append(f"{kind:<13} {uri}  ({_gist(manifest)})")
    scores = manifest.metrics if manifest else {}
    lines.insert(0, "state         success")
    lines += [f"{name:<13} {value:.3f}" for name, value in scores.items()]
    lines.append(f"report        {uri}/{_REPORT}")
    return "\n".join(lines)


def _gist(manifest: Manifest) -> str:
    counts = manifest.counts
    match manifest.kind:
        case "ingested" | "preprocessed":
            captions = counts["captions"]
            return f"{captions['out']} captions of {captions['in']}, {captions['rejected']} rejected"
        case "model":
            return f"{counts['epochs']} epochs, best {counts['best_epoch']}, {counts['weights']:,} weights"
        case _:
            return f"{counts['images']} test images"
