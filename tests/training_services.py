"""A Kubernetes API server as far as KubernetesPodOperator can tell, whose containers are processes of this machine."""

import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.pipeline_services import body, send_json
from tests.servers import Site, send

ROOT = Path(__file__).parents[1]
WHEN = "2026-01-02T03:04:05Z"


class Container:
    """A process with nothing of this one's environment but what it needs to find Python and its packages."""

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        assert command[0] == "captionflow"
        self._log = TemporaryFile()  # noqa: SIM115 - as long as the container
        self.process = subprocess.Popen(
            [sys.executable, "-m", "captionflow", *command[1:]],
            cwd="/",
            env={"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "PYTHONPATH": str(ROOT), **env},
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    @property
    def exit_code(self) -> int | None:
        """What the process ended with; of a killed one what a shell would tell."""
        code = self.process.poll()
        return code if code is None or code >= 0 else 128 - code

    @property
    def log(self) -> bytes:
        """What it has said."""
        self._log.seek(0)
        return self._log.read()


class Cluster(Site):
    """The calls of the Kubernetes API that the operator and its trigger make. A pod runs as soon as it is made.

    Attributes:
        secrets: keys and values by a Secret's name.
        kill: how many pods, from the first, lose their node at once.
    """

    def __init__(self, namespace: str) -> None:
        super().__init__()
        self.namespace = namespace
        self.secrets: dict[str, dict[str, str]] = {}
        self.kill = 0
        self.made: list[dict[str, Any]] = []
        self.deleted: list[str] = []
        self._containers: dict[str, Container] = {}

    def kubeconfig(self) -> dict[str, Any]:
        """What a client needs to know."""
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "here", "cluster": {"server": self.url}}],
            "users": [{"name": "me", "user": {"token": "a-token"}}],
            "contexts": [{"name": "it", "context": {"cluster": "here", "user": "me"}}],
            "current-context": "it",
        }

    def reply(self, handler: BaseHTTPRequestHandler) -> None:
        url, sent = urlsplit(handler.path), body(handler)
        pods = f"/api/v1/namespaces/{self.namespace}/pods"
        if handler.headers["Authorization"] != "Bearer a-token":
            send_json(handler, {"kind": "Status", "code": 401}, 401)
        elif (handler.command, url.path) == ("POST", pods):
            send_json(handler, self._make(sent), 201)
        elif (handler.command, url.path) == ("GET", pods):
            found = [pod for pod in map(self._pod, self._alive()) if _fits(pod, parse_qs(url.query))]
            send_json(handler, {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": found})
        elif url.path == f"/api/v1/namespaces/{self.namespace}/events":
            send_json(handler, {"kind": "EventList", "apiVersion": "v1", "metadata": {}, "items": []})
        else:
            name, _, what = url.path.removeprefix(f"{pods}/").partition("/")
            self._one(handler, name, what)

    def _one(self, handler: BaseHTTPRequestHandler, name: str, what: str) -> None:
        if name not in self._alive():
            send_json(handler, {"kind": "Status", "code": 404, "message": f"no {handler.path}"}, 404)
        elif what == "log":
            self._containers[name].process.wait()
            send(handler, self._containers[name].log, Content_Type="text/plain")
        else:
            send_json(handler, self._pod(name))
            if handler.command == "DELETE":
                self.deleted.append(name)

    def _alive(self) -> list[str]:
        return [name for name in self._containers if name not in self.deleted]

    def _make(self, pod: dict[str, Any]) -> dict[str, Any]:
        self.made.append(pod)
        (container,) = pod["spec"]["containers"]
        env = {variable["name"]: variable["value"] for variable in container.get("env", [])}
        for source in container.get("envFrom", []):
            env |= self.secrets[source["secretRef"]["name"]]
        name = pod["metadata"]["name"]
        self._containers[name] = Container(container["command"] + container["args"], env)
        if len(self.made) <= self.kill:
            self._containers[name].process.kill()
        return self._pod(name)

    def _pod(self, name: str) -> dict[str, Any]:
        (made,) = (pod for pod in self.made if pod["metadata"]["name"] == name)
        code = self._containers[name].exit_code
        phase = {None: "Running", 0: "Succeeded"}.get(code, "Failed")
        ended = {"terminated": {"exitCode": code, "startedAt": WHEN, "finishedAt": WHEN}}
        status = {
            "name": "base", "image": "", "imageID": "", "ready": code is None, "restartCount": 0,
            "state": {"running": {"startedAt": WHEN}} if code is None else ended,
        }  # fmt: skip
        metadata = {**made["metadata"], "namespace": self.namespace, "uid": name, "creationTimestamp": WHEN}
        return {**made, "metadata": metadata, "status": {"phase": phase, "containerStatuses": [status]}}


def _fits(pod: dict[str, Any], query: dict[str, list[str]]) -> bool:
    """Whether a pod has the labels of a selector such as `a=1,b!=2`."""
    labels = pod["metadata"]["labels"]
    for term in query.get("labelSelector", [""])[0].split(","):
        name, _, value = term.replace("!=", "=").partition("=")
        if name and (labels.get(name) == value) == ("!=" in term):
            return False
    return True
