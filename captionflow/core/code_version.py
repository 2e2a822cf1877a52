"""Which state of the code made an artifact. `python -m captionflow.core.code_version` tells it for an image's build."""

import hashlib
import re
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

# The tags that are releases, v1.2.3, and no others; pyproject.toml tells setuptools-scm the same.
_RELEASES = ("--match=v[0-9]*.[0-9]*.[0-9]*", "--exclude=*[!v0-9.]*")


@cache
def code_version() -> str:
    """Return the last release and, unless it was built without git, the commit: 0.1.0+g04330ca6e1f2.

    A checkout tells its present state, whatever was true when it was installed. Uncommitted changes add a digest of
    themselves, so that no two states of the code look alike. What is installed without a checkout tells its version.
    """
    root = Path(__file__).resolve().parents[2]
    try:
        if Path(_git(root, "rev-parse", "--show-toplevel")) != root:
            return version("captionflow")
        commit, changes = _git(root, "rev-parse", "--short=12", "HEAD"), _changes(root)
    except (OSError, subprocess.CalledProcessError):
        return version("captionflow")
    # With a letter before it: a part of a version that is all digits is a number, which drops leading zeros.
    digest = f".d{hashlib.sha256(changes.encode()).hexdigest()[:8]}" if changes else ""
    return f"{_release(root)}+g{commit}{digest}"


def _changes(root: Path) -> str:
    """Return what differs from the commit, files that git does not track yet included."""
    new = [name for name in _git(root, "ls-files", "-z", "--others", "--exclude-standard", "*.py").split("\0") if name]
    return "\n".join([_git(root, "diff", "--no-ext-diff", "HEAD"), *new, *_git(root, "hash-object", *new).split()])


def _release(root: Path) -> str:
    """Return what setuptools-scm would: the last tag, or what pyproject.toml says where git has none."""
    try:
        return _git(root, "describe", "--tags", "--abbrev=0", *_RELEASES).removeprefix("v")
    except subprocess.CalledProcessError:
        # By hand, since a Python that only builds an image may be too old for tomllib.
        (version,) = re.findall(r'^fallback_version = "(.+?)"', (root / "pyproject.toml").read_text(), re.MULTILINE)
        return str(version)


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, errors="replace").stdout.strip()


if __name__ == "__main__":
    print(code_version())
