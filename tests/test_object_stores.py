"""s3:// and gs:// against local servers that speak the stores' own protocols."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from gcp_storage_emulator.server import create_server
from moto.server import ThreadedMotoServer

# Each store is used from a process of its own, as a user would, with the environment its client reads.
CODE = """
import sys, fsspec
from captionflow.artifacts import open_artifact
from captionflow.ingest import ingest
from captionflow.parameters import IngestParameters
bucket, source = sys.argv[1:]
fs, path = fsspec.core.url_to_fs(bucket)
fs.mkdir(path)
fs.put_file(source, f"{path}/captions.json")
for attempt in range(2):
    uri = ingest(f"{bucket}/run/ingested", IngestParameters(sources=(f"{bucket}/captions.json",)))
artifact = open_artifact(uri, "ingested")
artifact.verify()
print(artifact.manifest.counts["captions"]["out"], *sorted(fs.find(path)))
"""


@pytest.fixture
def s3() -> Iterator[dict[str, str]]:
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    yield {"AWS_ENDPOINT_URL": f"http://{host}:{port}", **keys}
    server.stop()


@pytest.fixture
def gs() -> Iterator[dict[str, str]]:
    server = create_server("127.0.0.1", 0, in_memory=True)
    server.start()
    host, port = server._api._httpd.server_address
    yield {"STORAGE_EMULATOR_HOST": f"http://{host}:{port}"}
    server.stop()


@pytest.mark.parametrize("store", ["s3", "gs"])
def test_sources_and_artifacts_may_live_in_a_bucket(
    store: str, request: pytest.FixtureRequest, small_sample: Path
) -> None:
    environment = {**os.environ, **request.getfixturevalue(store)}
    source = small_sample / "captions.json"
    done = subprocess.run(
        [sys.executable, "-c", CODE, f"{store}://bucket", str(source)],
        env=environment, capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    captions = len(json.loads(source.read_text())["annotations"])
    names = ("captions.json", "run/ingested/captions.jsonl", "run/ingested/manifest.json", "run/ingested/rejects.jsonl")
    assert done.stdout.split() == [str(captions), *(f"bucket/{name}" for name in names)]
