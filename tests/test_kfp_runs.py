"""The compiled pipeline, executed on this machine by the KFP SDK, beside a run of the Airflow DAG on the same data.

Each container is a process here, in a working folder of its own, with an environment made as its image makes it.
Where a Docker engine runs and holds the images (docker/build-components.sh), the containers run too.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from docker.errors import DockerException
from kfp import components, local
from kfp.local import status, subprocess_task_handler
from kfp.local.config import LocalExecutionConfig

import docker
from captionflow.core.artifact import open_artifact
from captionflow.core.manifest import Manifest
from captionflow.core.runs import PIPELINE
from kfp_pipeline.component_files import COMPONENTS, Component
from kfp_pipeline.parameters import ROOT, CompileParameters
from kfp_pipeline.pipeline import compile_pipeline
from tests.test_dag import KINDS, Airflow, conf_for, content

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[1]
TOO_MUCH = {
    "ingestion": {"airflow", "tfx", "kfp", "apache_beam", "torch", "PIL"},
    "validation": {"airflow", "tfx", "kfp", "apache_beam", "torch", "PIL", "matplotlib"},
    "preprocessing": {"airflow", "tfx", "kfp", "tensorflow", "torch"},
    "train": {"airflow", "tfx", "kfp", "tensorflow", "apache_beam"},
    "evaluation": {"airflow", "tfx", "kfp", "tensorflow", "apache_beam"},
}
"""Packages that a step's image does not need."""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """By name of the image: the environment that the Dockerfile would make for it."""
    folder = tmp_path_factory.mktemp("images")
    sources = folder / "sources"
    sources.mkdir()
    for name in ("pyproject.toml", "requirements.lock", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, sources)
    for name in ("captionflow", "beam_jobs", "tfx_pipeline", "kfp_pipeline"):
        shutil.copytree(REPOSITORY / name, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
    env = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SETUPTOOLS_SCM_PRETEND_VERSION_FOR_CAPTIONFLOW": "0.1.0+gtest",
    }

    def command(*words: str | Path) -> None:
        subprocess.run(words, cwd=sources, env=env, check=True, stdout=subprocess.DEVNULL)

    command(
        "uv", "build", "--quiet", "--wheel", "--no-build-isolation", "--python", sys.executable, "--out-dir", folder
    )
    (wheel,) = folder.glob("*.whl")

    def environment(step: str) -> Path:
        made = folder / step
        if not made.exists():
            command(REPOSITORY / "docker" / "install-extras.sh", made, step)
            command("uv", "pip", "install", "--quiet", "--no-deps", "--python", made, wheel)
        return made

    return environment


class ProcessHandler:
    """Runs a container as a process, in place of the SDK's handler; `images` makes the environments."""

    images: Callable[[str], Path]

    def __init__(self, image: str, full_command: list[str], pipeline_root: str, runner: local.SubprocessRunner) -> None:
        self.environment = ProcessHandler.images(image.partition(":")[0].removeprefix("captionflow-"))
        self.command = full_command
        self.folder = self.environment.with_suffix(".cwd")

    def run(self) -> status.Status:
        self.folder.mkdir(exist_ok=True)
        env = {"PATH": f"{self.environment}/bin:/usr/bin:/bin", "HOME": str(self.folder)}
        done = subprocess.run(self.command, cwd=self.folder, env=env, check=False)
        return status.Status.SUCCESS if done.returncode == 0 else status.Status.FAILURE


@pytest.fixture
def as_processes(images: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProcessHandler, "images", staticmethod(images), raising=False)
    monkeypatch.setattr(subprocess_task_handler, "SubprocessTaskHandler", ProcessHandler)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, small_sample: Path) -> Path:
    """A folder that a container may be given, with the sample in it; the user in a container is another."""
    folder = tmp_path_factory.mktemp("shared")
    shutil.copytree(small_sample, folder / "sample")
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o777)
    return folder


def execute(shared: Path, runner: local.SubprocessRunner | local.DockerRunner, **changes: Any) -> dict[str, Path]:
    """Compile the pipeline, run what was compiled, and return its artifacts by kind."""
    compiled = shared / "pipeline.yaml"
    compile_pipeline(CompileParameters(), str(compiled))
    before = set(shared.glob(f"{PIPELINE}/*"))
    pipeline = components.load_component_from_file(str(compiled))
    local.init(runner, pipeline_root=str(shared))
    # What the SDK makes is made for the user in the container too.
    mask = os.umask(0)
    try:
        pipeline(**{ROOT: str(shared), **conf_for(shared / "sample"), **changes})
    finally:
        os.umask(mask)
        LocalExecutionConfig.instance = None
    (made,) = set(shared.glob(f"{PIPELINE}/*")) - before
    return {kind: made / kind for kind in KINDS}


@pytest.fixture(scope="module")
def of_airflow(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> dict[str, Path]:
    """The artifacts of a run of the DAG, by kind."""
    airflow = Airflow(tmp_path_factory.mktemp("airflow"))
    done = airflow.run_dag(conf_for(shared / "sample"))
    assert done.returncode == 0, done.stdout[-3000:]
    return {kind: airflow.folder(kind) for kind in KINDS}


def manifest(artifact: Path) -> Manifest:
    opened = open_artifact(str(artifact))
    opened.verify()
    return opened.manifest


def assert_same(ours: dict[str, Path], theirs: dict[str, Path]) -> None:
    for kind in KINDS:
        one, other = manifest(ours[kind]), manifest(theirs[kind])
        assert (one.kind, one.parameters, one.counts, one.metrics) == (
            other.kind, other.parameters, other.counts, other.metrics,
        )  # fmt: skip
        # The report holds URIs and times, and so does a manifest.
        differing = {"manifest.json", "report.html"}
        assert {name: data for name, data in content(ours[kind]).items() if name not in differing} == {
            name: data for name, data in content(theirs[kind]).items() if name not in differing
        }
    assert manifest(ours["evaluation"]).metrics


def test_the_compiled_pipeline_leaves_what_the_dag_leaves(
    as_processes: None, of_airflow: dict[str, Path], shared: Path
) -> None:
    ours = execute(shared, local.SubprocessRunner(use_venv=False))
    assert_same(ours, of_airflow)
    assert manifest(ours["model"]).code_version == "0.1.0+gtest"


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda component: component.name)
def test_an_image_holds_only_what_its_step_needs(component: Component, images: Callable[[str], Path]) -> None:
    (packages,) = images(component.name).glob("lib/python*/site-packages")
    assert (packages / "captionflow").is_dir()
    assert not TOO_MUCH[component.name] & {path.name for path in packages.iterdir()}


def test_a_step_that_fails_ends_the_run(as_processes: None, shared: Path) -> None:
    with pytest.raises(RuntimeError, match="preprocessing"):
        execute(shared, local.SubprocessRunner(use_venv=False), component_artifact_root=f"{shared}/bad", split="1,1,1")
    assert {path.name for path in shared.glob("bad/*/*/*")} == {"ingested", "validation"}


def holds_the_images() -> bool:
    try:
        client = docker.from_env()
        tags = {tag for image in client.images.list() for tag in image.tags}
    except DockerException:
        return False
    return all(any(tag.startswith(f"captionflow-{component.name}:") for tag in tags) for component in COMPONENTS)


@pytest.mark.skipif(not holds_the_images(), reason="no Docker engine with the components' images")
def test_and_so_do_its_containers(of_airflow: dict[str, Path], shared: Path) -> None:
    assert_same(execute(shared, local.DockerRunner()), of_airflow)
