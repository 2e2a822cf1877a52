"""Servers of this machine in the place of Google's, for clients that heed a proxy and the authorities to trust."""

import select
import socket
import socketserver
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat


def certificate(host: str, folder: Path) -> tuple[Path, Path]:
    """Write a certificate for a host, which is its own authority, and its key."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(key, SHA256())
    )
    paths = folder / "authorities.pem", folder / "key.pem"
    paths[0].write_bytes(signed.public_bytes(Encoding.PEM))
    paths[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return paths


@contextmanager
def proxy(host: str, rpc: int, rest: int | None = None) -> Iterator[str]:
    """Run a proxy that leads whoever asks for a host to ports of this machine, and nobody anywhere else.

    Args:
        rpc: the port for gRPC clients, which say in their request what they are.
        rest: the port for all others, by default the same.
    """

    class Tunnel(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            asked = self.rfile.readline()
            headers = b"".join(iter(self.rfile.readline, b"\r\n"))
            if not asked.startswith(f"CONNECT {host}:443 ".encode()):
                self.wfile.write(b"HTTP/1.1 403 Forbidden\r\n\r\n")
                return
            self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            port = rpc if rest is None or b"grpc" in headers.lower() else rest
            with socket.create_connection(("127.0.0.1", port)) as there:
                _pass_on(self.connection, there)

    class Proxy(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Proxy(("127.0.0.1", 0), Tunnel) as running:
        Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


def _pass_on(one: socket.socket, other: socket.socket) -> None:
    ways = {one: other, other: one}
    while True:
        for ready in select.select(list(ways), [], [])[0]:
            if not (data := ready.recv(65536)):
                return
            ways[ready].sendall(data)
