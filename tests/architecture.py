"""What docs/architecture.md has of the code: the picture of the floors, from imports, and the table of steps.

python -m tests.architecture    writes both anew
"""

import ast
import tomllib
from pathlib import Path

from captionflow.core.steps import STEPS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"
_PICTURE = "```mermaid\n", "```\n"
_TABLE = "<!-- steps -->\n", "<!-- end of steps -->\n"


def floors() -> list[list[str]]:
    """The rooms of each floor, the top first, as import-linter holds them; the DAG files are above all."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (layers,) = (contract["layers"] for contract in settings["contracts"] if contract["type"] == "layers")
    return [["dags"], *([room.strip() for room in layer.split("|")] for layer in layers)]


def imports(room: str, rooms: list[str]) -> set[str]:
    """The other rooms that a room imports, at once or later."""
    found = set()
    for path in (ROOT / room.replace(".", "/")).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.ImportFrom) and node.module:
                named = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                named = [alias.name for alias in node.names]
            else:
                continue
            found |= {other for other in rooms for name in named if f"{name}.".startswith(f"{other}.")}
    return found - {room}


def picture() -> str:
    """Return the picture as Mermaid draws it; an arrow that follows from others is left out."""
    by_floor = floors()
    rooms = [room for floor in by_floor for room in floor]
    direct = {room: imports(room, rooms) for room in rooms}
    below: dict[str, set[str]] = {}
    for room in reversed(rooms):
        below[room] = direct[room].union(*(below[other] for other in direct[room]))
    lines = ["flowchart TB"]
    for number, floor in enumerate(by_floor):
        lines += [f'    subgraph floor{number}[" "]', "        direction LR"]
        lines += [f'        {room}["{room.removeprefix("captionflow.")}"]' for room in floor]
        lines.append("    end")
    for room in rooms:
        needless = set().union(*(below[other] for other in direct[room]))
        lines += [f"    {room} --> {other}" for other in rooms if other in direct[room] - needless]
    return "\n".join(lines) + "\n"


def table() -> str:
    """Return the table of steps as Markdown."""
    lines = ["| step | does | takes | makes | extra |", "| --- | --- | --- | --- | --- |"]
    for step in STEPS:
        cells = (
            _code(step.name),
            step.description,
            _code(*step.inputs.values()),
            _code(step.output),
            _code(step.extra),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _code(*names: str) -> str:
    return ", ".join(f"`{name}`" for name in names)


def has(marks: tuple[str, str]) -> str:
    """Return what the page has between two marks."""
    return PAGE.read_text().partition(marks[0])[2].partition(marks[1])[0]


def main() -> None:
    """Write the page's picture and table."""
    for marks, content in PARTS.items():
        PAGE.write_text(PAGE.read_text().replace(marks[0] + has(marks), marks[0] + content()))


PARTS = {_PICTURE: picture, _TABLE: table}
"""Between which marks the page has what."""

if __name__ == "__main__":
    main()
