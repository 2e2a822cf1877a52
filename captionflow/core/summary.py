"""The summary of a run of the main job, in a few lines."""

from captionflow.core.artifact import Artifact, open_artifact
from captionflow.core.errors import InvalidInputError
from captionflow.core.runs import PIPELINE
from captionflow.core.steps import EVALUATION, INGESTED, MODEL, PREPROCESSED, workflow
from captionflow.core.terminal import one_line
from captionflow.core.uris import resolve


def summary(run: str) -> str:
    """Return the state of the run whose artifacts are in the folder `run`, their URIs, scores and report.

    Raises:
        InvalidInputError: the folder holds none.
    """
    lines: list[str] = []
    for kind in (step.output for step in workflow()):
        uri = f"{resolve(run)}/{kind}"
        try:
            artifact = open_artifact(uri, kind)
        except InvalidInputError:
            if not lines:
                raise InvalidInputError(
                    f"{run}: there is no {kind} artifact in it; name the folder of a run, ROOT/{PIPELINE}/RUN_ID"
                ) from None
            return "\n".join([f"state         failed: there is no {kind} artifact", *map(one_line, lines)])
        lines.append(f"{kind:<13} {uri}  ({_describe(artifact)})")
        if kind == EVALUATION:
            lines += [f"{name:<13} {value:.3f}" for name, value in artifact.manifest.metrics.items()]
            lines += [
                f"report        {uri}/{file.path}" for file in artifact.manifest.files if file.path.endswith(".html")
            ]
    return "\n".join(["state         success", *map(one_line, lines)])


def _describe(artifact: Artifact) -> str:
    count = artifact.count
    if artifact.manifest.kind == EVALUATION:
        return f"{count('images')} test images"
    if artifact.manifest.kind == MODEL:
        ended = artifact.manifest.counts.get("stopped_by", "epochs")  # which older models lack
        note = "" if ended in ("epochs", "patience") else f"; {ended}"
        return f"{count('epochs')} epochs, best {count('best_epoch')}, {count('weights'):,} weights{note}"
    if artifact.manifest.kind in (INGESTED, PREPROCESSED):
        kept, read, rejected = (count("captions", name) for name in ("out", "in", "rejected"))
        return f"{kept} captions of {read}, {rejected} rejected"
    return ", ".join(f"{value} {name}" for name, value in artifact.manifest.counts.items() if type(value) is int)
