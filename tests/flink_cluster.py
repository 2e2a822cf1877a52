"""A standalone Flink cluster on this machine: a job manager, task managers, and a pool of Beam's workers for each.

Each is a process of its own, as on a cluster; the folder of the artifacts is what they share. A pool belongs to one
task manager: Beam counts workers in each of them anew, and two that share a pool stop each other's. All are told of
the same address, `workers`, which is another one in the eyes of each task manager.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import urlopen

from tests.processes import free_port, wait_until

ROOT = Path(__file__).parents[1]
JAR = ROOT / "build" / "flink" / "flink.jar"
CONFIG = ROOT / "docker" / "flink" / "config.yaml"
_MAIN = {
    "job-manager": "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint",
    "task-manager": "org.apache.flink.runtime.taskexecutor.TaskManagerRunner",
}


@dataclass
class FlinkCluster:
    """A running cluster."""

    folder: Path
    master: str
    workers: str
    task_managers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    pools: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def beam_arguments(self, parallelism: int) -> list[str]:
        """Return what makes Beam run a job here."""
        return [
            "--runner=FlinkRunner", f"--flink_master={self.master}", f"--flink_job_server_jar={JAR}",
            f"--parallelism={parallelism}", "--environment_type=EXTERNAL", f"--environment_config={self.workers}",
        ]  # fmt: skip

    def overview(self) -> dict[str, int]:
        """Return Flink's own count of task managers, slots and jobs."""
        with urlopen(f"http://{self.master}/overview", timeout=5) as answer:
            return dict(json.load(answer))

    def busy_task_managers(self) -> int:
        """Return how many task managers have a part of a job in hand."""
        with urlopen(f"http://{self.master}/taskmanagers", timeout=5) as answer:
            return sum(each["freeSlots"] < each["slotsNumber"] for each in json.load(answer)["taskmanagers"])

    def start(self, role: str, *options: str) -> subprocess.Popen[bytes]:
        """Start a Java process of the cluster."""
        command = ["java", "-Xmx512m", *options, "-cp", str(JAR), _MAIN[role], "--configDir", str(self.folder)]
        with (self.folder / f"{role}.log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log)

    def add_task_manager(self) -> None:
        """Start one more task manager and its workers, and wait until it has registered."""
        address = f"127.0.0.{len(self.task_managers) + 2}"
        hosts = self.folder / f"hosts-{address}"
        hosts.write_text(f"127.0.0.1 localhost\n127.0.0.1 {socket.gethostname()}\n{address} workers\n")
        self.pools.append(_worker_pool(self.folder, self.workers.replace("workers", address)))
        self.task_managers.append(self.start("task-manager", f"-Djdk.net.hosts.file={hosts}"))
        wait_until(lambda: self._ready() == len(self.task_managers), seconds=120)

    def _ready(self) -> int:
        try:
            return self.overview()["taskmanagers"]
        except OSError:
            return -1


@contextmanager
def flink_cluster(folder: Path, task_managers: int) -> Iterator[FlinkCluster]:
    """Run a cluster while the block lasts."""
    rest, rpc, pool = free_port(), free_port(), free_port()
    addresses = {"jobmanager.rpc.address": "localhost", "jobmanager.rpc.port": rpc, "rest.port": rest}
    lines = "".join(f"{name}: {value}\n" for name, value in addresses.items())
    (folder / CONFIG.name).write_text(CONFIG.read_text() + lines)
    cluster = FlinkCluster(folder, f"localhost:{rest}", f"workers:{pool}")
    with ExitStack() as running:
        running.enter_context(_ended(cluster.start("job-manager")))
        for _ in range(task_managers):
            cluster.add_task_manager()
            running.enter_context(_ended(cluster.pools[-1]))
            running.enter_context(_ended(cluster.task_managers[-1]))
        yield cluster


# Beam's own program listens on all addresses.
_POOL = """
import sys
import grpc
from apache_beam.portability.api import beam_fn_api_pb2_grpc
from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer
from apache_beam.utils import thread_pool_executor
server = grpc.server(thread_pool_executor.shared_unbounded_instance())
server.add_insecure_port(sys.argv[1])
servicer = BeamFnExternalWorkerPoolServicer(use_process=True)
beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(servicer, server)
server.start()
server.wait_for_termination()
"""


def _worker_pool(folder: Path, address: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", _POOL, address]
    # It starts its workers by the name `python`.
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with (folder / "worker-pool.log").open("ab") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


@contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def missing() -> str | None:
    """Return what is not here of what a cluster needs."""
    if shutil.which("java") is None:
        return "no Java, which `make flink` needs"
    return None if JAR.exists() else "`make flink` has not been run"
