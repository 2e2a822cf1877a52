"""Where TFX is: in an environment of its own, whose Python the main environment starts. Imports no TFX."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

from captionflow.errors import InvalidInputError

VARIABLE = "CAPTIONFLOW_TFX_PYTHON"
_BESIDE = Path(__file__).parents[1] / ".venv-tfx" / "bin" / "python"


def tfx_python() -> str:
    """Return the path of the Python that has TFX.

    Raises:
        InvalidInputError: there is none; the message says how to get it.
    """
    python = os.environ.get(VARIABLE) or str(_BESIDE)
    if not os.access(python, os.X_OK):
        raise InvalidInputError(f"{python}: no such Python; `make tfx` installs TFX there, or {VARIABLE} names another")
    return python


def continue_with_tfx() -> None:
    """Go on as the same `captionflow` command in TFX's environment, unless this is it.

    Raises:
        InvalidInputError: there is no such environment.
    """
    if find_spec("tfx") is None:
        python = tfx_python()
        os.execv(python, [python, "-P", "-m", "captionflow.cli", *sys.argv[1:]])
