"""The preprocess job: the `ingested` artifact → the `preprocessed` artifact.

Its command is `captionflow preprocess`; Airflow's Beam operator starts it by `captionflow.cli.beam_job`.
"""

import logging
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from beam_jobs.dataflow import dataflow_options
from beam_jobs.failures import failures_in_one_line, hide_tracebacks
from beam_jobs.options import beam_options, check_complete, runs_in_process
from beam_jobs.parameters import JobParameters
from captionflow.core.artifact import Artifact, open_artifact
from captionflow.core.draft import Draft, begin
from captionflow.core.errors import InvalidInputError
from captionflow.core.records import CAPTIONS, SPLIT_CHOICES
from captionflow.core.steps import INGESTED, PREPROCESSED
from captionflow.core.terminal import one_line
from captionflow.core.uris import resolve
from captionflow.preprocess.parameters import PreprocessParameters

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

    from captionflow.preprocess.reuse import EarlierArtifact
    from captionflow.preprocess.shards import Layout
    from captionflow.preprocess.workers import ShardWorkers

_LOG = logging.getLogger(__name__)


def preprocess(ingested: str, output: str, parameters: JobParameters) -> str:
    """Run the step `preprocess`; see `run`."""
    hide_tracebacks()
    placement = {"runner": parameters.runner, **dataflow_options(parameters)}
    arguments = [*(f"--{name}={value}" for name, value in placement.items()), *parameters.beam_options]
    recorded = PreprocessParameters.from_mapping(parameters.to_json())
    return run(ingested, output, recorded, arguments, parameters.reuse)


def run(
    ingested: str, output: str, parameters: PreprocessParameters, beam_arguments: list[str], reuse: str | None = None
) -> str:
    """Build the pipeline, run it to its end, and return the artifact's URI.

    Args:
        beam_arguments: Beam's own options, as on a command line.
        reuse: URI of an earlier preprocessed artifact whose pictures and lasting rejects are not fetched again.

    Raises:
        InvalidInputError: an input is not usable, nobody opened the images, a scorer is not installed, or Beam does
            not know an option.
        StepFailedError: no image is left in a split, or too many captions failed.
    """
    # Imported here, since --help does not need them.
    from captionflow.preprocess.captions import check_access, check_splits, summary
    from captionflow.preprocess.duplicates import open_excluded
    from captionflow.preprocess.reuse import open_earlier
    from captionflow.preprocess.scoring import check_installed
    from captionflow.preprocess.shards import Layout
    from captionflow.preprocess.workers import ShardWorkers

    is_here = runs_in_process(beam_arguments)
    if is_here:  # other workers have packages of their own
        check_installed(parameters.scorer_names)
    source = open_artifact(ingested, INGESTED)
    source.verify()
    images = source.count("images")
    if not reuse:  # what an earlier artifact holds need not be open
        with source.open(CAPTIONS, check=False) as lines:
            check_access(lines, parameters)
    layout = Layout.plan(_images_by_split(source), parameters)
    with source.open(CAPTIONS, check=False) as lines:
        check_splits(lines, layout, parameters)
    if reuse and resolve(reuse) == resolve(output):
        raise InvalidInputError(f"--reuse: {reuse} is where the new artifact goes; choose another --output")
    earlier = open_earlier(reuse, parameters) if reuse else None
    excluded = open_excluded(output, parameters)
    progress_total = images if is_here and sys.stderr.isatty() else None
    start_workers = partial(ShardWorkers, parameters, reuse and resolve(reuse), progress_total)
    with ExitStack() as resources:
        workers = None
        if is_here:
            workers = start_workers()  # before Beam is imported, which takes seconds
            resources.callback(workers.close)
        options = beam_options(beam_arguments)
        check_complete(options)
        parents = [each.parent for each in (source, excluded) if each]
        draft = begin(output, PREPROCESSED, parameters.to_json(), parents, resume=True)
        _run(options, source, layout, draft, earlier, excluded, start_workers, workers)
    artifact = open_artifact(draft.uri, PREPROCESSED)
    for line in summary(artifact.manifest):
        _LOG.info("preprocess: %s", one_line(line))
    return artifact.uri


def _images_by_split(source: Artifact) -> dict[str | None, int]:
    """Return the number of images by the split that their sources give, of an ingested artifact."""
    images: dict[str | None, int] = {None: source.count("images")}
    if "splits" in source.manifest.counts:  # which older artifacts lack
        images |= {choice: source.count("splits", choice, default=0) for choice in SPLIT_CHOICES}
        images[None] = max(0, images[None] - sum(images[choice] for choice in SPLIT_CHOICES))
    return {choice: number for choice, number in images.items() if number}


def _run(
    options: "PipelineOptions",
    source: Artifact,
    layout: "Layout",
    draft: Draft,
    earlier: "EarlierArtifact | None",
    excluded: Artifact | None,
    start_workers: "Callable[[], ShardWorkers]",
    workers: "ShardWorkers | None",
) -> None:
    import apache_beam as beam
    from apache_beam.utils.shared import Shared

    from beam_jobs import transforms
    from beam_jobs.duplicates import LeaveOutDuplicates

    parameters = PreprocessParameters.from_mapping(draft.parameters)
    captions = source.count("captions", "out")
    shared = Shared()
    if workers:
        shared.acquire(lambda: workers)  # so that Beam's threads find them, and start no others
    _LOG.info("preprocess: %d captions into shards: %s", captions, layout.counts)
    with failures_in_one_line(), beam.Pipeline(options=options) as pipeline:
        records = pipeline | transforms.ReadCaptions(f"{source.uri}/{CAPTIONS}") | transforms.FilterCaptions(parameters)
        if earlier:
            records = (records, pipeline | transforms.IndexEarlier(earlier)) | beam.Flatten()
        infos = records | transforms.GroupByShard(layout) | transforms.WriteShards(draft, start_workers, shared)
        if parameters.duplicates != "none":
            infos |= LeaveOutDuplicates(draft, parameters, excluded)
        infos | transforms.CommitManifest(draft, layout, captions, earlier.artifact.parent if earlier else None)
