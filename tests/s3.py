"""An S3 of this machine."""

from collections.abc import Iterator
from contextlib import contextmanager

import urllib3
from moto.server import ThreadedMotoServer

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


@contextmanager
def serve_s3() -> Iterator[dict[str, str]]:
    """Run an empty S3 while the block lasts; what comes is the environment in which clients find it."""
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        # All servers of a process share their buckets.
        assert urllib3.request("POST", f"http://{host}:{port}/moto-api/reset").status == 200
        yield {"AWS_ENDPOINT_URL": f"http://{host}:{port}", **KEYS}
    finally:
        server.stop()
