"""Run `captionflow preprocess` from a file, since Airflow's Beam operator starts a Python file and no command."""

import sys

from captionflow.cli.main import main
from captionflow.core.parameters import flag
from captionflow.core.steps import step_named

STEP = step_named("preprocess")


def arguments(options: list[str]) -> list[str]:
    """Return the command's arguments, with Beam's options after `--`; the operator mixes them with the step's."""
    names = [*STEP.inputs, "output", "exit_with_parent", *STEP.parameters_class.json_schema()]
    flags = {flag(name) for name in names}
    of_step = [option for option in options if option.partition("=")[0] in flags]
    of_beam = [option for option in options if option not in of_step]
    return [STEP.name, *of_step, "--", *of_beam]


if __name__ == "__main__":
    main(arguments(sys.argv[1:]))
