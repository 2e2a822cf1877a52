"""The package for Cloud Composer, in a Python that holds what Composer's does: Airflow, providers, no TFX, no torch."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from captionflow.artifacts import open_artifact
from kfp_pipeline.parameters import CompileParameters
from kfp_pipeline.pipeline import compile_pipeline
from tests.test_dag import QUICK, RUN_AT

ROOT = Path(__file__).parents[1]
CACHE = ROOT / ".bench" / "composer"
UV = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
LOCK = ROOT / "requirements.lock"


def package(output: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "deploy" / "composer" / "package.py", output, *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package")
    # A compiled pipeline with parameters, which takes no minute to compile.
    compile_pipeline(CompileParameters(), str(folder / "spec.json"))
    done = package(folder / "composer", "--spec", str(folder / "spec.json"))
    assert done.returncode == 0, done.stderr
    return folder / "composer"


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_package_is_what_composer_can_run_and_no_more(packaged: Path) -> None:
    dags = {path.name for path in (packaged / "dags").iterdir()}
    assert {
        "image_captioning.py",
        "image_captioning_vertex.py",
        "image_captioning_vertex.json",
        "trigger_form.py",
    } <= dags
    assert not [name for name in files(packaged) if "tfx" in name or "__pycache__" in name]
    assert (packaged / "plugins" / "captionflow_plugin.py").is_file()
    assert (packaged / "dags" / "captionflow" / "report.html.j2").is_file()


def test_the_requirements_are_the_locks_and_hold_nothing_heavy(packaged: Path) -> None:
    lines = (packaged / "requirements.txt").read_text().split()
    names = {line.partition("==")[0] for line in lines}
    assert {"ijson", "typer"} <= names
    assert not names & {"torch", "tfx", "tensorflow", "apache-airflow", "apache-beam", "fsspec", "numpy", "s3fs"}
    assert set(lines) <= {line.removesuffix(" \\") for line in LOCK.read_text().splitlines()}


def test_the_same_checkout_gives_the_same_package(packaged: Path) -> None:
    before = {name: content for name, content in files(packaged).items() if "manifest" not in name}
    assert package(packaged, "--spec", str(packaged.parent / "spec.json")).returncode == 0
    assert {name: content for name, content in files(packaged).items() if "manifest" not in name} == before


@pytest.mark.parametrize("arguments", [("--spec", "/nowhere.json"), ()])
def test_what_cannot_be_packaged_is_one_line(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    (tmp_path / "precious").write_text("not ours")
    done = package(tmp_path, *arguments)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert (tmp_path / "precious").read_text() == "not ours"


class Composer:
    """Airflow in a Python of its own, which sees the package and nothing of the checkout."""

    def __init__(self, python: Path, packaged: Path, home: Path) -> None:
        self.python, self.home, self.artifacts = python, home, home / "artifacts"
        self.env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {
            "PATH": f"{python.parent}:{os.environ['PATH']}",
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_FOLDER": str(packaged / "dags"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(packaged / "plugins"),
            "CAPTIONFLOW_ARTIFACT_ROOT": str(self.artifacts),
        }

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.python, *arguments], env=self.env | environment, cwd=self.home, capture_output=True, text=True,
            check=False,
        )  # fmt: skip

    def tell(self, code: str, **environment: str) -> Any:
        """Run Python that prints JSON last."""
        done = self.run("-W", "ignore", "-c", code, **environment)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])


def build(requirements: list[str]) -> Path:
    """Return a Python that has the requirements at the lock's versions; a second time it is there already."""
    wanted, python = "\n".join(requirements), CACHE / "venv" / "bin" / "python"
    digest = hashlib.sha256(wanted.encode() + LOCK.read_bytes()).hexdigest()
    stamp = CACHE / "built"
    if stamp.exists() and stamp.read_text() == digest:
        return python
    CACHE.mkdir(parents=True, exist_ok=True)
    (CACHE / "wanted.txt").write_text(wanted)
    resolved = str(CACHE / "requirements.txt")
    for command in (
        ["pip", "compile", str(CACHE / "wanted.txt"), "--python-version", "3.11", "--constraint", str(LOCK),
         "--output-file", resolved],
        ["venv", "--clear", "--python", "3.11", str(CACHE / "venv")],
        ["pip", "sync", "--python", str(python), resolved],
    ):  # fmt: skip
        done = subprocess.run([UV, "--quiet", *command], cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(
                f"Composer's environment cannot be built: uv {' '.join(command[:2])}: {done.stderr.strip()[-300:]}"
            )
    stamp.write_text(digest)
    return python


@pytest.fixture(scope="module")
def composer(packaged: Path, tmp_path_factory: pytest.TempPathFactory) -> Composer:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    python = build([*extras["airflow"], *(packaged / "requirements.txt").read_text().split()])
    made = Composer(python, packaged, tmp_path_factory.mktemp("composer"))
    done = made.run("-m", "airflow", "db", "migrate")
    assert done.returncode == 0, done.stderr[-3000:]
    return made


@pytest.mark.composer
@pytest.mark.slow
def test_every_dag_imports_there_without_tfx_and_torch_and_in_time(composer: Composer) -> None:
    absent = ("tfx", "tensorflow", "torch", "kfp", "pycocoevalcap")
    assert composer.tell(
        f"import importlib.util as u, json; print(json.dumps([u.find_spec(n) for n in {absent}]))"
    ) == [None for _ in absent]
    bag = composer.tell("""
import json
from airflow.models.dagbag import DagBag
bag = DagBag()
seconds = {stat.file: stat.duration.total_seconds() for stat in bag.dagbag_stats}
fields = list(bag.dags["image_captioning_vertex"].params)
print(json.dumps({"fields": fields, "errors": bag.import_errors, "dags": sorted(bag.dags), "seconds": seconds}))
""")
    print("seconds to import:", bag["seconds"])
    # Airflow counts among these what took longer than it allows, 30 seconds.
    assert bag["errors"] == {}
    assert bag["dags"] == ["image_captioning", "image_captioning_vertex"]
    # The compiled pipeline lies where the DAG looks for it.
    assert "epochs" in bag["fields"]


@pytest.mark.composer
@pytest.mark.slow
def test_the_web_server_has_the_plugin_without_the_dags(composer: Composer, tmp_path: Path) -> None:
    told = composer.tell(
        "import json; from airflow import plugins_manager as m; m.ensure_plugins_loaded();"
        "print(json.dumps([m.import_errors, [p.name for p in m.plugins]]))",
        AIRFLOW__CORE__DAGS_FOLDER=str(tmp_path),
    )
    assert told[0] == {}
    assert "captionflow" in told[1]


@pytest.mark.composer
@pytest.mark.slow
def test_ingest_and_preprocess_run_there(composer: Composer, packaged: Path, small_sample: Path) -> None:
    images = str(small_sample / "images")
    conf = {
        "sources": [str(small_sample / "captions.json")], "image_root": [images], "allow_url_prefix": [images], **QUICK,
    }  # fmt: skip
    others = composer.tell(
        "import json; from airflow.models.dagbag import DagBag;"
        "print(json.dumps(list({*DagBag().dags['image_captioning'].task_ids} - {'ingest', 'preprocess'})))"
    )
    done = composer.run(
        "-m", "airflow", "dags", "test", "image_captioning", RUN_AT, "--conf", json.dumps(conf),
        # Training needs what Composer does not have.
        "--mark-success-pattern", f"^({'|'.join(others)})$",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    artifact = open_artifact(str(composer.artifacts / "image_captioning" / f"manual__{RUN_AT}" / "preprocessed"))
    artifact.verify()
    assert artifact.manifest.counts["images"]["out"] == 60
    metadata = (packaged / "dags" / "captionflow.dist-info" / "METADATA").read_text()
    assert f"Version: {artifact.manifest.code_version}\n" in metadata
    assert "+g" in artifact.manifest.code_version
