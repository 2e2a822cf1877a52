"""Vertex AI's training as far as Airflow's operator and trigger can tell, over gRPC, with processes for containers.

Clients find it by what any gRPC client heeds: a proxy, and the authorities to trust.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from google.cloud.aiplatform_v1 import (
    CreateTrainingPipelineRequest,
    GetTrainingPipelineRequest,
    PipelineState,
    TrainingPipeline,
)

from tests.google_proxy import certificate, proxy
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
    authorities, key = certificate(HOST, folder)
    vertex = VertexTraining()
    server = grpc.server(ThreadPoolExecutor(4), handlers=[vertex])
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), authorities.read_bytes())])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    with proxy(HOST, port) as url:
        vertex.env = {"grpc_proxy": url, "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(authorities)}
        try:
            yield vertex
        finally:
            server.stop(None)
