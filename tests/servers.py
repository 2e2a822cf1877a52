"""A real HTTP server for tests, which serves what it is given and counts what it is asked for."""

import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Reply = Callable[[BaseHTTPRequestHandler], None]


def send(handler: BaseHTTPRequestHandler, body: bytes, status: int = 200, **headers: str) -> None:
    """Answer with a status, headers (underscores become hyphens) and a body."""
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


class Site:
    """What a server serves: bytes or a function by path. `hits` counts the requests by path."""

    def __init__(self) -> None:
        self.pages: dict[str, bytes | Reply] = {}
        self.hits: Counter[str] = Counter()
        self.url = ""

    def reply(self, handler: BaseHTTPRequestHandler) -> None:
        self.hits[handler.path] += 1
        page = self.pages.get(handler.path)
        if page is None:
            send(handler, b"nothing here", 404)
        elif isinstance(page, bytes):
            send(handler, page)
        else:
            page(handler)


@contextmanager
def serve(site: Site | None = None, tls: ssl.SSLContext | None = None) -> Iterator[Site]:
    """Run a server on a free port of 127.0.0.1 while the block lasts."""
    site = site or Site()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            site.reply(self)

        do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_GET  # noqa: N815

        def log_message(self, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *args: object) -> None:
            """Say nothing: clients that hang up are what many tests are about."""

    with Server(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        site.url = f"http{'s' if tls else ''}://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield site
        finally:
            server.shutdown()
            thread.join()
