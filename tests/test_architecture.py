"""The tree is what docs/architecture.md says of it."""

import ast
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import architecture

ROOT = Path(__file__).parents[1]
LONGEST_FILE = 400
FILES = [path for room in ("beam_jobs", "benchmarks", "captionflow", "dags", "deploy", "kfp_pipeline", "tfx_pipeline")
         for path in (ROOT / room).rglob("*.py")]  # fmt: skip


@pytest.mark.parametrize(("marks", "content"), architecture.PARTS.items(), ids=["picture", "steps"])
def test_the_page_has_the_import_graph_and_the_table_of_steps(
    marks: tuple[str, str], content: Callable[[], str]
) -> None:
    assert architecture.has(marks) == content(), "write them anew: python -m tests.architecture"


@pytest.mark.parametrize("room", [room for floor in architecture.floors() for room in floor if room != "dags"])
def test_each_room_says_what_it_is_for(room: str) -> None:
    page, package = architecture.PAGE.read_text(), ROOT / room.replace(".", "/") / "__init__.py"
    assert ast.get_docstring(ast.parse(package.read_bytes()))
    assert f"`{room.removeprefix('captionflow.')}`" in page


def test_no_file_is_a_drawer() -> None:
    assert [str(path) for path in FILES if len(path.read_text().splitlines()) > LONGEST_FILE] == []
