"""Build what Cloud Composer receives: DAGs with our packages, plugins, the sample, and what its Python lacks.

    python deploy/composer/package.py build/composer
    python deploy/composer/package.py build/composer --spec build/tfx.json

Nothing is stated here that pyproject.toml, requirements.lock or image.lock states: names, extras and versions are read
there.
"""

import argparse
import ast
import re
import shutil
import tomllib
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from captionflow.code_version import code_version
from captionflow.parameters import SampleParameters
from captionflow.sample import sample

ROOT = Path(__file__).resolve().parents[2]
IMAGE = Path(__file__).with_name("image.lock")
"""What Composer's Python holds already."""
LEFT_OUT = {"tfx_pipeline", "image_captioning_tfx.py", "tfx_component.py"}
"""The TFX pipeline and its DAG: it starts another Python, with TFX in it, which Composer has not."""
EXTRAS = ("gcs", "ingestion", "preprocessing")
"""What the steps need that run on Composer's workers; the others need PyTorch."""
REQUIREMENTS = "requirements.txt"
SPEC = "image_captioning_vertex.json"
"""Where dags/image_captioning_vertex.py finds its pipeline, beside itself."""


def build(output: Path, spec: Path | None) -> None:
    """Write the package anew; what an earlier build left there is removed."""
    shutil.rmtree(output, ignore_errors=True)
    packages = [name for name in _pyproject()["tool"]["setuptools"]["packages"] if name not in LEFT_OUT]
    dags = [path for path in sorted((ROOT / "dags").glob("*.py")) if path.name not in LEFT_OUT]
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
    """Return `name==version` of each package that the steps need and Composer's image does not hold."""
    project = _pyproject()["project"]
    wanted = [*project["dependencies"], *(line for name in EXTRAS for line in project["optional-dependencies"][name])]
    names = {canonicalize_name(Requirement(line).name) for line in wanted}
    locked = _locked(ROOT / "requirements.lock")
    return [f"{name}=={locked[name]}" for name in sorted(names - _locked(IMAGE).keys())]


def _locked(file: Path) -> dict[str, str]:
    """Return name → version of what a lock file pins."""
    return dict(re.findall(r"^([\w.-]+)==([^ \\]+)", file.read_text(), re.MULTILINE))


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
