"""The other Pythons that pyproject.toml allows: what needs neither Airflow nor PyTorch runs on each that is here."""

import hashlib
import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from captionflow.core.artifact import open_artifact
from tests.composer_python import ROOT, UV

PROJECT, LOCK = ROOT / "pyproject.toml", ROOT / "requirements.lock"
ALLOWED = SpecifierSet(tomllib.loads(PROJECT.read_text())["project"]["requires-python"])
# The lock's own runs all other tests.
OTHERS = [version for version in (f"3.{minor}" for minor in range(30)) if version in ALLOWED and version != "3.11"]
UNIT_TESTS = ("test_captions.py", "test_parameters.py", "test_records.py", "security/test_json_sources.py")
"""Those that need no fixture of conftest.py, which imports Airflow."""


def interpreter(version: str) -> str:
    """Return a Python of that version on this machine; pyenv's are looked for too."""
    places = [shutil.which(f"python{version}"), *sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))]
    for place in filter(None, places):
        if subprocess.run([place, "--version"], capture_output=True, check=False).returncode == 0:
            return str(place)
    pytest.skip(f"no Python {version} on this machine")


@pytest.fixture(scope="module", params=OTHERS)
def python(request: pytest.FixtureRequest) -> Path:
    """A Python with what ingest, preprocess and the unit tests need, at the lock's versions."""
    folder = ROOT / ".bench" / f"python-{request.param}"
    python, stamp = folder / "bin" / "python", folder / "built"
    found = interpreter(request.param)
    made_of = [Path(__file__).read_bytes(), PROJECT.read_bytes(), LOCK.read_bytes(), found.encode()]
    digest = hashlib.sha256(b"".join(made_of)).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return python
    folder.parent.mkdir(exist_ok=True)
    tools, resolved = folder.with_name(f"{folder.name}.in"), folder.with_name(f"{folder.name}.txt")
    tools.write_text("hypothesis\npytest\nsetuptools\nsetuptools-scm\n")
    # What stands in the output already is chosen again where this Python can have it.
    shutil.copyfile(LOCK, resolved)
    for command in (
        ["pip", "compile", "--python", found, "--no-header", "--extra", "ingestion", "--extra", "preprocessing",
         "--output-file", str(resolved), str(PROJECT), str(tools)],
        ["venv", "--clear", "--python", found, str(folder)],
        ["pip", "sync", "--python", str(python), str(resolved)],
        ["pip", "install", "--python", str(python), "--no-deps", "--no-build-isolation", "--editable", str(ROOT)],
    ):  # fmt: skip
        done = subprocess.run([UV, "--quiet", *command], cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"uv {' '.join(command[:2])} for {found}: {done.stderr.strip()[-300:]}")
    stamp.write_text(digest)
    return python


def run(python: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"CAPTIONFLOW_URI_SCHEMES": "memory"}
    return subprocess.run([python, *arguments], env=environment, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_unit_tests_pass(python: Path) -> None:
    tests = [str(ROOT / "tests" / name) for name in UNIT_TESTS]
    done = run(python, "-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider", *tests)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr


@pytest.mark.slow
def test_ingest_and_preprocess_make_the_same_records(
    python: Path, ingested: str, trainable: str, small_sample: Path, tmp_path: Path
) -> None:
    """The bytes are the same whichever Python made them."""
    where = {kind: str(tmp_path / kind) for kind in ("ingested", "preprocessed")}
    for command in (
        ["ingest", "--sources", str(small_sample / "captions.json"), "--image-root", str(small_sample / "images"),
         "--output", where["ingested"]],
        ["preprocess", "--ingested", where["ingested"], "--output", where["preprocessed"], "--image-size", "64",
         "--allow-url-prefix", str(small_sample), "--licenses", "*", "--split", "0.8,0.1,0.1"],
    ):  # fmt: skip
        done = run(python, "-m", "captionflow", *command)
        assert done.returncode == 0, done.stderr
    for kind, expected in (("ingested", ingested), ("preprocessed", trainable)):
        made, known = (Path(folder) for folder in (where[kind], expected))
        open_artifact(str(made)).verify()
        names = {str(path.relative_to(known)) for path in known.rglob("*.avro")} | {
            str(path.relative_to(known)) for path in known.rglob("*.jsonl")
        }
        assert names
        for name in names:
            assert (made / name).read_bytes() == (known / name).read_bytes(), name
