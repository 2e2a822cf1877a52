"""What a task publishes of its artifact: an event of the asset, and inputs and outputs for OpenLineage."""

import logging
from typing import Any
from urllib.parse import urlsplit

from airflow.providers.common.compat.lineage.entities import File
from airflow.sdk import Asset, Context

from captionflow.airflow.form import no_retry_in_vain
from captionflow.core.errors import StoreError
from captionflow.core.runs import PIPELINE
from captionflow.core.steps import EVALUATION
from captionflow.core.terminal import one_line


def asset(kind: str) -> Asset:
    """Return the asset that stands for all artifacts of a kind; which one is new, its events say."""
    return Asset(name=f"{PIPELINE}.{kind}", group="captionflow")


def announce(context: Context, uri: Any) -> None:
    """Publish the artifact at `uri`, its parents, and the scores of an evaluation.

    Where the store does not answer, the event has no content; the task, whose work is done, does not fail.
    """
    from captionflow.core.artifact import open_artifact  # asks for more than a DAG file needs

    try:
        with no_retry_in_vain():
            artifact = open_artifact(uri)
    except StoreError as error:
        log = logging.getLogger(__name__)
        log.warning("%s; so the asset's event and OpenLineage lack this artifact", one_line(str(error)))
        return
    manifest, task = artifact.manifest, context["task"]
    scores: dict[str, Any] = {"scores": manifest.metrics} if manifest.kind == EVALUATION else {}
    context["outlet_events"][asset(manifest.kind)].extra.update(
        {"uri": artifact.uri, "sha256": manifest.sha256, **scores}
    )
    # OpenLineage looks at these when the task has ended.
    task.inlets = [*task.inlets, *(_file(parent.uri) for parent in manifest.parents)]
    task.outlets = [*task.outlets, _file(artifact.uri)]


def _file(uri: str) -> File:
    return File(url=uri if urlsplit(uri).scheme else f"file://{uri}")
