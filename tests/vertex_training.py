"""Vertex AI's training as far as Airflow's operator and trigger can tell, over gRPC, with processes for containers.

Clients find it by what any gRPC client heeds: a proxy, and the authorities to trust.
"""

import select
import socket
import socketserver
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from google.cloud.aiplatform_v1 import (
    CreateTrainingPipelineRequest,
    GetTrainingPipelineRequest,
    PipelineState,
    TrainingPipeline,
)

from tests.training_services import Container

HOST = "europe-west4-aiplatform.googleapis.com"


class VertexTraining(grpc.GenericRpcHandler):
    """Makes training pipelines and tells how they are.

    Attributes:
        kill: how many containers, from the first, are killed at once.
    """

    def __init__(self) -> None:
        self.kill = 0
        self.jobs: list[dict[str, Any]] = []
        self.parents: list[str] = []
        self.env: dict[str, str] = {}
        self._containers: list[Container] = []

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        assert dict(call.invocation_metadata)["authorization"].startswith("Bearer ")
        methods = {
            "CreateTrainingPipeline": (self._create, CreateTrainingPipelineRequest),
            "GetTrainingPipeline": (self._get, GetTrainingPipelineRequest),
        }
        found = methods.get(call.method.removeprefix("/google.cloud.aiplatform.v1.PipelineService/"))
        if found is None:
            return None
        method, request = found
        return grpc.unary_unary_rpc_method_handler(
            method, request_deserializer=request.deserialize, response_serializer=TrainingPipeline.serialize
        )

    def _create(self, request: CreateTrainingPipelineRequest, context: grpc.ServicerContext) -> TrainingPipeline:
        job = CreateTrainingPipelineRequest.to_dict(request)["training_pipeline"]
        (pool,) = job["training_task_inputs"]["worker_pool_specs"]
        env = {variable["name"]: variable["value"] for variable in pool["containerSpec"].get("env", [])}
        self.parents.append(request.parent)
        self.jobs.append(job)
        self._containers.append(Container(pool["containerSpec"]["command"], env))
        if len(self.jobs) <= self.kill:
            self._containers[-1].process.kill()
        return self._tell(len(self.jobs) - 1)

    def _get(self, request: GetTrainingPipelineRequest, context: grpc.ServicerContext) -> TrainingPipeline:
        return self._tell(int(request.name.rpartition("/")[2]))

    def _tell(self, number: int) -> TrainingPipeline:
        code = self._containers[number].exit_code
        states = {None: PipelineState.PIPELINE_STATE_RUNNING, 0: PipelineState.PIPELINE_STATE_SUCCEEDED}
        parent = self.parents[number]
        told = TrainingPipeline(
            name=f"{parent}/trainingPipelines/{number}",
            display_name=self.jobs[number]["display_name"],
            state=states.get(code, PipelineState.PIPELINE_STATE_FAILED),
            training_task_metadata={"backingCustomJob": f"{parent}/customJobs/{number}"},
        )
        if code:
            told.error = {"code": 3, "message": f"The replica workerpool0-0 exited with a non-zero status of {code}."}
        return told


@contextmanager
def serve_vertex(folder: Path) -> Iterator[VertexTraining]:
    """Run it, and a proxy that leads there, while the block lasts; `env` of what it yields tells clients so.

    Args:
        folder: where the certificate goes.
    """
    key, certificate = _certificate()
    (folder / "authorities.pem").write_bytes(certificate)
    vertex = VertexTraining()
    server = grpc.server(ThreadPoolExecutor(4), handlers=[vertex])
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, certificate)]))
    server.start()
    with _proxy(port) as proxy:
        vertex.env = {"grpc_proxy": proxy, "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(folder / "authorities.pem")}
        try:
            yield vertex
        finally:
            server.stop(None)


def _certificate() -> tuple[bytes, bytes]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, HOST)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        .sign(key, SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return private, certificate.public_bytes(Encoding.PEM)


@contextmanager
def _proxy(port: int) -> Iterator[str]:
    """Run a proxy that leads whoever asks for Vertex AI to a port of this machine, and nobody anywhere else."""

    class Tunnel(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            asked = self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            if not asked.startswith(f"CONNECT {HOST}:443 ".encode()):
                self.wfile.write(b"HTTP/1.1 403 Forbidden\r\n\r\n")
                return
            self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            with socket.create_connection(("127.0.0.1", port)) as there:
                _pass_on(self.connection, there)

    class Proxy(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Proxy(("127.0.0.1", 0), Tunnel) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{proxy.server_address[1]}"
        proxy.shutdown()


def _pass_on(one: socket.socket, other: socket.socket) -> None:
    ways = {one: other, other: one}
    while True:
        for ready in select.select(list(ways), [], [])[0]:
            if not (data := ready.recv(65536)):
                return
            ways[ready].sendall(data)
