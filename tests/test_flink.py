"""The preprocess job on a real Flink cluster: what it leaves, and what it leaves when a task manager dies."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from beam_jobs.preprocess import run
from captionflow.core.artifact import open_artifact
from captionflow.core.steps import PREPROCESSED
from captionflow.preprocess.parameters import PreprocessParameters
from captionflow.preprocess.shards import PROGRESS
from captionflow.sample.parameters import SampleParameters
from captionflow.sample.sample import sample
from captionflow.sources.ingest import ingest
from captionflow.sources.parameters import IngestParameters
from tests import flink_cluster as flink
from tests.processes import wait_until
from tests.servers import Site, send, serve

pytestmark = [
    pytest.mark.slow,
    pytest.mark.flink,
    pytest.mark.skipif(flink.missing() is not None, reason=str(flink.missing())),
]


class Gate:
    """Lets through a number of requests, and holds the others back until it is opened."""

    def __init__(self, through: int) -> None:
        self.through = threading.Semaphore(through)
        self.opened = threading.Event()

    def pass_(self) -> None:
        if not self.through.acquire(blocking=False):
            self.opened.wait(120)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Path]]:
    """The built-in sample behind a web server."""
    folder = Path(sample(str(tmp_path_factory.mktemp("sample") / "sample"), SampleParameters(images=360)))
    with serve() as site:
        for file in (folder / "images").iterdir():
            site.pages[f"/{file.name}"] = file.read_bytes()
        yield site, folder


@pytest.fixture(scope="module")
def parameters(pictures: tuple[Site, Path]) -> PreprocessParameters:
    site, _ = pictures
    return PreprocessParameters(allow_url_prefix=(site.url,), shard_megabytes=1, licenses=("*",))


@pytest.fixture(scope="module")
def source(pictures: tuple[Site, Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    site, folder = pictures
    asked = IngestParameters(sources=(str(folder / "captions.json"),), image_root=(site.url,))
    return ingest(str(tmp_path_factory.mktemp("source") / "ingested"), asked)


@pytest.fixture(scope="module")
def expected(source: str, parameters: PreprocessParameters, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of what DirectRunner leaves."""
    output = run(source, str(tmp_path_factory.mktemp("direct") / "preprocessed"), parameters, [])
    artifact = open_artifact(output, PREPROCESSED)
    assert len(artifact.files("train/")) > 2
    return artifact.manifest.sha256


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[flink.FlinkCluster]:
    """Two task managers with two slots each."""
    with flink.flink_cluster(tmp_path_factory.mktemp("flink"), task_managers=2) as running:
        yield running


def digest(output: Path) -> str:
    artifact = open_artifact(str(output), PREPROCESSED)
    artifact.verify()
    return artifact.manifest.sha256


def command(source: str, output: Path, parameters: PreprocessParameters, *beam: str) -> list[str]:
    return [
        sys.executable, "-m", "captionflow", "preprocess", "--ingested", source, "--output", str(output),
        "--allow-url-prefix", *parameters.allow_url_prefix, "--licenses", "*", "--shard-megabytes", "1",
        "--runner=FlinkRunner", "--", *beam,
    ]  # fmt: skip


def test_an_embedded_flink_leaves_the_same_bytes(
    source: str, parameters: PreprocessParameters, expected: str, tmp_path: Path
) -> None:
    beam = ["--runner=FlinkRunner", f"--flink_job_server_jar={flink.JAR}", "--flink_master=[local]"]
    subprocess.run(command(source, tmp_path / "out", parameters, *beam), check=True)
    assert digest(tmp_path / "out") == expected


def test_a_cluster_leaves_the_same_bytes(
    source: str, parameters: PreprocessParameters, expected: str, cluster: flink.FlinkCluster, tmp_path: Path
) -> None:
    subprocess.run(command(source, tmp_path / "out", parameters, *cluster.beam_arguments(2)), check=True)
    assert digest(tmp_path / "out") == expected
    assert cluster.overview()["jobs-finished"] == 1


def test_a_killed_task_manager_costs_time_and_nothing_else(
    pictures: tuple[Site, Path],
    source: str,
    parameters: PreprocessParameters,
    expected: str,
    cluster: flink.FlinkCluster,
    tmp_path: Path,
) -> None:
    site, _ = pictures
    gate, pages = Gate(through=200), dict(site.pages)

    def gated(body: bytes) -> object:
        def reply(handler: BaseHTTPRequestHandler) -> None:
            gate.pass_()
            send(handler, body)

        return reply

    site.pages = {path: gated(body) for path, body in pages.items()}
    job = subprocess.Popen(command(source, tmp_path / "out", parameters, *cluster.beam_arguments(2)))
    try:
        wait_until(lambda: any((tmp_path / "out" / PROGRESS).rglob("*.json")), seconds=180)
        assert cluster.busy_task_managers() == 2
        cluster.task_managers[0].send_signal(signal.SIGKILL)
        gate.opened.set()
        assert job.wait(300) == 0
    finally:
        gate.opened.set()
        site.pages = pages
        job.kill()
    assert digest(tmp_path / "out") == expected
    assert cluster.overview()["taskmanagers"] == 1
    assert open_artifact(str(tmp_path / "out")).manifest.run["images_resumed"] > 0
