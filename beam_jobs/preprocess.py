"""The preprocess job: the `ingested` artifact → the `preprocessed` artifact.

    python beam_jobs/preprocess.py --ingested URI --output URI [options] [Beam options]

Options that are not the job's own go to Beam, so `--runner`, `--direct_num_workers` or
`--project` work as in any Beam job.
"""

import io
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated

import psutil
import typer

from captionflow.artifacts import INGESTED, PREPROCESSED, begin, open_artifact, resolve
from captionflow.errors import CaptionFlowError, InvalidInputError, StepFailedError
from captionflow.options import expand
from captionflow.parameters import PreprocessParameters

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

_LOG = logging.getLogger("beam_jobs.preprocess")  # also when this file is run as __main__

# The runner that --runner DirectRunner stands for.
DIRECT = "FnApiRunner"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def run(
    ingested: str, output: str, parameters: PreprocessParameters, beam_arguments: list[str], reuse: str | None = None
) -> str:
    """Build the pipeline, run it to its end, and return the artifact's URI.

    Args:
        beam_arguments: Beam's own options, as on a command line.
        reuse: URI of an earlier preprocessed artifact whose pictures and lasting rejects are not fetched again.

    Raises:
        InvalidInputError: an input is not usable, or Beam does not know an option.
        StepFailedError: no image is left.
    """
    # Imported here so that --help does not wait for Beam.
    import apache_beam as beam

    from beam_jobs import transforms
    from captionflow.ingest import CAPTIONS
    from captionflow.preprocess import summary
    from captionflow.reuse import open_earlier
    from captionflow.shards import Layout

    options = beam_options(beam_arguments)
    source = open_artifact(ingested, INGESTED)
    captions, images = source.manifest.counts["captions"]["out"], source.manifest.counts["images"]
    layout = Layout.plan(images, parameters)
    if reuse and resolve(reuse) == resolve(output):
        raise InvalidInputError(f"--reuse: {reuse} is where the new artifact goes; choose another --output")
    earlier, files = open_earlier(reuse, parameters) if reuse else (None, [])
    _LOG.info("preprocess: %d captions into %s shards of train, val and test", captions, layout.counts)
    draft = begin(output, PREPROCESSED, parameters.to_json(), [source.parent], resume=True)

    with _step_failures_in_one_line(), beam.Pipeline(options=options) as pipeline:
        records = (
            pipeline
            | transforms.ReadCaptions(f"{source.uri}/{CAPTIONS}")
            | transforms.FilterLicenses(parameters.licenses)
            | transforms.CleanCaptions()
        )
        if earlier:
            listed = pipeline | transforms.IndexEarlier(earlier.uri, files)
            records = (records, listed) | beam.Flatten()
        (
            records
            | transforms.GroupByShard(layout)
            | transforms.WriteShards(
                draft, parameters, earlier.uri if earlier else None, images if _has_terminal(options) else None
            )
            | transforms.CommitManifest(draft, captions, earlier.parent if earlier else None)
        )
    artifact = open_artifact(draft.uri, PREPROCESSED)
    _LOG.info("preprocess: %s", summary(artifact.manifest))
    return artifact.uri


def _has_terminal(options: "PipelineOptions") -> bool:
    """Whether the job's work is done in this process, in front of a user."""
    from apache_beam.options.pipeline_options import DirectOptions, StandardOptions

    is_here = options.view_as(StandardOptions).runner == DIRECT and (
        options.view_as(DirectOptions).direct_running_mode != "multi_processing"
    )
    return is_here and sys.stderr.isatty()


@contextmanager
def _step_failures_in_one_line() -> Iterator[None]:
    """Find the StepFailedError of a worker in whatever error the runner made of it."""
    try:
        yield
    except Exception as error:
        found = re.search(r"StepFailedError: (.*?)(?: \[while running|$)", f"{type(error).__name__}: {error}", re.M)
        if found:
            raise StepFailedError(found[1]) from error
        raise


def beam_options(arguments: list[str]) -> "PipelineOptions":
    """Parse Beam's options.

    Raises:
        InvalidInputError: a wrong value, an unknown name or a stray word, in one line instead of Beam's page of usage.
    """
    from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

    for before, word in pairwise(["", *arguments]):
        if not word.startswith("-") and (not before.startswith("--") or "=" in before):
            raise InvalidInputError(f"{word}: belongs to no option")
    usage = io.StringIO()
    try:
        with redirect_stderr(usage):
            options = PipelineOptions(arguments)
            known = options.get_all_options()
    except SystemExit as error:
        raise InvalidInputError(f"Beam: {usage.getvalue().strip().splitlines()[-1]}") from error
    # A portable runner may bring options of its own, which only its job server knows.
    standard = options.view_as(StandardOptions)
    runner = standard.runner or "DirectRunner"
    unknown = sorted(set(options.get_all_options(retain_unknown_options=True)) - set(known))
    if unknown and runner in ("DirectRunner", "DataflowRunner"):
        raise InvalidInputError(
            f"--{unknown[0].replace('_', '-')}: neither this job nor Beam's {runner} has such an option"
        )
    if runner == "DirectRunner":
        # Left to itself it downloads a Prism binary and runs that; this is what it falls back to offline.
        standard.runner = DIRECT
    return options


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
@expand(PreprocessParameters)
def preprocess(
    context: typer.Context,
    ingested: Annotated[str, typer.Option(help="URI of the ingested artifact.")],
    output: Annotated[str, typer.Option(help="URI of the artifact to make.")],
    parameters: PreprocessParameters,
    reuse: Annotated[
        str | None,
        typer.Option(help="URI of an earlier preprocessed artifact: what it holds is not fetched again."),
    ] = None,
    exit_with_parent: Annotated[
        bool, typer.Option("--exit-with-parent", help="End when the process that started the job ends.")
    ] = False,
) -> None:
    """Fetch, resize and shard the images of an ingested artifact, as a Beam job.

    Options not listed here go to Beam: --runner, --direct_num_workers, --direct_running_mode, …
    """
    if exit_with_parent:
        threading.Thread(target=_watch_parent, args=(os.getppid(),), daemon=True).start()
    # Progress, also from worker processes; Beam's own chatter stays at warnings.
    for name in ("beam_jobs", "captionflow"):
        logging.getLogger(name).setLevel(logging.INFO)
    print(run(ingested, output, parameters, context.args, reuse or None))


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    job = psutil.Process()
    for process in (*job.children(recursive=True), job):
        process.kill()


def main(arguments: list[str] | None = None, program: str | None = None) -> None:
    """Run the job from command-line arguments; ends the process with exit code 2 or 1 on an error."""
    try:
        app(arguments, prog_name=program)
    except CaptionFlowError as error:
        print(f"preprocess: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
