"""Kubeflow Pipelines and Vertex AI Pipelines over HTTP, with the calls that a submitting client makes."""

import base64
import json
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.servers import Site, send


def send_json(handler: BaseHTTPRequestHandler, content: Any, status: int = 200) -> None:
    send(handler, json.dumps(content).encode(), status, Content_Type="application/json")


def body(handler: BaseHTTPRequestHandler) -> Any:
    return json.loads(handler.rfile.read(int(handler.headers["Content-Length"] or 0)) or "null")


def service_account(email: str, **more: str) -> dict[str, str]:
    """Return the content of a service account's key file, with a new key."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return {"type": "service_account", "client_email": email, "private_key": pem, **more}


def _who(authorization: str) -> str:
    """Return the claims of a service account's token; its signature is Google's to check."""
    claims = authorization.removeprefix("Bearer ").split(".")[1]
    return base64.urlsafe_b64decode(claims + "==").decode()


class KubeflowPipelines(Site):
    """The calls of KFP's API v2beta1 that its client makes for a run. `states` are the states of the run in turn."""

    def __init__(self, *states: str) -> None:
        super().__init__()
        self.states = list(states)
        self.tasks: list[dict[str, Any]] = []
        self.failures: list[int] = []
        self.experiments: list[dict[str, str]] = []
        self.runs: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []

    def reply(self, handler: BaseHTTPRequestHandler) -> None:
        self.headers.append(dict(handler.headers))
        url, sent = urlsplit(handler.path), body(handler)
        call = handler.command, url.path.removeprefix("/apis/v2beta1")
        if call == ("GET", "/healthz"):
            send_json(handler, {"multi_user": False})
        elif call == ("GET", "/experiments"):
            (predicate,) = json.loads(parse_qs(url.query)["filter"][0])["predicates"]
            matches = [e for e in self.experiments if e["display_name"] == predicate["stringValue"]]
            send_json(handler, {"experiments": matches} if matches else {})
        elif call == ("POST", "/experiments"):
            self.experiments.append({**sent, "experiment_id": f"experiment-{len(self.experiments)}"})
            send_json(handler, self.experiments[-1])
        elif call == ("POST", "/runs"):
            self.runs.append({**sent, "run_id": f"run-{len(self.runs)}"})
            send_json(handler, self.runs[-1])
        elif call == ("GET", "/runs/run-0"):
            self._send_run(handler)
        else:
            send_json(handler, {"error": "Not Found", "code": 5, "message": "Not Found"}, 404)

    def _send_run(self, handler: BaseHTTPRequestHandler) -> None:
        if self.failures:
            send_json(handler, {"message": "no healthy upstream"}, self.failures.pop(0))
            return
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        send_json(handler, {"run_id": "run-0", "state": state, "run_details": {"task_details": self.tasks}})


class VertexPipelines(Site):
    """The calls of Vertex AI that its client makes for a run of an account's.

    The provider's operator also asks Cloud Storage whether the bucket is there, with a token that it fetches.
    """

    def __init__(self, account: str, *states: str) -> None:
        super().__init__()
        self.account = account
        self.states = list(states)
        self.jobs: list[dict[str, Any]] = []
        self.error = ""

    def reply(self, handler: BaseHTTPRequestHandler) -> None:
        if handler.path == "/":
            handler.rfile.read(int(handler.headers["Content-Length"]))
            send_json(handler, {"access_token": "a-token", "expires_in": 3600, "token_type": "Bearer"})
        elif handler.path.startswith("/storage/v1/b/"):
            send_json(handler, {"error": {"code": 403, "message": "not yours to look at"}}, 403)
        else:
            self._reply(handler)

    def _reply(self, handler: BaseHTTPRequestHandler) -> None:
        url, sent = urlsplit(handler.path), body(handler)
        parent = "/v1/projects/a-project/locations/europe-west4/pipelineJobs"
        if self.account not in _who(handler.headers["Authorization"]):
            send_json(handler, {"error": {"code": 401, "message": "who are you?"}}, 401)
        elif self.error:
            send_json(handler, {"error": {"code": 403, "message": self.error, "status": "PERMISSION_DENIED"}}, 403)
        elif (handler.command, url.path) == ("POST", parent):
            self.jobs.append(
                {**sent, "name": f"{parent.removeprefix('/v1/')}/{sent['pipelineSpec']['pipelineInfo']['name']}-1"}
            )
            send_json(handler, {**self.jobs[-1], "state": "PIPELINE_STATE_PENDING"})
        elif self.jobs and url.path == f"/v1/{self.jobs[0]['name']}":
            state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
            failed = {"error": {"code": 9, "message": "train ran out of memory"}} if state.endswith("FAILED") else {}
            send_json(handler, {**self.jobs[0], "state": state, **failed})
        else:
            send_json(handler, {"error": {"code": 404, "message": f"no {handler.path}"}}, 404)
