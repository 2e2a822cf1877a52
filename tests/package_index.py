"""A Python repository as Artifact Registry is one: uploads, the simple index and files, for who shows the token."""

import base64
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pypiserver

USER, TOKEN = "oauth2accesstoken", "ya29.a-token"


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def package_index(folder: Path, path: str) -> Iterator[str]:
    """Serve the wheels of a folder, which may not be there yet, below a path of a free port; gives the address."""
    known = "Basic " + base64.b64encode(f"{USER}:{TOKEN}".encode()).decode()

    def application(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if environ.get("HTTP_AUTHORIZATION") != known:
            start("401 Unauthorized", [("WWW-Authenticate", 'Basic realm="packages"')])
            return [b""]
        if not environ["PATH_INFO"].startswith(path) or not folder.is_dir():
            start("404 Not Found", [])
            return [b""]
        environ["SCRIPT_NAME"], environ["PATH_INFO"] = path, environ["PATH_INFO"].removeprefix(path)
        packages = pypiserver.app(roots=[folder], authenticate=[], password_file=".", disable_fallback=True)
        answer: Iterable[bytes] = packages(environ, start)
        return answer

    with make_server("127.0.0.1", 0, application, handler_class=_Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
