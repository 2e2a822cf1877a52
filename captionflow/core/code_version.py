"""Which state of the code made an artifact."""

import hashlib
import os
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

CODE_VERSION_VARIABLE = "CAPTIONFLOW_CODE_VERSION"
"""What names the code's version where there is no git checkout to ask, as in an image."""


@cache
def code_version() -> str:
    """Return the package's version, with the git commit when it runs from its own checkout or an image of it.

    Uncommitted changes add a digest of themselves, so that no two states of the code look alike.
    """
    released, root = version("captionflow"), Path(__file__).resolve().parents[2]
    if built_from := os.environ.get(CODE_VERSION_VARIABLE):
        return f"{released}+g{built_from}"
    try:
        if Path(_git(root, "rev-parse", "--show-toplevel")) != root:
            return released
        commit, changes = _git(root, "rev-parse", "--short=12", "HEAD"), _git(root, "diff", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        return released
    dirty = f".dirty.{hashlib.sha256(changes.encode()).hexdigest()[:8]}" if changes else ""
    return f"{released}+g{commit}{dirty}"


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, errors="replace").stdout.strip()
