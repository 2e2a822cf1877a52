"""The parameters of compiling and submitting the pipeline. Imports no SDK."""

from dataclasses import dataclass
from typing import Literal

from captionflow.core.parameters import Parameters, parameter
from captionflow.core.runs import PIPELINE
from captionflow.core.steps import BEAM, TRAINING, Step

PIPELINE_NAME = PIPELINE.replace("_", "-")
"""The pipeline's name; Kubeflow allows no underscore."""

ROOT = "component_artifact_root"
"""The pipeline's own input: where the artifacts go."""

_CPU, _MEMORY = r"^[0-9]*[1-9][0-9]*m?$", r"^[1-9][0-9]*([KMGT]i?)?$"


@dataclass(frozen=True, kw_only=True)
class TrainingResources(Parameters):
    """CPUs and memory of a container that trains or evaluates, on Kubernetes."""

    train_cpu: str = parameter("4", "CPUs of the training and evaluation steps.", pattern=_CPU)
    train_memory: str = parameter("16G", "Memory of the training and evaluation steps.", pattern=_MEMORY)


@dataclass(frozen=True, kw_only=True)
class CompileParameters(TrainingResources):
    """What is fixed when the pipeline is compiled: images, resources, caching."""

    image_registry: str = parameter(
        "",
        "Registry and folder that hold the images, such as registry.example/team; without it, images of this machine.",
    )
    image_tag: str | None = parameter(None, "Tag of the images; by default that of the component files.")
    cache_folder: str | None = parameter(
        None,
        "Folder below the artifact root that runs share: what a step did there with the same inputs is taken from "
        "Kubeflow's cache. By default each run has a folder of its own and does everything.",
        pattern=r"^\w[\w.-]*$",
        examples=["nightly"],
    )
    ingest_cpu: str = parameter("1", "CPUs of the ingestion step, and of any other.", pattern=_CPU)
    ingest_memory: str = parameter("2G", "Memory of the ingestion step, and of any other.", pattern=_MEMORY)
    preprocess_cpu: str = parameter("2", "CPUs of the preprocessing step.", pattern=_CPU)
    preprocess_memory: str = parameter("4G", "Memory of the preprocessing step.", pattern=_MEMORY)
    accelerator: str | None = parameter(
        None,
        "Accelerator of the training step: nvidia.com/gpu on Kubernetes, NVIDIA_TESLA_T4 or the like on Vertex AI.",
    )
    accelerators: Literal["1", "2", "4", "8", "16"] = parameter("1", "How many accelerators the training step has.")

    def resources(self, step: Step) -> tuple[str, str]:
        """Return CPUs and memory of a step, as Kubernetes writes them: `500m`, `16G`."""
        if step.runs_in == TRAINING:
            return self.train_cpu, self.train_memory
        if step.runs_in == BEAM:
            return self.preprocess_cpu, self.preprocess_memory
        return self.ingest_cpu, self.ingest_memory


@dataclass(frozen=True, kw_only=True)
class KubeflowParameters(Parameters):
    """Where Kubeflow Pipelines is, and how to log in.

    The names are those of `kfp.Client`, but for `experiment`.
    """

    host: str | None = parameter(None, "Kubeflow Pipelines: http(s)://HOST:PORT.", envvar="KF_PIPELINES_ENDPOINT")
    experiment: str = parameter("Default", "Experiment that holds the run; made if it is not there.")
    namespace: str | None = parameter(None, "The profile's namespace, where Kubeflow has several users.")
    existing_token: str | None = parameter(None, "Bearer token.", envvar="CAPTIONFLOW_KFP_TOKEN")
    cookies: str | None = parameter(
        None, "Cookie of a login, such as authservice_session=….", envvar="CAPTIONFLOW_KFP_COOKIES"
    )
    client_id: str | None = parameter(None, "OAuth client of Google's Identity-Aware Proxy before Kubeflow.")
    other_client_id: str | None = parameter(None, "OAuth client of a desktop user of that proxy.")
    other_client_secret: str | None = parameter(None, "That client's secret.", envvar="CAPTIONFLOW_KFP_CLIENT_SECRET")
    ssl_ca_cert: str | None = parameter(None, "File with the certificate of the authority to trust.")
    verify_ssl: bool = parameter(True, "Check the server's certificate.")


@dataclass(frozen=True, kw_only=True)
class VertexParameters(Parameters):
    """Where Vertex AI runs a pipeline, and as whom."""

    project: str | None = parameter(None, "Vertex AI: Google Cloud project.")
    region: str | None = parameter(None, "Vertex AI: where it runs, such as europe-west4.")
    pipeline_root: str | None = parameter(None, "Vertex AI: gs:// folder for Vertex AI's own files.")
    service_account: str | None = parameter(None, "Vertex AI: account that the steps run as.")
    api_endpoint: str | None = parameter(None, "Vertex AI: a private endpoint of Vertex AI.")
