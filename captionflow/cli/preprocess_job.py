"""What Airflow's Beam operator starts, which can name a file and no command: `captionflow preprocess`."""

import sys

from captionflow.cli.main import main
from captionflow.core.parameters import flag
from captionflow.core.steps import step_named

STEP = step_named("preprocess")


def arguments(words: list[str]) -> list[str]:
    """Return the command's arguments: the operator does not part the step's options, one a word, from those of Beam."""
    names = [*STEP.inputs, "output", "exit_with_parent", *STEP.parameters_class.json_schema()]
    ours = {flag(name) for name in names}
    mine = [word for word in words if word.partition("=")[0] in ours]
    return [STEP.name, *mine, "--", *(word for word in words if word not in mine)]


if __name__ == "__main__":
    main(arguments(sys.argv[1:]))
