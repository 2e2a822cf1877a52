"""The summary of a run of the main job, in a few lines."""

from captionflow.core.artifact import Artifact, open_artifact
from captionflow.core.errors import InvalidInputError
from captionflow.core.runs import PIPELINE
from captionflow.core.steps import EVALUATION, INGESTED, MODEL, PAGES, PREPROCESSED, REPORT, workflow
from captionflow.core.terminal import one_line
from captionflow.core.uris import resolve


def summary(run: str) -> str:
    """Return the state of the run whose artifacts are in the folder `run`, their URIs, scores and reports.

    Raises:
        InvalidInputError: the folder holds none.
    """
    steps = workflow()
    uris = {step.output: f"{resolve(run)}/{step.output}" for step in steps}
    found = {kind: artifact for kind, uri in uris.items() if (artifact := _artifact(uri, kind))}
    lines: list[str] = []
    for kind in uris:
        if kind in found:
            lines += _lines(kind, found[kind])
        elif not lines:
            raise InvalidInputError(
                f"{run}: there is no {kind} artifact in it; name the folder of a run, ROOT/{PIPELINE}/RUN_ID"
            )
        # If a step has run that waits for it, the run is of a version that had no step to make it.
        elif not any(kind in step.after and step.output in found for step in steps):
            return "\n".join([_line("state", f"failed: there is no {kind} artifact"), *lines])
    return "\n".join([_line("state", "success"), *lines])


def _artifact(uri: str, kind: str) -> Artifact | None:
    try:
        return open_artifact(uri, kind)
    except InvalidInputError:
        return None


def _lines(kind: str, artifact: Artifact) -> list[str]:
    lines = [_line(kind, f"{artifact.uri}  ({_describe(artifact)})")]
    if kind == EVALUATION:
        lines += [_line(name, f"{value:.3f}") for name, value in artifact.manifest.metrics.items()]
    if PAGES.get(kind) == REPORT:
        lines += [_line("report", f"{artifact.uri}/{file.path}") for file in artifact.files(REPORT)]
    return lines


def _line(name: str, text: str) -> str:
    return one_line(f"{name:<13} {text}")


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
