"""`captionflow kfp …`: the main job compiled for Kubeflow Pipelines or Vertex AI, and submitted there."""

import logging
import sys
import warnings
from typing import TYPE_CHECKING, Annotated

import typer

from captionflow.cli.options import expand
from kfp_pipeline.parameters import CompileParameters, KubeflowParameters, VertexParameters

if TYPE_CHECKING:
    from kfp_pipeline.service import Service

app = typer.Typer(
    help="The main job on Kubeflow Pipelines 2 or Vertex AI: each step in a container of its own.",
    no_args_is_help=True,
)


@app.command("compile")
@expand(CompileParameters)
def compile_(
    output: Annotated[str, typer.Option(help="File to write: .yaml or .json.")],
    parameters: CompileParameters,
) -> None:
    """Write the pipeline's specification, for `submit` or for an upload in the web interface."""
    from kfp_pipeline.pipeline import compile_pipeline

    compile_pipeline(parameters, output)
    print(output)


@app.command()
@expand(KubeflowParameters)
@expand(VertexParameters)
def submit(
    file: Annotated[str, typer.Argument(help="Pipeline that `compile` wrote.", metavar="PIPELINE")],
    kubeflow: KubeflowParameters,
    on_vertex: VertexParameters,
    parameters: Annotated[
        str,
        typer.Option(
            help='The run\'s arguments as JSON: {"component_artifact_root": "s3://…", "sources": ["s3://…"]}.'
        ),
    ] = "{}",
    run_name: Annotated[
        str | None, typer.Option(help="Name of the run; by default the pipeline's name and the time.")
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until the run ends; exit code 1 unless it succeeds.")
    ] = False,
    vertex: Annotated[
        bool, typer.Option("--vertex", help="Submit to Vertex AI Pipelines instead of Kubeflow.")
    ] = False,
) -> None:
    """Start a run of a compiled pipeline and print its URL."""
    from kfp_pipeline.submission import submission

    _show_progress()
    checked = submission(file, parameters, run_name)
    service: Service
    if vertex:
        from kfp_pipeline.vertex import Vertex

        service = Vertex(on_vertex)
    else:
        from kfp_pipeline.kubeflow import Kubeflow

        service = Kubeflow(kubeflow)
    service.submit(checked)
    print(service.url, flush=True)
    if wait:
        service.wait()


def _show_progress() -> None:
    """Log our own progress to the terminal, and nothing of the SDKs'."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.getLogger().addHandler(logging.NullHandler())
    logger = logging.getLogger("kfp_pipeline")
    logger.addHandler(logging.StreamHandler(sys.stderr))
    logger.setLevel(logging.INFO)
