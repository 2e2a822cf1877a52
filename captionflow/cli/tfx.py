"""`captionflow tfx …`: the pipeline on this machine, and compiled for Kubeflow."""

import json
import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from captionflow.cli.options import expand
from tfx_pipeline.environment import continue_with_tfx
from tfx_pipeline.logs import silence_libraries
from tfx_pipeline.parameters import METADATA_FILE, METADATA_VARIABLE, TfxParameters, metadata_location

app = typer.Typer(
    help="The captions through TFX's ready-made components: statistics, schema, anomalies, transform, a next-word "
    "model, its evaluation and its push. On Airflow it is the DAG image_captioning_tfx.",
    no_args_is_help=True,
)

Metadata = Annotated[
    str | None,
    typer.Option(
        envvar=METADATA_VARIABLE,
        help="Where ML Metadata keeps its store: a path for SQLite, mysql://… or postgresql://…; by default "
        "metadata.db in the pipeline's root.",
    ),
]


@app.command()
@expand(TfxParameters)
def run(parameters: TfxParameters, metadata: Metadata = None) -> None:
    """Run the pipeline on this machine; TFX takes half a minute to start."""
    from tfx_pipeline.checks import check_inputs

    check_inputs(parameters)
    _prepare()
    from tfx_pipeline import local
    from tfx_pipeline.store import Store
    from tfx_pipeline.summary import summary

    location = metadata or metadata_location(parameters)
    local.run(parameters, location)
    print(summary(Store(location)))


@app.command("compile")
@expand(TfxParameters)
def compile_(
    parameters: TfxParameters,
    image: Annotated[str, typer.Option(help="Container image that holds CaptionFlow and its requirements.")],
    output: Annotated[str, typer.Option(help="File to write: .json for a pipeline job, .yaml for its specification.")],
) -> None:
    """Write the pipeline's specification for Kubeflow Pipelines 2 or Vertex AI Pipelines."""
    _prepare()
    from tfx_pipeline.kubeflow import compile_pipeline

    compile_pipeline(parameters, image, output)
    print(output)


def metadata_of(uri: str, location: str | None) -> str | None:
    """Return the metadata store that holds the lineage of `uri`; None if `uri` has a manifest of its own.

    Args:
        location: the store that the user named; by default the one in a folder above `uri`.
    """
    from captionflow.core.manifest import MANIFEST
    from captionflow.core.uris import is_local, resolve

    if not is_local(uri):
        return location
    path = Path(resolve(uri))
    if (path / MANIFEST).exists():
        return None
    return location or next(
        (str(root / METADATA_FILE) for root in path.parents if (root / METADATA_FILE).is_file()), None
    )


def lineage(uri: str, metadata: str, *, as_json: bool) -> str:
    """Return the lineage of an artifact of TFX's, as text or as JSON."""
    _prepare()
    from captionflow.core.terminal import printable
    from captionflow.core.uris import resolve
    from tfx_pipeline.lineage import lineage, render
    from tfx_pipeline.store import Store

    node = lineage(Store(metadata), resolve(uri))
    return printable(json.dumps(node.to_json(), indent=2, ensure_ascii=False)) if as_json else render(node)


def _prepare() -> None:
    """Continue in TFX's environment; log our own progress to the terminal, and nothing of TensorFlow's."""
    continue_with_tfx()
    silence_libraries()
    logging.getLogger().addHandler(logging.NullHandler())
    logger = logging.getLogger("tfx_pipeline")
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.INFO)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
