"""TFX has an environment of its own; find its Python and start it. Imports no TFX."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

from captionflow.core.errors import InvalidInputError

VARIABLE = "CAPTIONFLOW_TFX_PYTHON"
_CHECKOUT = Path(__file__).parents[1]
_DEFAULT = _CHECKOUT / ".venv-tfx" / "bin" / "python"
_CONTINUED = "_CAPTIONFLOW_CONTINUED_WITH_TFX"


def tfx_python() -> str:
    """Return the path of the Python that has TFX.

    Raises:
        InvalidInputError: there is none; the message holds the remedy.
    """
    python = os.environ.get(VARIABLE) or str(_DEFAULT)
    if not os.access(python, os.X_OK):
        raise InvalidInputError(f"{python}: no such Python; {_remedy()}")
    return python


def check_tfx() -> None:
    """Check that this is the environment that has TFX.

    Raises:
        InvalidInputError: it is not; the message holds the remedy.
    """
    if find_spec("tfx") is None:
        raise InvalidInputError(f"{sys.executable}: has no TFX; {_remedy()}")


def _remedy() -> str:
    if (_CHECKOUT / "Makefile").exists():
        return f"`make tfx` installs TFX beside the checkout, or {VARIABLE} names another Python"
    return f"{VARIABLE} names the Python of an environment made from tfx_pipeline/requirements.lock"


def continue_with_tfx() -> None:
    """Replace this process by the same `captionflow` command in TFX's environment, unless it runs there already.

    Raises:
        InvalidInputError: there is no such environment, or it has no TFX.
    """
    if os.environ.pop(_CONTINUED, None):
        check_tfx()
    elif find_spec("tfx") is None:
        python = tfx_python()
        os.execve(python, [python, "-P", "-m", "captionflow", *sys.argv[1:]], os.environ | {_CONTINUED: "1"})
