"""A step run in a Kubernetes pod, by the provider's operator."""

from typing import Any

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.common.compat.sdk import AirflowSkipException
from airflow.sdk import Context
from airflow.sdk.bases.xcom import BaseXCom
from kubernetes.client import models as k8s

from captionflow.airflow.containers import POLL_SECONDS, artifact_of, bad_input, command_of, environment
from captionflow.airflow.form import EXECUTION_TIMEOUT, no_retry_in_vain
from captionflow.airflow.placement import PlaceParameters
from captionflow.airflow.step_task import StepTask
from captionflow.core.errors import InvalidInputError
from captionflow.core.steps import Step

_START_SECONDS = 1800  # until a node with a GPU is there and has pulled an image of 6 GB


class PodStepOperator(StepTask, KubernetesPodOperator):
    """A step run in a Kubernetes pod; the worker is free until the pod has ended."""

    def __init__(self, *, step: Step, place: PlaceParameters, **arguments: Any) -> None:
        takes = {"cpu": place.train_cpu, "memory": place.train_memory}
        gpus = {place.pod_gpu: str(place.train_gpus)} if place.train_gpus else {}
        secret = k8s.V1SecretEnvSource(name=place.pod_secret)
        super().__init__(
            step=step,
            name=f"captionflow-{step.name}",
            namespace=place.pod_namespace,
            config_file=place.pod_config_file,
            image=place.train_image,
            env_from=[k8s.V1EnvFromSource(secret_ref=secret)] if place.pod_secret else [],
            service_account_name=place.pod_service_account,
            node_selector=place.node_selector,
            container_resources=k8s.V1ResourceRequirements(requests=takes, limits={**takes, **gpus}),
            startup_timeout_seconds=_START_SECONDS,
            # A task that waits in the triggerer until its time is over leaves its pod behind.
            active_deadline_seconds=int(EXECUTION_TIMEOUT.total_seconds()),
            # The operator has no other way to tell one exit code from another.
            skip_on_exit_code=InvalidInputError.exit_code,
            log_pod_spec_on_failure=False,
            deferrable=True,
            poll_interval=POLL_SECONDS,
            **arguments,
        )

    def execute(self, context: Context) -> str:
        """Start the pod and let go of the worker, or find that an earlier try's has ended."""
        with no_retry_in_vain():
            program, *self.arguments = command_of(self, context)
        self.cmds = [program]
        self.env_vars: Any = environment()
        super().execute(context)
        return self._finish(context)

    def trigger_reentry(self, context: Context, event: dict[str, Any]) -> str:
        """Go on when the pod has ended."""
        try:
            super().trigger_reentry(context, event)
        except AirflowSkipException:
            raise bad_input() from None
        return self._finish(context)

    def _finish(self, context: Context) -> str:
        uri = artifact_of(self, context)
        # To the provider `do_xcom_push` means a file that a second container of the pod reads.
        context["ti"].xcom_push(BaseXCom.XCOM_RETURN_KEY, uri)
        return uri
