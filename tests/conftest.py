"""Shared fixtures: the built-in sample at a small size, its artifacts, a web server, COCO's photographs."""

import json
import os
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

# Before anything imports Airflow: it would make itself a home in the user's.
os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="captionflow-airflow-")
os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = str(Path(__file__).parents[1] / "dags")
# A place for artifacts that leaves nothing behind.
os.environ["CAPTIONFLOW_URI_SCHEMES"] = "memory"
# Where the tests' forms may lead: to the folders that pytest makes.
os.environ["CAPTIONFLOW_TRIGGER_PREFIXES"] = tempfile.gettempdir()
# What tests do is tracked only where a test says so.
os.environ.pop("MLFLOW_TRACKING_URI", None)

import pytest

from beam_jobs.preprocess import run
from captionflow.captioner.parameters import TrainParameters
from captionflow.captioner.train import train
from captionflow.core.shards import SHARD_FORMATS
from captionflow.preprocess.export import export
from captionflow.preprocess.parameters import FormatParameters, PreprocessParameters
from captionflow.sample.parameters import SampleParameters
from captionflow.sample.sample import sample
from captionflow.sources.ingest import ingest
from captionflow.sources.parameters import IngestParameters
from tests.pipeline_services import VertexPipelines, service_account
from tests.processes import captionflow
from tests.servers import Site, serve

# These run in TFX's environment.
collect_ignore = ["tfx"]

# Why a test may be skipped in CI; it fails for any other reason.
MAY_BE_MISSING = (
    "coco-mini",  # a fresh clone has no such folder beside it, nor the next
    "flickr8k",
    "make flink",  # its cluster takes Java, Maven and minutes to build
    "no Docker engine with the components' images",  # docker/build-components.sh builds them
)

COCO_MINI = Path(__file__).parents[2] / "shared" / "data" / "coco-mini"


def pytest_configure(config: pytest.Config) -> None:
    """Make errors of Airflow's deprecations; in pyproject.toml this would import Airflow before the lines above."""
    config.addinivalue_line("filterwarnings", "error::airflow.exceptions.RemovedInAirflow4Warning")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI, make a failure of a skip that is not listed."""
    report = yield
    if os.environ.get("CI") and report.skipped and not any(what in str(report.longrepr) for what in MAY_BE_MISSING):
        report.outcome = "failed"
        report.longrepr = f"skipped, but CI needs it: {report.longrepr}"
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast tests first."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


@pytest.fixture
def site() -> Iterator[Site]:
    """A web server to fill."""
    with serve() as running:
        yield running


@pytest.fixture(scope="session")
def small_sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in sample with 60 pictures."""
    return Path(sample(str(tmp_path_factory.mktemp("sample") / "sample"), SampleParameters(images=60)))


@pytest.fixture(scope="session")
def ingested(small_sample: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The ingested artifact of the small sample."""
    parameters = IngestParameters(
        sources=(str(small_sample / "captions.json"),), image_root=(str(small_sample / "images"),)
    )
    return ingest(str(tmp_path_factory.mktemp("ingested") / "ingested"), parameters)


SMALL = {"width": 32, "encoder_depth": 0, "decoder_depth": 1, "batch_size": 16}
"""Parameters of a captioner that trains in a second."""


@pytest.fixture(scope="session")
def trainable(ingested: str, small_sample: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The small sample, preprocessed at 64 pixels, with pictures in every split."""
    parameters = PreprocessParameters(
        allow_url_prefix=(str(small_sample),), image_size=64, licenses=("*",), split="0.8,0.1,0.1"
    )
    return run(ingested, str(tmp_path_factory.mktemp("trainable") / "preprocessed"), parameters, [])


OTHER_FORMATS = tuple(name for name in SHARD_FORMATS if name != FormatParameters().output_format)
"""The formats of shards that must be asked for."""


@pytest.fixture(scope="session")
def trainable_as(trainable: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Each of the other formats → URI of the same artifact in it."""
    folder = tmp_path_factory.mktemp("trainable_as")
    return {name: export(trainable, f"{folder}/{name}", FormatParameters(output_format=name)) for name in OTHER_FORMATS}


@pytest.fixture(scope="session")
def model(trainable: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A captioner trained a little."""
    output = str(tmp_path_factory.mktemp("model") / "model")
    return train(trainable, output, TrainParameters(**SMALL, epochs=8))


def compile_tfx(file: Path) -> Path:
    """Compile the TFX pipeline in a process of its own."""
    done = captionflow(
        "tfx", "compile", "--csv", "gs://bucket/captions.csv", "--pipeline-root", "gs://bucket/root",
        "--image", "registry.example/captionflow:1", "--epochs", "3", "--output", str(file),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(file)
    return file


@pytest.fixture(scope="session")
def compiled_tfx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The TFX pipeline, compiled for Vertex AI."""
    return compile_tfx(tmp_path_factory.mktemp("compiled") / "one.json")


@pytest.fixture
def google(tmp_path: Path) -> Iterator[tuple[VertexPipelines, dict[str, str]]]:
    """Vertex AI on this machine, and the environment in which Google's clients find it."""
    server = VertexPipelines("runner@a-project", "PIPELINE_STATE_RUNNING", "PIPELINE_STATE_SUCCEEDED")
    with serve(server):
        account = service_account("runner@a-project", token_uri=server.url)
        (tmp_path / "account.json").write_text(json.dumps(account))
        yield (
            server,
            {
                "GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "account.json"),
                "STORAGE_EMULATOR_HOST": server.url,
            },
        )


@pytest.fixture(scope="session")
def coco_mini() -> Path:
    """159 real COCO photographs with captions, where they are to be had."""
    if not COCO_MINI.is_dir():
        pytest.skip("coco-mini is not on this machine")
    return COCO_MINI


@pytest.fixture(scope="session")
def flickr8k() -> Path:
    """7,000 real photographs of Flickr8k with captions, where they are to be had."""
    folder = COCO_MINI.parent / "flickr8k"
    if not folder.is_dir():
        pytest.skip("flickr8k is not on this machine")
    return folder
