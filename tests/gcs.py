"""gs:// on this machine, for clients that STORAGE_EMULATOR_HOST leads there."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gcp_storage_emulator import server, settings
from gcp_storage_emulator.handlers import objects


def _move(request: Any, response: Any, storage: Any, *_: Any) -> None:
    request.params["dest_bucket_name"] = request.params["bucket_name"]
    objects.copy(request, response, storage)
    storage.delete_file(request.params["bucket_name"], request.params["object_id"])


# A call of Google's that the emulator lacks; gcsfs would try it for half a minute for every file.
_MOVE = rf"^{settings.API_ENDPOINT}/b/(?P<bucket_name>[-.\w]+)/o/(?P<object_id>.+)/moveTo/o/(?P<dest_object_id>.+)$"
server.HANDLERS = ((_MOVE, {"POST": _move}), *server.HANDLERS)


@contextmanager
def serve_gcs() -> Iterator[dict[str, str]]:
    """Run it, and return the environment that leads clients there."""
    running = server.create_server("127.0.0.1", 0, in_memory=True)
    running.start()
    host, port = running._api._httpd.server_address
    # It has no gRPC either, by which gcsfs would ask for a minute what kind of bucket this is.
    yield {"STORAGE_EMULATOR_HOST": f"http://{host}:{port}", "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}
    running.stop()
