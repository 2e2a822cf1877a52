"""Which version a checkout, a clone without tags, a tree without git and what was built from them tell."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILT = ("pyproject.toml", "README.md", "LICENSE", "captionflow", "beam_jobs", "kfp_pipeline", "tfx_pipeline")


def run(folder: Path, *command: str | Path, **environment: str) -> str:
    return subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, check=True
    ).stdout.strip()


def git(folder: Path, *arguments: str) -> str:
    return run(folder, "git", "-c", "user.name=A", "-c", "user.email=a@example.org", *arguments)


RELEASE = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools_scm"]["fallback_version"]


def told(folder: Path) -> str:
    """Return what the code in a folder tells, with nothing installed."""
    return run(folder, sys.executable, "-S", "-m", "captionflow.core.code_version")


def built(folder: Path, **environment: str) -> str:
    """Return what a wheel that was built in a folder tells, far from it."""
    wheels = folder / "wheels"
    build = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", f"--wheel-dir={wheels}", str(folder)]
    run(folder, sys.executable, "-m", "pip", *build, **environment)
    (wheel,) = wheels.iterdir()
    return run(wheels, sys.executable, "-m", "captionflow", "--version", PYTHONPATH=str(wheel))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The code without its git."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in BUILT:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tree / name)
    return tree


@pytest.fixture
def checkout(tree: Path) -> Path:
    """The code in a git of its own, with two commits and no tag."""
    (tree / ".gitignore").write_text("__pycache__/\nbuild/\nwheels/\n*.egg-info/\n")
    git(tree, "init", "--quiet")
    git(tree, "add", ".")
    git(tree, "commit", "--quiet", "--message", "one")
    git(tree, "commit", "--quiet", "--message", "two", "--allow-empty")
    return tree


def test_a_checkout_tells_its_present_commit_changes_and_release(checkout: Path) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    assert told(checkout) == f"{RELEASE}+g{commit[:12]}"
    readme = checkout / "README.md"
    before, versions = readme.read_text(), set()
    for change in ("one", "two"):
        readme.write_text(before + change)
        versions.add(told(checkout))
    assert len(versions) == 2
    assert all(version.startswith(f"{RELEASE}+g{commit[:12]}.d") for version in versions)
    readme.write_text(before)
    module = checkout / "captionflow" / "new.py"
    for change in ("one", "two"):
        module.write_text(change)
        versions.add(told(checkout))
    assert len(versions) == 4
    module.unlink()
    for tag in ("v0.3.0-rc1", "release-9", "coco2017-results"):
        git(checkout, "tag", tag)
    assert told(checkout) == f"{RELEASE}+g{commit[:12]}"
    git(checkout, "tag", "v0.2.0")
    assert told(checkout) == f"0.2.0+g{commit[:12]}"


@pytest.mark.slow
def test_a_wheel_tells_release_and_commit_also_of_a_shallow_clone_without_tags(checkout: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", "--depth=1", "--no-tags", f"file://{checkout}", str(clone))
    release, _, commit = built(clone).partition("+g")
    assert release == RELEASE
    assert git(checkout, "rev-parse", "HEAD").startswith(commit)
    assert len(commit) >= 7


@pytest.mark.slow
def test_a_tree_without_git_is_built_as_the_release_or_as_it_is_told(tree: Path, tmp_path: Path) -> None:
    shutil.copytree(tree, tmp_path / "context")
    assert built(tree) == RELEASE
    version = "0.1.0+g0123456789ab.d01234567"
    assert built(tmp_path / "context", SETUPTOOLS_SCM_PRETEND_VERSION_FOR_CAPTIONFLOW=version) == version
