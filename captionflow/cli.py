"""The front door: `captionflow COMMAND`. Each command imports what it needs when it is run."""

import io
import json
import logging
import sys
from typing import Annotated

import typer

import kfp_pipeline.cli
import tfx_pipeline.cli
from captionflow.errors import CaptionFlowError
from captionflow.kinds import CSV, EVALUATION, INGESTED, MODEL, SAMPLE
from captionflow.options import expand, makes
from captionflow.parameters import (
    CaptionParameters,
    EvaluateParameters,
    IngestParameters,
    SampleParameters,
    TrainParameters,
)
from captionflow.terminal import one_line, printable

app = typer.Typer(
    help="From a captioned-image collection to a trained, evaluated captioning model. "
    "Every command prints the URI of the artifact it made, which is the input of the next: "
    "sample, ingest, preprocess, train, evaluate.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(tfx_pipeline.cli.app, name="tfx")
app.add_typer(kfp_pipeline.cli.app, name="kfp")


@app.command()
@makes(SAMPLE)
@expand(SampleParameters)
def sample(output: str, parameters: SampleParameters) -> str:
    """Draw the built-in dataset: coloured shapes with five true captions each, in COCO's format."""
    from captionflow.sample import sample

    return sample(output, parameters)


@app.command()
@makes(INGESTED)
@expand(IngestParameters)
def ingest(output: str, parameters: IngestParameters) -> str:
    """Read captions from COCO JSON, CSV or JSON Lines; rows that cannot be used become counted rejects."""
    from captionflow.ingest import ingest

    return ingest(output, parameters)


@app.command("csv")
@makes(CSV)
def csv_(
    ingested: Annotated[str, typer.Option(help="URI of the ingested artifact.")],
    output: str,
) -> str:
    """Write the ingested captions as CSV, the form that TFX reads."""
    from captionflow.csv_export import export_csv

    return export_csv(ingested, output)


@app.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def preprocess(context: typer.Context) -> None:
    """Fetch, resize and shard the images, as a Beam job; any Beam option may be added."""
    from beam_jobs.preprocess import main

    main(context.args, program="captionflow preprocess")


@app.command()
@makes(MODEL)
@expand(TrainParameters)
def train(
    preprocessed: Annotated[str, typer.Option(help="URI of the preprocessed artifact.")],
    output: str,
    parameters: TrainParameters,
) -> str:
    """Train the captioner and keep its best checkpoint."""
    from captionflow.train import train

    return train(preprocessed, output, parameters)


@app.command()
@makes(EVALUATION)
@expand(EvaluateParameters)
def evaluate(
    model: Annotated[str, typer.Option(help="URI of the model artifact.")],
    preprocessed: Annotated[str, typer.Option(help="URI of the preprocessed artifact whose test split is used.")],
    output: str,
    parameters: EvaluateParameters,
) -> str:
    """Caption the test split, score it (BLEU, ROUGE-L, CIDEr) and write a report to look at."""
    from captionflow.evaluate import evaluate

    return evaluate(model, preprocessed, output, parameters)


@app.command()
@expand(CaptionParameters)
def caption(
    images: Annotated[list[str], typer.Argument(help="Image files: paths or URIs.", metavar="IMAGE...")],
    model: Annotated[str, typer.Option(help="URI of the model artifact.")],
    parameters: CaptionParameters,
) -> None:
    """Print a caption for each picture."""
    from captionflow.caption import caption

    for image, text in caption(images, model, parameters.beam_size):
        print(f"{image}\t{one_line(text)}")


@app.command()
def lineage(
    uri: Annotated[str, typer.Argument(help="URI of any artifact, or of a model that TFX pushed.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Also check every file of the artifact against its sha256.")
    ] = False,
    metadata: tfx_pipeline.cli.Metadata = None,
) -> None:
    """Tell what an artifact was made from: data, parameters, code version and scores, back to the sources."""
    if location := tfx_pipeline.cli.metadata_of(uri, metadata):
        print(tfx_pipeline.cli.lineage(uri, location, as_json=as_json))
        return
    from captionflow.artifacts import open_artifact
    from captionflow.lineage import lineage, render

    if verify:
        open_artifact(uri).verify()
    node = lineage(uri)
    print(printable(json.dumps(node.to_json(), indent=2, ensure_ascii=False)) if as_json else render(node))


@app.command()
def summary(run: Annotated[str, typer.Argument(help="Folder of a run: ROOT/PIPELINE/RUN_ID.")]) -> None:
    """Tell how a run of the DAG ended: its artifacts, scores and report."""
    from captionflow.summary import summary

    print(summary(run))


def main() -> None:
    """Run the command line; an error a user can act on is one line and exit code 2 (input) or 1 (result)."""
    # It logs the traceback of what its errors, told below, say already.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    # A locale may know fewer characters than captions have.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except CaptionFlowError as error:
        print(f"captionflow: {one_line(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
