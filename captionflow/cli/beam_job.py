"""The command of a step that is a Beam job, as a file: Airflow's Beam operator starts no command."""

import sys

from captionflow.cli.main import main
from captionflow.core.parameters import flag
from captionflow.core.steps import step_named

STEP = "--step="


def arguments(words: list[str]) -> list[str]:
    """Return the command's arguments: the operator mixes the step's options, one a word, with those of Beam."""
    (name,) = (word.removeprefix(STEP) for word in words if word.startswith(STEP))
    step = step_named(name)
    options = {
        flag(name) for name in (*step.inputs, "output", "exit_with_parent", *step.parameters_class.json_schema())
    }
    of_step = [word for word in words if word.partition("=")[0] in options]
    of_beam = [word for word in words if word not in of_step and not word.startswith(STEP)]
    return [step.name, *of_step, "--", *of_beam]


if __name__ == "__main__":
    main(arguments(sys.argv[1:]))
