"""Build what Cloud Composer receives: DAGs with our packages, plugins, the sample, and what its Python lacks.

    python deploy/composer/package.py build/composer
    python deploy/composer/package.py build/composer --spec build/tfx.json

Nothing is stated here that pyproject.toml or requirements.lock states: names, extras and versions are read there.
"""

import argparse
import ast
import re
import shutil
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from captionflow.code_version import code_version
from captionflow.parameters import SampleParameters
from captionflow.sample import sample

ROOT = Path(__file__).resolve().parents[2]
TFX = "tfx_pipeline"
"""The package that Composer's Python cannot hold, and with it each DAG that imports it."""
STEPS = ("ingestion", "preprocessing")
"""The extras of the steps that run on Composer's workers; the others need PyTorch or TFX."""
LEFT_OUT = {"s3fs"}
"""Asks for one version of fsspec, and Composer has another. Its artifacts are on gs:// anyway."""
REQUIREMENTS = "requirements.txt"
SPEC = "image_captioning_vertex.json"
"""Where dags/image_captioning_vertex.py finds its pipeline, beside itself."""


def build(output: Path, spec: Path | None) -> None:
    """Write the package anew; what an earlier build left there is removed."""
    shutil.rmtree(output, ignore_errors=True)
    packages = [name for name in _pyproject()["tool"]["setuptools"]["packages"] if name != TFX]
    dags = [path for path in sorted((ROOT / "dags").glob("*.py")) if TFX not in _imported(path)]
    plugins = sorted((ROOT / "plugins").glob("*.py"))
    _copy_files(dags, output / "dags")
    _copy_packages(packages, output / "dags")
    if spec:
        shutil.copyfile(spec, output / "dags" / SPEC)
    _write_version(output / "dags")
    _copy_files(plugins, output / "plugins")
    # Composer's web server has the plugins folder and not that of the DAGs.
    _copy_packages(sorted(set(packages) & set.union(*map(_imported, plugins))), output / "plugins")
    sample(str(output / "sample"), SampleParameters())
    (output / REQUIREMENTS).write_text("".join(f"{line}\n" for line in requirements()))


def requirements() -> list[str]:
    """Return `name==version` of each package that the steps need and Airflow, with its providers, does not bring."""
    project = _pyproject()["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(line for step in STEPS for line in extras[step])]
    names = {canonicalize_name(Requirement(line).name) for line in wanted}
    locked = dict(re.findall(r"^([\w.-]+)==([^ \\]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    return [f"{name}=={locked[name]}" for name in sorted(names - _brought_by(extras["airflow"]) - LEFT_OUT)]


def _brought_by(lines: Iterable[str]) -> set[str]:
    """Return the names of what the requirements `lines` ask for, and what that asks for, and so on."""
    waiting = [Requirement(line) for line in lines]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        requirement = waiting.pop()
        key = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if key not in seen:
            seen.add(key)
            waiting.extend(_needs(*key))
    return {name for name, _ in seen}


def _needs(name: str, extras: Iterable[str]) -> Iterator[Requirement]:
    try:
        lines = requires(name) or []
    except PackageNotFoundError:  # for another platform
        return
    for requirement in map(Requirement, lines):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield requirement


def _imported(path: Path) -> set[str]:
    """Return the top-level names that a Python file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes(), str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}


def _copy_files(files: Iterable[Path], folder: Path) -> None:
    folder.mkdir(parents=True)
    for file in files:
        shutil.copyfile(file, folder / file.name)


def _copy_packages(packages: Iterable[str], folder: Path) -> None:
    for name in packages:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    # Airflow looks for DAGs and plugins in every other file.
    ignored = (ROOT / folder.name / ".airflowignore").read_text()
    (folder / ".airflowignore").write_text(ignored + "".join(f"{name}/\n" for name in packages))


def _write_version(folder: Path) -> None:
    """Let `importlib.metadata` find the package and its version, commit included, where nothing was installed."""
    name, version = _pyproject()["project"]["name"], code_version()
    info = folder / f"{name}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def _pyproject() -> dict[str, dict]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def main() -> None:
    """Take the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder to write; an earlier package there is replaced")
    parser.add_argument("--spec", type=Path, help="the TFX pipeline, as `captionflow tfx compile` writes it")
    arguments = parser.parse_args()
    if arguments.spec and not arguments.spec.is_file():
        parser.exit(2, f"package.py: --spec: {arguments.spec}: no such file\n")
    if arguments.output.exists() and not (arguments.output / REQUIREMENTS).is_file():
        parser.exit(2, f"package.py: {arguments.output}: holds something else; remove it first\n")
    build(arguments.output, arguments.spec)
    print(arguments.output)


if __name__ == "__main__":
    main()
