"""The command `captionflow`. Each of its commands imports what it needs when it runs."""

import io
import json
import logging
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from captionflow.captioner.parameters import CaptionParameters
from captionflow.cli import kfp, tfx
from captionflow.cli.options import expand, print_uri, register
from captionflow.core.errors import CaptionFlowError
from captionflow.core.steps import STEPS
from captionflow.core.terminal import one_line, printable
from captionflow.preprocess.parameters import FormatParameters

app = typer.Typer(
    help="From a captioned-image collection to a trained, evaluated captioning model. "
    "Every command prints the URI of the artifact it made, which is the input of the next: "
    "sample, ingest, validate, preprocess, train, evaluate.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _tell_version(asked: bool) -> None:
    if asked:
        from captionflow.core.code_version import code_version

        print(code_version())
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Take the options that stand before a command."""


app.add_typer(tfx.app, name="tfx")
app.add_typer(kfp.app, name="kfp")


for step in STEPS:
    register(app, step)


@app.command()
@expand(CaptionParameters)
def caption(
    images: Annotated[list[str], typer.Argument(help="Image files: paths or URIs.", metavar="IMAGE...")],
    model: Annotated[str, typer.Option(help="URI of the model artifact.")],
    parameters: CaptionParameters,
) -> None:
    """Print a caption for each picture."""
    from captionflow.captioner.generate import caption

    for image, text in caption(images, model, parameters.beam_size):
        print(f"{image}\t{one_line(text)}")


@app.command()
@expand(FormatParameters)
def export(
    uri: Annotated[str, typer.Argument(help="URI of a preprocessed artifact.")],
    output: Annotated[str, typer.Option(help="URI of the artifact to make: a path, gs://, s3://, …")],
    parameters: FormatParameters,
) -> None:
    """Turn a preprocessed artifact into one whose shards are of another format."""
    from captionflow.preprocess.export import export

    print_uri(export(uri, output, parameters))


@app.command()
def lineage(
    uri: Annotated[str, typer.Argument(help="URI of any artifact, or of a model that TFX pushed.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Also check every file of the artifact against its sha256.")
    ] = False,
    metadata: tfx.Metadata = None,
) -> None:
    """Show how an artifact was made: data, parameters, code version and scores, back to the sources."""
    if location := tfx.metadata_of(uri, metadata):
        print(tfx.lineage(uri, location, as_json=as_json))
        return
    from captionflow.core.artifact import open_artifact
    from captionflow.core.lineage import lineage, render

    if verify:
        open_artifact(uri).verify()
    node = lineage(uri)
    print(printable(json.dumps(node.to_json(), indent=2, ensure_ascii=False)) if as_json else render(node))


@app.command()
def show(
    uri: Annotated[str, typer.Argument(help="URI of any artifact.")],
    html: Annotated[
        Path | None,
        typer.Option(help="Write the page of a preprocessed or an evaluation artifact to this file instead."),
    ] = None,
) -> None:
    """Show what is in an artifact: counts, parameters that are not the defaults, parents, the first captions."""
    from captionflow.core.show import show, write_page

    if html:
        write_page(uri, html)
        print(f"{html}: open it in a browser")
        return
    print(show(uri), flush=True)


@app.command()
def rejects(
    uri: Annotated[str, typer.Argument(help="URI of an ingested or a preprocessed artifact, finished or not.")],
    reason: Annotated[str | None, typer.Option(help="Print only those with this reason.")] = None,
) -> None:
    """Print what a step dropped, as JSON Lines; stderr tells how many there are for each reason."""
    from captionflow.core.rejects import format_counts, open_rejects, printable_line

    found = open_rejects(uri)
    if not found.is_verified:
        _tell(f"{uri}: has no manifest: its step has not finished, and nothing is verified")
    counts = Counter[str]()
    for reject in found:
        counts[reject.reason] += 1
        if reason in (None, reject.reason):
            print(printable_line(reject))
    sys.stdout.flush()
    more = f"; {found.not_written} more were only counted" if found.not_written else ""
    _tell(f"{counts.total()} rejects: {format_counts(counts) or 'none'}{more}")


@app.command()
def summary(run: Annotated[str, typer.Argument(help="Folder of a run: ROOT/PIPELINE/RUN_ID.")]) -> None:
    """Show the result of a run of the DAG: its artifacts, scores and report."""
    from captionflow.core.summary import summary

    print(summary(run))


def _tell(text: str) -> None:
    """Write one line to stderr."""
    print(f"captionflow: {one_line(text)}", file=sys.stderr)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a CaptionFlowError becomes one line and exit code 2 (input) or 1 (result).

    Args:
        arguments: the command's arguments; by default those of this process.
    """
    # gcsfs logs the traceback of an error that is printed below in one line.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    # A locale may lack characters that captions have.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app(arguments)
    except CaptionFlowError as error:
        _tell(str(error))
        sys.exit(error.exit_code)
