"""Where training and evaluation run, and as whom: the deployment's own settings, read when the DAG is built."""

from dataclasses import dataclass
from typing import Literal

from beam_jobs.parameters import DataflowParameters
from captionflow.airflow.form import settings
from captionflow.core.errors import InvalidInputError
from captionflow.core.parameters import Parameters, parameter, variable
from kfp_pipeline.parameters import TrainingResources

AIRFLOW, KUBERNETES, VERTEX = "airflow", "kubernetes", "vertex"
CONNECTION = "google_cloud_default"
"""Airflow's connection to Google Cloud."""
_NEEDS = {
    KUBERNETES: ("train_image",),
    VERTEX: ("train_image", "vertex_project", "vertex_region", "vertex_staging_bucket"),
}


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
        AIRFLOW,
        f"Where training and evaluation run. {AIRFLOW}: in the worker, which then needs PyTorch. "
        f"{KUBERNETES}: in a pod. {VERTEX}: as a custom job of Vertex AI. "
        "For the latter two the artifact root must be a bucket that the container may use.",
    )
    train_image: str | None = parameter(
        None,
        f"Image of the container for {KUBERNETES} or {VERTEX}, such as "
        "registry.example/team/captionflow-evaluation:1: docker/build-components.sh makes it, and it can train, too.",
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
    pod_gpu: str = parameter("nvidia.com/gpu", "Name under which the cluster offers its GPUs.")
    pod_node_labels: tuple[str, ...] = parameter(
        (),
        "Labels of the node, as NAME=VALUE with spaces between them, such as "
        "cloud.google.com/gke-accelerator=nvidia-tesla-t4.",
    )
    vertex_staging_bucket: str | None = parameter(
        None, "Bucket in Cloud Storage for Vertex AI's own files.", pattern="^gs://.", examples=["gs://bucket/vertex"]
    )
    vertex_machine_type: str = parameter(
        "n1-standard-8", "Machine of the job; it must take the accelerator, as N1 takes NVIDIA_TESLA_T4."
    )
    vertex_accelerator: str = parameter(
        "NVIDIA_TESLA_T4",
        "Kind of GPU, by Vertex AI's name; the job takes as many as CAPTIONFLOW_TRAIN_GPUS says.",
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
"""What the deployment sets, and no form: parameter → environment variable."""
