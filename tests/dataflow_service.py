"""Dataflow on this machine: its API over REST and gRPC, reached by its real name through a proxy, and its workers."""

import json
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import grpc
from google.cloud.dataflow_v1beta3 import (
    CreateJobRequest,
    GetJobMetricsRequest,
    GetJobRequest,
    Job,
    JobMetrics,
    JobState,
    JobType,
    ListJobMessagesRequest,
    ListJobMessagesResponse,
)

from tests.google_proxy import certificate, proxy
from tests.pipeline_services import body, send_json, service_account
from tests.servers import Site, serve

HOST = "dataflow.googleapis.com"
ACCOUNT = "runner@a-project"
ACTIVE = {"JOB_STATE_PENDING", "JOB_STATE_RUNNING", "JOB_STATE_CANCELLING"}
# Runs the submitted graph itself, with its workers in this process in place of the image's containers.
WORKERS = """
import sys
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import python_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
graph = beam_runner_api_pb2.Pipeline.FromString(FileSystems.open(sys.argv[1]).read())
for environment in graph.components.environments.values():
    environment.urn, environment.payload = python_urns.EMBEDDED_PYTHON, b""
FnApiRunner().run_via_runner_api(graph, PipelineOptions()).wait_until_finish()
"""


class Dataflow(Site):
    """The calls that Beam and Airflow make for jobs; a job is running until `work` has done it or its state is set.

    A job is made at once; who asked for it is answered when `may_answer` is set.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        super().__init__()
        self.environment = environment
        self.jobs: list[dict[str, Any]] = []
        self.refusal: tuple[grpc.StatusCode, str] | None = None
        self.polled: set[str] = set()
        self.may_answer = threading.Event()
        self.may_answer.set()

    def reply(self, handler: BaseHTTPRequestHandler) -> None:
        url, sent = urlsplit(handler.path), body(handler)
        parent, _, job_id = url.path.partition("/jobs")
        assert (handler.headers["Host"], parent) == (HOST, "/v1b3/projects/a-project/locations/europe-west4")
        if not job_id:
            wanted = parse_qs(url.query)["name"]
            found = [job for job in self.jobs if job["name"] in wanted and job["currentState"] in ACTIVE]
            send_json(handler, {"jobs": found} if found else {})
        else:
            if not any(job["id"] == job_id.strip("/") for job in self.jobs):
                send_json(handler, {"error": {"code": 404, "message": "There is no such job."}}, 404)
                return
            job = self.job(job_id.strip("/"))
            if handler.command == "PUT":
                job["currentState"] = sent["requestedState"]
            send_json(handler, job)

    def job(self, job_id: str) -> dict[str, Any]:
        return next(job for job in self.jobs if job["id"] == job_id)

    def work(self, job: dict[str, Any]) -> None:
        """Do what the job is to do."""
        url = job["environment"]["sdkPipelineOptions"]["options"]["pipelineUrl"]
        done = subprocess.run([sys.executable, "-c", WORKERS, url], env=self.environment, check=False)
        job["currentState"] = "JOB_STATE_FAILED" if done.returncode else "JOB_STATE_DONE"

    def create_job(self, request: CreateJobRequest, context: grpc.ServicerContext) -> Job:
        if self.refusal:
            context.abort(*self.refusal)
        sent = json.loads(
            Job.to_json(request.job, use_integers_for_enums=False, always_print_fields_with_no_presence=False)
        )
        if any(job["name"] == sent["name"] and job["currentState"] in ACTIVE for job in self.jobs):
            context.abort(grpc.StatusCode.ALREADY_EXISTS, "There is already an active job of that name.")
        self.jobs.append({**sent, "id": f"job-{len(self.jobs)}", "currentState": "JOB_STATE_RUNNING"})
        self.may_answer.wait()
        request.job.id = self.jobs[-1]["id"]
        return request.job

    def get_job(self, request: GetJobRequest, _: grpc.ServicerContext) -> Job:
        job = self.job(request.job_id)
        self.polled.add(request.job_id)
        return Job(id=job["id"], type_=JobType.JOB_TYPE_BATCH, current_state=JobState[job["currentState"]])


@contextmanager
def dataflow(folder: Path, environment: dict[str, str]) -> Iterator[Dataflow]:
    """Run it; `environment`, of its workers and of its clients, is told how clients find it."""
    service = Dataflow(environment)
    authorities, key = certificate(HOST, folder)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(authorities, key)
    with ExitStack() as running:
        running.enter_context(serve(service, tls))
        tokens = running.enter_context(serve(_Tokens()))
        rest = int(service.url.rpartition(":")[2])
        rpc = running.enter_context(_grpc(service, authorities, key))
        account = folder / "account.json"
        account.write_text(json.dumps(service_account(ACCOUNT, token_uri=tokens.url, project_id="a-project")))
        environment |= {
            **dict.fromkeys(("https_proxy", "HTTPS_PROXY"), running.enter_context(proxy(HOST, rpc, rest))),
            **dict.fromkeys(("no_proxy", "NO_PROXY"), "127.0.0.1,localhost"),
            **dict.fromkeys(
                ("REQUESTS_CA_BUNDLE", "HTTPLIB2_CA_CERTS", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"), str(authorities)
            ),
            "GOOGLE_APPLICATION_CREDENTIALS": str(account),
            "AIRFLOW_CONN_GOOGLE_CLOUD_DEFAULT": "google-cloud-platform://",
        }
        yield service


class _Tokens(Site):
    def reply(self, handler: BaseHTTPRequestHandler) -> None:
        handler.rfile.read(int(handler.headers["Content-Length"]))
        send_json(handler, {"access_token": "a-token", "expires_in": 3600, "token_type": "Bearer"})


@contextmanager
def _grpc(service: Dataflow, authorities: Path, key: Path) -> Iterator[int]:
    server = grpc.server(futures.ThreadPoolExecutor(4))
    methods = {
        "Jobs": {"CreateJob": (service.create_job, CreateJobRequest), "GetJob": (service.get_job, GetJobRequest)},
        "Messages": {"ListJobMessages": (lambda *_: ListJobMessagesResponse(), ListJobMessagesRequest)},
        "Metrics": {"GetJobMetrics": (lambda *_: JobMetrics(), GetJobMetricsRequest)},
    }
    for name, calls in methods.items():
        handlers = {
            call: grpc.unary_unary_rpc_method_handler(
                answer, asked.deserialize, lambda told: type(told).serialize(told)
            )
            for call, (answer, asked) in calls.items()
        }
        generic = grpc.method_handlers_generic_handler(f"google.dataflow.v1beta3.{name}V1Beta3", handlers)
        server.add_generic_rpc_handlers((generic,))
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), authorities.read_bytes())])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    yield port
    server.stop(None).wait()
