"""gs:// on this machine, for clients that STORAGE_EMULATOR_HOST leads there."""

from collections.abc import Iterator
from contextlib import contextmanager

from gcp_storage_emulator import server


@contextmanager
def serve_gcs() -> Iterator[dict[str, str]]:
    """Run it, and return the environment that leads clients there."""
    running = server.create_server("127.0.0.1", 0, in_memory=True)
    running.start()
    host, port = running._api._httpd.server_address
    # It has no gRPC, by which gcsfs would ask for a minute what kind of bucket this is.
    yield {"STORAGE_EMULATOR_HOST": f"http://{host}:{port}", "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}
    running.stop()
