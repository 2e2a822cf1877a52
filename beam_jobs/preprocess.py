"""The preprocess job: the `ingested` artifact → the `preprocessed` artifact.

    python beam_jobs/preprocess.py --ingested URI --output URI [options] [Beam options]

Options that are not the job's own go to Beam, so `--runner`, `--direct_num_workers` or
`--project` work as in any Beam job.
"""

import argparse
import io
import json
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated

import typer

from captionflow.artifacts import Artifact, open_artifact
from captionflow.draft import Draft, begin
from captionflow.errors import CaptionFlowError, InvalidInputError, StepFailedError
from captionflow.kinds import INGESTED, PREPROCESSED
from captionflow.options import expand, makes
from captionflow.parameters import PreprocessParameters, ReuseParameters, items
from captionflow.parent import end_with_parent
from captionflow.records import CAPTIONS
from captionflow.terminal import one_line
from captionflow.uris import resolve

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

    from captionflow.reuse import EarlierArtifact
    from captionflow.shards import Layout

_LOG = logging.getLogger("beam_jobs.preprocess")  # also when this file is run as __main__

_DIRECT = "DirectRunner"
_DATAFLOW = "DataflowRunner"

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
    # Imported here so that --help does not wait for them.
    from captionflow.preprocess import check_splits, summary
    from captionflow.reuse import open_earlier
    from captionflow.shard_workers import shard_workers
    from captionflow.shards import Layout

    source = open_artifact(ingested, INGESTED)
    source.verify()
    images = source.count("images")
    layout = Layout.plan(images, parameters)
    with source.open(CAPTIONS, check=False) as lines:
        check_splits(lines, images, layout, parameters)
    if reuse and resolve(reuse) == resolve(output):
        raise InvalidInputError(f"--reuse: {reuse} is where the new artifact goes; choose another --output")
    earlier = open_earlier(reuse, parameters) if reuse else None
    is_here = _works_here(beam_arguments)
    writing = parameters, reuse and resolve(reuse), images if is_here and sys.stderr.isatty() else None
    with ExitStack() as held:
        if is_here:
            # They start while Beam is imported; the transform asks for the same ones.
            held.callback(shard_workers(*writing).close)
        options = beam_options(beam_arguments)
        draft = begin(output, PREPROCESSED, parameters.to_json(), [source.parent], resume=True)
        _run(options, source, layout, draft, earlier, writing)
    artifact = open_artifact(draft.uri, PREPROCESSED)
    for line in summary(artifact.manifest):
        _LOG.info("preprocess: %s", one_line(line))
    return artifact.uri


def _works_here(beam_arguments: list[str]) -> bool:
    """Whether the images are fetched by this process and its children, as far as can be told before Beam is there."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--runner", default=_DIRECT)
    parser.add_argument("--direct_running_mode", default="in_memory")
    known, _ = parser.parse_known_args(beam_arguments)
    return bool(known.runner == _DIRECT and known.direct_running_mode != "multi_processing")


def _run(
    options: "PipelineOptions",
    source: Artifact,
    layout: "Layout",
    draft: Draft,
    earlier: "EarlierArtifact | None",
    writing: tuple[PreprocessParameters, str | None, int | None],
) -> None:
    import apache_beam as beam

    from beam_jobs import transforms

    parameters = writing[0]
    captions = source.count("captions", "out")
    _LOG.info("preprocess: %d captions into %s shards of train, val and test", captions, layout.counts)
    with _step_failures_in_one_line(), beam.Pipeline(options=options) as pipeline:
        records = (
            pipeline
            | transforms.ReadCaptions(f"{source.uri}/{CAPTIONS}")
            | transforms.FilterLicenses(parameters.licenses)
            | transforms.CleanCaptions()
        )
        if earlier:
            listed = pipeline | transforms.IndexEarlier(earlier)
            records = (records, listed) | beam.Flatten()
        (
            records
            | transforms.GroupByShard(layout)
            | transforms.WriteShards(draft, *writing)
            | transforms.CommitManifest(draft, captions, earlier.artifact.parent if earlier else None)
        )


@contextmanager
def _step_failures_in_one_line() -> Iterator[None]:
    """Find the StepFailedError of a worker, or the refusal of a Google API, in whatever error the runner made of it."""
    try:
        yield
    except Exception as error:
        # Those of Beam 2.71, which Cloud Composer has, and of 2.77.
        if type(error).__module__.startswith(("apitools.", "google.api_core.")):
            raise StepFailedError(f"Dataflow: {_refusal(error)}") from error
        found = re.search(r"StepFailedError: (.*?)(?: \[while running|$)", f"{type(error).__name__}: {error}", re.M)
        if found:
            raise StepFailedError(found[1]) from error
        raise


def _refusal(error: Exception) -> str:
    """Return the message in a Google API's answer, or all of the error."""
    # https://cloud.google.com/apis/design/errors#http_mapping
    try:
        return str(json.loads(getattr(error, "content", ""))["error"]["message"])
    except (KeyError, TypeError, ValueError):
        return str(getattr(error, "message", error))


def beam_options(arguments: list[str]) -> "PipelineOptions":
    """Parse Beam's options.

    Raises:
        InvalidInputError: a wrong value, an unknown name or a stray word, in one line instead of Beam's page of usage.
    """
    from apache_beam.options.pipeline_options import PipelineOptions, SetupOptions, StandardOptions

    for before, word in pairwise(["", *arguments]):
        if not word.startswith("-") and (not before.startswith("--") or "=" in before):
            raise InvalidInputError(f"{word}: belongs to no option")
    logging.basicConfig()  # Beam does it while it parses, and the log would go where its usage goes
    usage = io.StringIO()
    try:
        with redirect_stderr(usage):
            options = PipelineOptions(arguments)
            known = options.get_all_options()
    except SystemExit as error:
        raise InvalidInputError(f"Beam: {usage.getvalue().strip().splitlines()[-1]}") from error
    # Workers import what they run; nothing of the main module need be pickled for them.
    options.view_as(SetupOptions).save_main_session = False
    # A portable runner may bring options of its own, which only its job server knows.
    standard = options.view_as(StandardOptions)
    runner = standard.runner or _DIRECT
    names = [name.lower() for name in StandardOptions.KNOWN_RUNNER_NAMES]
    if "." not in runner and not {runner.lower(), f"{runner.lower()}runner"} & {*names}:
        raise InvalidInputError(f"--runner: {runner!r} is none of {', '.join(StandardOptions.KNOWN_RUNNER_NAMES)}")
    unknown = sorted(set(options.get_all_options(retain_unknown_options=True)) - set(known))
    if unknown and runner in (_DIRECT, _DATAFLOW):
        raise InvalidInputError(
            f"--{unknown[0].replace('_', '-')}: neither this job nor Beam's {runner} has such an option"
        )
    if runner == _DIRECT:
        # Left to itself it downloads a Prism binary and runs that; this is what it falls back to offline.
        standard.runner = "FnApiRunner"
    return options


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
@makes(PREPROCESSED)
@expand(ReuseParameters)
@expand(PreprocessParameters)
def preprocess(
    context: typer.Context,
    ingested: Annotated[str, typer.Option(help="URI of the ingested artifact.")],
    output: str,
    parameters: PreprocessParameters,
    earlier: ReuseParameters,
    exit_with_parent: Annotated[
        bool, typer.Option("--exit-with-parent", help="End when the process that started the job ends.")
    ] = False,
    beam_args: Annotated[
        list[str] | None,
        typer.Option(help="A Beam option as one word, or several as a JSON array; may be repeated."),
    ] = None,
) -> str:
    """Fetch, resize and shard the images of an ingested artifact, as a Beam job.

    Options not listed here go to Beam: --runner, --direct_num_workers, --direct_running_mode, …
    """
    if exit_with_parent:
        end_with_parent()
    # Progress, also from worker processes; Beam's own chatter stays at warnings.
    # Airflow's operator reads the id of a Dataflow job in what its client logs.
    for name in ("beam_jobs", "captionflow", "apache_beam.runners.dataflow.internal.apiclient"):
        logging.getLogger(name).setLevel(logging.INFO)
    for name in ("worker.sdk_worker", "common"):
        logging.getLogger(f"apache_beam.runners.{name}").addFilter(_is_no_step_failure)
    arguments = [*context.args, *items("beam_args", beam_args or [])]
    return run(ingested, output, parameters, arguments, earlier.reuse)


def _is_no_step_failure(record: logging.LogRecord) -> bool:
    """Whether Beam logs anything else than the traceback of what ends as one line."""
    kind = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else ""
    return StepFailedError.__name__ not in f"{kind} {record.getMessage()}"


def main(arguments: list[str] | None = None, program: str | None = None) -> None:
    """Run the job from command-line arguments; ends the process with exit code 2 or 1 on an error."""
    try:
        app(arguments, prog_name=program)
    except CaptionFlowError as error:
        print(f"preprocess: {one_line(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
