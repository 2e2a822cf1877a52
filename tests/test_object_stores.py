"""s3:// and gs:// against local servers that speak the stores' own protocols."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from gcp_storage_emulator.server import create_server

from tests.s3 import serve_s3
from tests.test_dag import Airflow, conf_for

# Each store is used from a process of its own, as a user would, with the environment its client reads.
CODE = """
import sys, fsspec
from beam_jobs.preprocess import run
from captionflow.core.artifact import open_artifact
from captionflow.sources.ingest import ingest
from captionflow.preprocess.parameters import PreprocessParameters
from captionflow.sources.parameters import IngestParameters
bucket, sample = sys.argv[1:]
fs, path = fsspec.core.url_to_fs(bucket)
fs.mkdir(path)
fs.put(sample, f"{path}/sample", recursive=True)
source = IngestParameters(sources=(f"{bucket}/sample/captions.json",), image_root=(f"{bucket}/sample/images",))
images = PreprocessParameters(allow_url_prefix=(f"{bucket}/sample",), image_size=32, licenses=("*",))
for attempt in range(2):
    ingested = ingest(f"{bucket}/run/ingested", source)
preprocessed = run(ingested, f"{bucket}/run/preprocessed", images, [])
for uri in ingested, preprocessed:
    open_artifact(uri).verify()
print(open_artifact(preprocessed).manifest.counts["images"]["out"], *sorted(fs.find(f"{path}/run")))
"""


@pytest.fixture
def s3() -> Iterator[dict[str, str]]:
    with serve_s3() as environment:
        yield environment


@pytest.fixture
def gs() -> Iterator[dict[str, str]]:
    server = create_server("127.0.0.1", 0, in_memory=True)
    server.start()
    host, port = server._api._httpd.server_address
    yield {"STORAGE_EMULATOR_HOST": f"http://{host}:{port}"}
    server.stop()


@pytest.mark.slow
def test_sources_images_and_artifacts_may_live_in_a_bucket(s3: dict[str, str], small_sample: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE, "s3://bucket", str(small_sample)],
        env=os.environ | s3, capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    shards = [f"{split}/00000-of-00001" for split in ("test", "train", "val")]
    assert done.stdout.split() == [
        "60",
        *(f"bucket/run/ingested/{name}" for name in ("captions.jsonl", "manifest.json", "rejects.jsonl")),
        "bucket/run/preprocessed/croissant.json",
        "bucket/run/preprocessed/dataset.html",
        "bucket/run/preprocessed/manifest.json",
        *(f"bucket/run/preprocessed/rejects/{shard}.jsonl" for shard in shards),
        *(f"bucket/run/preprocessed/{shard}.avro" for shard in shards),
    ]


@pytest.mark.slow
def test_the_whole_dag_runs_with_its_artifacts_in_a_bucket(
    gs: dict[str, str], small_sample: Path, tmp_path: Path
) -> None:
    bucket = "gs://bucket"
    airflow = Airflow(tmp_path).set(trigger_prefixes=bucket)
    airflow.env |= gs
    code = "import fsspec, sys; fs = fsspec.filesystem('gs'); fs.mkdir('bucket'); fs.put(*sys.argv[1:], recursive=True)"
    subprocess.run([sys.executable, "-c", code, str(small_sample), "bucket/sample"], env=airflow.env, check=True)
    conf = {
        **conf_for(small_sample),
        "artifact_root": f"{bucket}/artifacts",
        "sources": [f"{bucket}/sample/captions.json"],
        "image_root": [f"{bucket}/sample/images"],
        "allow_url_prefix": [bucket],
    }
    done = airflow.run_dag(conf)
    assert done.returncode == 0, done.stderr[-2000:]
    evaluation = airflow.xcoms()["evaluate"]
    assert evaluation.startswith(f"{bucket}/artifacts/image_captioning/")
    lineage = subprocess.run(
        [sys.executable, "-m", "captionflow", "lineage", "--verify", evaluation],
        env=airflow.env, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert f"{bucket}/sample/captions.json" in lineage.stdout
    assert not airflow.artifacts.exists()
