"""Build what Cloud Composer receives: our wheel, the DAG files, the sample, and what its Python lacks.

    python deploy/composer/package.py build/composer
    python deploy/composer/package.py build/composer --spec build/tfx.json

Nothing is stated here that pyproject.toml, requirements.lock or image.lock states: names, extras and versions are read
there.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from captionflow.core.code_version import code_version
from captionflow.sample.parameters import SampleParameters
from captionflow.sample.sample import sample

ROOT = Path(__file__).resolve().parents[2]
IMAGE = Path(__file__).with_name("image.lock")
"""What Composer's Python holds already."""
LEFT_OUT = {"image_captioning_tfx.py"}
"""The TFX pipeline's DAG: it starts another Python, with TFX in it, which Composer has not."""
EXTRAS = ("gcs", "ingestion", "preprocessing", "validation")
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
    build_wheel(output)
    sample(str(output / "sample"), SampleParameters())
    (output / REQUIREMENTS).write_text("".join(f"{line}\n" for line in requirements()))


def build_wheel(output: Path) -> None:
    """Write our wheel, made of what git tracks: what an earlier build left in the checkout does not get into it."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    with TemporaryDirectory() as clean:
        for name in filter(os.path.isfile, (ROOT / name for name in listed.split("\0")[:-1])):
            copy = Path(clean) / name.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(name, copy)
        command = ["build", "--quiet", "--wheel", "--no-build-isolation", "--no-create-gitignore"]
        subprocess.run(
            [sys.executable, "-m", "uv", *command, "--python", sys.executable, "--out-dir", output.resolve(), clean],
            # Without a clock in it, the same code gives the same bytes.
            env=os.environ
            | {"SETUPTOOLS_SCM_PRETEND_VERSION_FOR_CAPTIONFLOW": code_version(), "SOURCE_DATE_EPOCH": "0"},
            check=True,
        )


def requirements() -> list[str]:
    """Return `name==version` of our wheel, and of what the steps need and Composer's image does not hold."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(line for name in EXTRAS for line in project["optional-dependencies"][name])]
    names = {canonicalize_name(Requirement(line).name) for line in wanted}
    locked = _locked(ROOT / "requirements.lock")
    lacking = [f"{name}=={locked[name]}" for name in sorted(names - _locked(IMAGE).keys())]
    return [f"{project['name']}=={code_version()}", *lacking]


def _locked(file: Path) -> dict[str, str]:
    """Return name → version of what a lock file pins."""
    return dict(re.findall(r"^([\w.-]+)==([^ \\]+)", file.read_text(), re.MULTILINE))


def main() -> None:
    """Take the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder to write; an earlier package there is replaced")
    parser.add_argument("--spec", type=Path, help="the TFX pipeline, as `captionflow tfx compile` writes it")
    arguments = parser.parse_args()
    if arguments.spec and not arguments.spec.is_file():
        parser.exit(2, f"package.py: --spec: {arguments.spec}: no such file\n")
    if not (ROOT / ".git").exists():
        parser.exit(2, f"package.py: {ROOT}: is no git checkout, of which the wheel is made\n")
    if arguments.output.exists() and not (arguments.output / REQUIREMENTS).is_file():
        parser.exit(2, f"package.py: {arguments.output}: holds something else; remove it first\n")
    build(arguments.output, arguments.spec)
    print(arguments.output)


if __name__ == "__main__":
    main()
