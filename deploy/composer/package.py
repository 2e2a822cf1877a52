"""Build what Cloud Composer receives: DAGs with our packages, plugins, the sample, and what its Python lacks.

    python deploy/composer/package.py build/composer
    python deploy/composer/package.py build/composer --spec build/tfx.json

Nothing is stated here that pyproject.toml, requirements.lock or image.lock states: names, extras and versions are read
there.
"""

import argparse
import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from captionflow.core.code_version import code_version
from captionflow.sample.parameters import SampleParameters
from captionflow.sample.sample import sample

ROOT = Path(__file__).resolve().parents[2]
IMAGE = Path(__file__).with_name("image.lock")
"""What Composer's Python holds already."""
PACKAGES = ("beam_jobs", "captionflow", "kfp_pipeline", "tfx_pipeline")
LEFT_OUT = {"image_captioning_tfx.py"}
"""The TFX pipeline's DAG: it starts another Python, with TFX in it, which Composer has not."""
EXTRAS = ("gcs", "ingestion", "preprocessing")
"""What the steps need that run on Composer's workers; the others need PyTorch."""
REQUIREMENTS = "requirements.txt"
SPEC = "image_captioning_vertex.json"
"""Where dags/image_captioning_vertex.py finds its pipeline, beside itself."""


def build(output: Path, spec: Path | None) -> None:
    """Write the package anew; what an earlier build left there is removed."""
    shutil.rmtree(output, ignore_errors=True)
    dags = output / "dags"
    dags.mkdir(parents=True)
    for path in (ROOT / "dags").glob("*.py"):
        if path.name not in LEFT_OUT:
            shutil.copyfile(path, dags / path.name)
    if spec:
        shutil.copyfile(spec, dags / SPEC)
    # Composer's web server has the plugins folder and not that of the DAGs.
    for folder in (dags, output / "plugins"):
        _copy_packages(folder)
        _write_metadata(folder)
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


def _copy_packages(folder: Path) -> None:
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    # Airflow looks for DAGs and plugins in every other file.
    (folder / ".airflowignore").write_text("".join(f"{name}/\n" for name in PACKAGES))


def _write_metadata(folder: Path) -> None:
    """Let Airflow find the plugin, and CaptionFlow its version, commit included, where nothing was installed."""
    project = _pyproject()["project"]
    info = folder / f"{project['name']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {code_version()}\n")
    points = project["entry-points"]["airflow.plugins"].items()
    (info / "entry_points.txt").write_text("[airflow.plugins]\n" + "".join(f"{name} = {at}\n" for name, at in points))


def _pyproject() -> dict[str, Any]:
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
