"""Where training and evaluation run: in Airflow's worker, in a Kubernetes pod, or as a custom job of Vertex AI.

The graph is the same wherever that is. A provider's operator is imported and made only inside the running task: Vertex
AI's takes longer to import than all else in the DAG.
"""

import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException
from airflow.sdk import BaseOperator, Context

from beam_jobs.parameters import DataflowParameters
from captionflow.airflow.assets import announce, asset
from captionflow.airflow.form import EXECUTION_TIMEOUT, artifact, check_conf, no_retry_in_vain, read, settings
from captionflow.airflow.plain_text import PlainText
from captionflow.core.errors import InvalidInputError
from captionflow.core.parameters import Parameters, options, parameter, variable
from captionflow.core.steps import step_named
from kfp_pipeline.parameters import TrainingResources

_LOG = logging.getLogger(__name__)

_HERE, _POD, _VERTEX = "airflow", "kubernetes", "vertex"
_NEEDS = {
    _POD: ("train_image",),
    _VERTEX: ("train_image", "vertex_project", "vertex_region", "vertex_staging_bucket"),
}
_POLL_SECONDS = 10
_DISPLAY_NAME_LENGTH = 128  # as long as Vertex AI takes
_START_SECONDS = 1800  # until a node with a GPU is there and has pulled an image of 6 GB


@dataclass(frozen=True, kw_only=True)
class VertexSettings(Parameters):
    """Where Vertex AI works, and as whom."""

    vertex_project: str | None = parameter(None, "Google Cloud project of the job.")
    vertex_region: str | None = parameter(None, "Where the job runs, such as europe-west4; near the bucket is best.")
    vertex_service_account: str | None = parameter(
        None, "Google service account that the job runs as, which may read and write the artifacts."
    )


@dataclass(frozen=True, kw_only=True)
class PlaceParameters(TrainingResources, VertexSettings):
    """Where training and evaluation run. Building one checks that nothing is missing which the place needs."""

    train_on: Literal["airflow", "kubernetes", "vertex"] = parameter(
        _HERE,
        f"Where training and evaluation run. {_HERE}: in the worker, which then needs PyTorch. {_POD}: in a pod. "
        f"{_VERTEX}: as a custom job of Vertex AI. "
        "For the latter two the artifact root must be a bucket that the container may use.",
    )
    train_image: str | None = parameter(
        None,
        f"Image of the container for {_POD} or {_VERTEX}, such as registry.example/team/captionflow-evaluation:0.1.0, "
        "which docker/build-components.sh makes; it can train as well.",
    )
    train_gpus: int = parameter(1, "GPUs of the container; 0 uses the CPUs alone.", minimum=0, maximum=16)
    pod_namespace: str = parameter("default", "Namespace of the pod; on Cloud Composer composer-user-workloads.")
    pod_config_file: str | None = parameter(
        None,
        "Kubeconfig of the cluster, on Cloud Composer /home/airflow/composer_kube_config; by default what Airflow's "
        "connection kubernetes_default says, or else the cluster that Airflow runs in.",
    )
    pod_service_account: str | None = parameter(
        None, "Kubernetes service account of the pod, which may read and write the artifacts."
    )
    pod_secret: str | None = parameter(
        None,
        "Kubernetes Secret whose keys become environment variables of the container: keys of an object store, or "
        "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.",
    )
    pod_gpu: str = parameter("nvidia.com/gpu", "What the cluster calls its GPUs.")
    pod_node_labels: tuple[str, ...] = parameter(
        (), "Labels of the node, as NAME=VALUE, such as cloud.google.com/gke-accelerator=nvidia-tesla-t4."
    )
    vertex_staging_bucket: str | None = parameter(
        None, "Bucket in Cloud Storage for Vertex AI's own files.", pattern="^gs://.", examples=["gs://bucket/vertex"]
    )
    vertex_machine_type: str = parameter(
        "n1-standard-8", "Machine of the job; the accelerator must fit it, and N1 fits NVIDIA_TESLA_T4."
    )
    vertex_accelerator: str = parameter(
        "NVIDIA_TESLA_T4", "Kind of GPU, by the name that Vertex AI has for it, of which train_gpus are taken."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        missing = [name for name in _NEEDS.get(self.train_on, ()) if not getattr(self, name)]
        if missing:
            needed = " and ".join(map(variable, missing))
            raise InvalidInputError(f"{variable('train_on')}: {self.train_on} needs {needed}")
        _ = self.node_selector

    @property
    def node_selector(self) -> dict[str, str]:
        """The node's labels by name."""
        for label in self.pod_node_labels:
            if "=" not in label:
                raise InvalidInputError(f"{variable('pod_node_labels')}: {label!r} is not NAME=VALUE")
        return dict(label.split("=", 1) for label in self.pod_node_labels)


SETTINGS = settings(PlaceParameters, DataflowParameters)
"""What the deployment says of where the steps run, and no form."""


class StepOperator(PlainText, BaseOperator):
    """A step of `captionflow`, run where the deployment says; its XCom is the URI of its artifact.

    The task's id is the name of the step.

    Args:
        parameters: the step's parameters, which it takes from the form.
        uris: the URIs it is called with, by the name of the argument, which is also the command's option.
        makes: the kind of artifact it makes.
    """

    template_fields = ("uris",)

    def __init__(self, *, parameters: type[Parameters], uris: dict[str, Any], makes: str, **arguments: Any) -> None:
        super().__init__(outlets=[asset(makes)], post_execute=announce, **arguments)
        self.parameters = parameters
        self.uris = uris
        self.makes = makes
        self._job: BaseOperator | None = None

    def execute(self, context: Context) -> str:
        """Run the step here, or start a container and let go of the worker until that has ended."""
        with no_retry_in_vain():
            uris, parameters = self._called_with(context)
            if PlaceParameters.from_environment().train_on == _HERE:
                return self._step()(**uris, parameters=parameters)
        return self._follow(context, lambda job: job.execute(context))

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> str:
        """Go on where the provider's operator stopped to wait."""
        with _no_retry_of_bad_input(next_kwargs):
            return self._follow(context, lambda job: job.resume_execution(next_method, next_kwargs, context))

    def on_kill(self) -> None:
        """End what was started, as the provider's operator does."""
        if self._job:
            self._job.on_kill()

    def _step(self) -> Callable[..., str]:
        try:
            return step_named(self.task_id).load()
        except ModuleNotFoundError as error:
            said = f"{variable('train_on')}: {_HERE}: this worker has no {error.name}; choose another"
            raise InvalidInputError(said) from error

    def _called_with(self, context: Context) -> tuple[dict[str, str], Parameters]:
        check_conf(context, SETTINGS)
        return {**self.uris, "output": artifact(context, self.makes)}, read(self.parameters, context)

    def _follow(self, context: Context, act: Callable[[BaseOperator], Any]) -> str:
        with no_retry_in_vain():
            place = PlaceParameters.from_environment()
            uris, parameters = self._called_with(context)
            command = ["captionflow", self.task_id, *options(uris), *parameters.to_options()]
            # Kubernetes would put a variable of the container in its place, which may be a secret.
            if expanded := [option for option in command if "$(" in option]:
                raise InvalidInputError(f"{expanded[0]}: holds '$(', which a container's command may not")
            make = {_POD: _pod, _VERTEX: _vertex_job}[place.train_on]
            self._job = make(self.task_id, command, place, context)
        act(self._job)  # raises TaskDeferred as long as there is something to wait for
        with no_retry_in_vain():
            from captionflow.core.artifact import open_artifact

            # A container may well write to a folder of its own.
            return open_artifact(uris["output"]).uri


@contextmanager
def _no_retry_of_bad_input(event_of: Mapping[str, Any] | None) -> Iterator[None]:
    """Fail at once on a container whose command found its input bad, as far as the operator tells its exit code."""
    bad_input = AirflowFailException("The input or a parameter is bad; the container's log says which.")
    try:
        yield
    except AirflowSkipException:
        # KubernetesPodOperator has no other way to tell one exit code from another.
        raise bad_input from None
    except Exception:
        # Vertex AI tells it in words, which its operator keeps to itself.
        job = ((event_of or {}).get("event") or {}).get("job") or {}
        said = (job.get("error") or {}).get("message", "")
        if said:
            _LOG.error("%s", said)
        if re.search(rf"non-zero status of {InvalidInputError.exit_code}\b", said):
            raise bad_input from None
        raise


def _pod(task_id: str, command: list[str], place: PlaceParameters, context: Context) -> BaseOperator:
    from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
    from kubernetes.client import models as k8s

    takes = {"cpu": place.train_cpu, "memory": place.train_memory}
    gpus = {place.pod_gpu: str(place.train_gpus)} if place.train_gpus else {}
    secret = [k8s.V1EnvFromSource(secret_ref=k8s.V1SecretEnvSource(name=place.pod_secret))] if place.pod_secret else []
    return KubernetesPodOperator(
        task_id=task_id,
        name=f"captionflow-{task_id}",
        namespace=place.pod_namespace,
        config_file=place.pod_config_file,
        image=place.train_image,
        cmds=command[:1],
        arguments=command[1:],
        env_vars=_environment(),
        env_from=secret,
        service_account_name=place.pod_service_account,
        node_selector=place.node_selector,
        container_resources=k8s.V1ResourceRequirements(requests=takes, limits={**takes, **gpus}),
        startup_timeout_seconds=_START_SECONDS,
        # A task that waits in the triggerer until its time is over leaves its pod behind.
        active_deadline_seconds=int(EXECUTION_TIMEOUT.total_seconds()),
        skip_on_exit_code=InvalidInputError.exit_code,
        log_pod_spec_on_failure=False,
        deferrable=True,
        poll_interval=_POLL_SECONDS,
    )


def _vertex_job(task_id: str, command: list[str], place: PlaceParameters, context: Context) -> BaseOperator:
    from airflow.providers.google.cloud.operators.vertex_ai.custom_job import CreateCustomContainerTrainingJobOperator

    gpus: dict[str, Any] = (
        {"accelerator_type": place.vertex_accelerator, "accelerator_count": place.train_gpus}
        if place.train_gpus
        else {}
    )
    return CreateCustomContainerTrainingJobOperator(
        task_id=task_id,
        display_name=f"captionflow-{task_id} {context['run_id']}"[:_DISPLAY_NAME_LENGTH],
        project_id=place.vertex_project,
        region=str(place.vertex_region),
        staging_bucket=place.vertex_staging_bucket,
        container_uri=place.train_image,
        command=command,
        environment_variables=_environment(),
        machine_type=place.vertex_machine_type,
        service_account=place.vertex_service_account,
        deferrable=True,
        poll_interval=_POLL_SECONDS,
        **gpus,
    )


def _environment() -> dict[str, str]:
    """Return what a container is told of this deployment; no secrets, which a pod or a job would show to many."""
    from captionflow.core.uris import SCHEMES_VARIABLE  # asks for more than a DAG file needs

    names = [SCHEMES_VARIABLE]
    server = urlsplit(os.environ.get("MLFLOW_TRACKING_URI", ""))
    if server.scheme in ("http", "https") and not (server.username or server.password):
        names += ["MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"]
    elif any(server):
        _LOG.warning("MLFLOW_TRACKING_URI names no server, or holds a password: the container is not told of it")
    return {name: os.environ[name] for name in names if os.environ.get(name)}
