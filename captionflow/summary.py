"""What a run of the main job left behind, in a few lines."""

from captionflow.artifacts import open_artifact
from captionflow.errors import InvalidInputError
from captionflow.kinds import EVALUATION, INGESTED, MODEL, PREPROCESSED
from captionflow.manifest import Manifest
from captionflow.terminal import one_line
from captionflow.uris import resolve


def summary(run: str) -> str:
    """Return the state of the run whose artifacts are in the folder `run`, their URIs, scores and report."""
    lines: list[str] = []
    for kind in (INGESTED, PREPROCESSED, MODEL, EVALUATION):
        uri = f"{resolve(run)}/{kind}"
        try:
            manifest = open_artifact(uri, kind).manifest
        except InvalidInputError:
            return "\n".join([f"state         failed: there is no {kind} artifact", *map(one_line, lines)])
        lines.append(f"{kind:<13} {uri}  ({_gist(manifest)})")
        if kind == EVALUATION:
            lines += [f"{name:<13} {value:.3f}" for name, value in manifest.metrics.items()]
            lines += [f"report        {uri}/{file.path}" for file in manifest.files if file.path.endswith(".html")]
    return "\n".join(["state         success", *map(one_line, lines)])


def _gist(manifest: Manifest) -> str:
    counts = manifest.counts
    if "captions" in counts:
        captions = counts["captions"]
        return f"{captions['out']} captions of {captions['in']}, {captions['rejected']} rejected"
    if manifest.kind == MODEL:
        ended = counts.get("stopped_by", "epochs")  # older models do not say
        note = "" if ended in ("epochs", "patience") else f"; {ended}"
        return f"{counts['epochs']} epochs, best {counts['best_epoch']}, {counts['weights']:,} weights{note}"
    return f"{counts['images']} test images"
