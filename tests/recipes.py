"""The recipes of docs/extending.md: read from the page, and followed in a copy of the project."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "extending.md"
_COPIED = (
    *("beam_jobs", "captionflow", "dags", "docs", "kfp_pipeline", "tfx_pipeline", "pyproject.toml"),
    *("tests/__init__.py", "tests/architecture.py", "tests/dags.py"),
)
_FILE = re.compile(r"^(?:New|Change): `(.+)`$", re.M)
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)


def recipe(title: str, page: Path = PAGE) -> str:
    """The text below a heading; that before the first for the title of the page."""
    (found,) = re.findall(rf"^##? {re.escape(title)}\n(.*?)(?=^## |\Z)", page.read_text(), re.M | re.S)
    return str(found)


def new_files(title: str, page: Path) -> dict[str, str]:
    """The files marked *new* below a heading, by their paths."""
    blocks = re.findall(r"^New: `([^`]+)`\n\n```\w+\n(.*?)^```$", recipe(title, page), re.M | re.S)
    return dict(blocks)


class Copy:
    """A copy of the project, in which recipes are followed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in _COPIED:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.png"))
            else:
                shutil.copy(ROOT / name, folder / name)

    def follow(self, title: str) -> None:
        """Write the new files of a recipe and make its changes."""
        text = recipe(title)
        for block in _BLOCK.finditer(text):
            language, content = block.groups()
            if language == "sh":
                continue
            file = self.folder / _FILE.findall(text[: block.start()])[-1]
            if language == "diff":
                for hunk in content.split("@@\n"):
                    _change(file, hunk)
            else:
                assert not file.exists(), file
                file.write_text(content)


def _change(file: Path, hunk: str) -> None:
    """Put the lines that begin with a space or + in the place of those that begin with a space or -."""
    lines = hunk.splitlines(keepends=True)
    old, new = ("".join(line[1:] or "\n" for line in lines if line[0] in signs) for signs in (" -\n", " +\n"))
    text = file.read_text()
    assert text.count(old) == 1, f"{file} does not have once:\n{old}"
    file.write_text(text.replace(old, new))


def commands(title: str, page: Path = PAGE) -> str:
    """Return the commands of a recipe."""
    return "".join(content for language, content in _BLOCK.findall(recipe(title, page)) if language == "sh")


def run(commands: str, folder: Path, project: Path) -> str:
    """Run commands in a folder, with the packages of a project first on the path; returns what they print."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands], cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(project), "COLUMNS": "200"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
