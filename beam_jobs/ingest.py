"""The step ingest: in one process, or as a Beam job whose workers share the files of the sources.

Both make the same artifact, byte for byte. Its command is `captionflow ingest`.
"""

import logging

from beam_jobs.dataflow import dataflow_options
from beam_jobs.failures import failures_in_one_line, hide_tracebacks
from beam_jobs.options import beam_options, check_complete, check_words
from beam_jobs.parameters import DATAFLOW, NO_RUNNER, IngestJobParameters
from captionflow.core.artifact import open_artifact
from captionflow.core.draft import begin
from captionflow.core.errors import InvalidInputError
from captionflow.core.steps import INGESTED
from captionflow.core.uris import is_local
from captionflow.sources.expansion import SourceFile, list_files
from captionflow.sources.ingest import ingest as ingest_in_one_process
from captionflow.sources.output import check_output
from captionflow.sources.parameters import IngestParameters

_LOG = logging.getLogger(__name__)


def ingest(output: str, parameters: IngestJobParameters) -> str:
    """Run the step `ingest` where `ingest_runner` says; see `captionflow.sources.ingest` and `run`."""
    recorded = IngestParameters.from_mapping(parameters.to_json())
    if parameters.ingest_runner == NO_RUNNER:
        check_words(parameters.beam_options)
        if parameters.beam_options:
            _LOG.warning("ingest: Beam's options have no effect without --ingest-runner")
        return ingest_in_one_process(output, recorded)
    hide_tracebacks()
    placement = (f"--{name}={value}" for name, value in dataflow_options(parameters).items())
    return run(output, recorded, parameters.ingest_runner, [*placement, *parameters.beam_options])


def run(output: str, parameters: IngestParameters, runner: str, beam_arguments: list[str]) -> str:
    """Build the pipeline, run it to its end, and return the artifact's URI.

    Args:
        runner: Beam's name of it.
        beam_arguments: Beam's own options, as on a command line.

    Raises:
        InvalidInputError: no source is given, one cannot be read, Beam is missing, or it does not know an option.
        StepFailedError: as `captionflow.sources.ingest`, or a file of a source changed meanwhile.
    """
    files = list_files(parameters)
    check_output(files, output)
    if runner == DATAFLOW:
        _check_reach(files)
    try:
        import apache_beam as beam
    except ModuleNotFoundError as error:
        raise InvalidInputError(
            "--ingest-runner: Apache Beam is not installed here; install CaptionFlow's extra 'preprocessing', or leave "
            "the option out"
        ) from error

    from beam_jobs import ingest_transforms as transforms

    options = beam_options([f"--runner={runner}", *beam_arguments])
    check_complete(options)
    draft = begin(output, INGESTED, parameters.to_json(), [])
    _LOG.info("ingest: %d files", len(files))
    with failures_in_one_line(), beam.Pipeline(options=options) as pipeline:
        keys, read = pipeline | transforms.ListFiles(files) | transforms.ReadKeys(parameters)
        verdicts, images = keys | transforms.ApplyRules(parameters.max_captions)
        parts = (read, verdicts) | transforms.WriteParts(draft, parameters)
        _ = (parts, images) | transforms.JoinParts(draft, parameters)
    return open_artifact(draft.uri, INGESTED).uri


def _check_reach(files: list[SourceFile]) -> None:
    for file in files:
        if is_local(file.uri):
            raise InvalidInputError(
                f"--ingest-runner: {DATAFLOW}'s workers do not reach {file.uri}; put it in a bucket, or leave the "
                "option out"
            )
