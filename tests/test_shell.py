"""Every shell script of the project."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = [
    ".ci/run",
    *(str(path.relative_to(ROOT)) for name in ("deploy", "docker", "tests") for path in (ROOT / name).rglob("*.sh")),
]


@pytest.mark.parametrize("script", SCRIPTS)
def test_shellcheck_finds_nothing(script: str) -> None:
    if not shutil.which("shellcheck"):
        pytest.skip("Debian's shellcheck is not installed")
    done = subprocess.run(["shellcheck", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == ""
