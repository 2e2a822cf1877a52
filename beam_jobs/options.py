"""Beam's own options: parsed, and refused in one line where Beam would print a page of usage."""

import argparse
import io
import logging
from collections.abc import Sequence
from contextlib import redirect_stderr
from itertools import pairwise
from typing import TYPE_CHECKING

from beam_jobs.parameters import DATAFLOW, DIRECT
from captionflow.core.errors import InvalidInputError

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions


def check_words(arguments: Sequence[str]) -> None:
    """Raise InvalidInputError if a word can belong to no option of Beam's."""
    for before, word in pairwise(["", *arguments]):
        if not word.startswith("-") and (not before.startswith("--") or "=" in before):
            raise InvalidInputError(f"{word}: belongs to no option; write --name=value")


def beam_options(arguments: list[str]) -> "PipelineOptions":
    """Parse Beam's options.

    Raises:
        InvalidInputError: a wrong value, an unknown name or a stray word, in one line instead of Beam's page of usage.
    """
    from apache_beam.options.pipeline_options import PipelineOptions, SetupOptions, StandardOptions

    check_words(arguments)
    logging.basicConfig()  # or Beam would, while its stderr is redirected
    usage = io.StringIO()
    try:
        with redirect_stderr(usage):
            options = PipelineOptions(arguments)
            known = options.get_all_options()
    except SystemExit as error:
        raise InvalidInputError(f"Beam: {usage.getvalue().strip().splitlines()[-1]}") from error
    # Workers import what they run; nothing of the main module is pickled.
    options.view_as(SetupOptions).save_main_session = False
    # A portable runner may have options of its own, which only its job server knows.
    standard = options.view_as(StandardOptions)
    runner = standard.runner or DIRECT
    names = [name.lower() for name in StandardOptions.KNOWN_RUNNER_NAMES]
    if "." not in runner and not {runner.lower(), f"{runner.lower()}runner"} & {*names}:
        raise InvalidInputError(f"--runner: {runner!r} is none of {', '.join(StandardOptions.KNOWN_RUNNER_NAMES)}")
    unknown = sorted(set(options.get_all_options(retain_unknown_options=True)) - set(known))
    if unknown and runner in (DIRECT, DATAFLOW):
        raise InvalidInputError(
            f"--{unknown[0].replace('_', '-')}: neither this job nor Beam's {runner} has such an option; leave it out"
        )
    if runner == DIRECT:
        # Beam's DirectRunner would download a Prism binary and run that; offline it falls back to this one.
        standard.runner = "FnApiRunner"
    return options


def check_complete(options: "PipelineOptions") -> None:
    """Raise InvalidInputError if Dataflow lacks an option; Beam would print a traceback."""
    from apache_beam.options.pipeline_options import StandardOptions
    from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
    from apache_beam.runners import create_runner

    runner = options.view_as(StandardOptions).runner
    if runner == DATAFLOW and (errors := PipelineOptionsValidator(options, create_runner(runner)).validate()):
        raise InvalidInputError(f"--runner: {DATAFLOW}: {' '.join(errors)}")


def runs_in_process(beam_arguments: list[str]) -> bool:
    """Whether this process and its children fetch the images, judged without Beam, which is slow to import."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--runner", default=DIRECT)
    parser.add_argument("--direct_running_mode", default="in_memory")
    known, _ = parser.parse_known_args(beam_arguments)
    return bool(known.runner == DIRECT and known.direct_running_mode != "multi_processing")
