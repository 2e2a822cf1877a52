"""A component of the TFX pipeline as a task: a process of TFX's own environment, which is not Airflow's."""

import json
import os
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from airflow.providers.common.compat.sdk import AirflowException
from airflow.sdk import BaseOperator, Context

from captionflow.airflow.beam_options import options_for
from captionflow.airflow.form import ARTIFACT_ROOT, check_conf, no_retry_in_vain, read, settings
from captionflow.airflow.local_job import LocalJob, without_airflow
from captionflow.core.errors import InvalidInputError, StoreError
from tfx_pipeline.environment import tfx_python
from tfx_pipeline.parameters import PIPELINE_NAME, TfxParameters, TfxSettings


class TfxComponent(BaseOperator):
    """Runs the component of the task's name, as AirflowDagRunner would; its XCom is {output: [URI, …]}."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._job: LocalJob | None = None

    def execute(self, context: Context) -> dict[str, list[str]]:
        """Start TFX's Python, log its output as it comes, and return its answer."""
        self._job = LocalJob(self.log)
        with no_retry_in_vain():
            parameters, python = parameters_of(context), tfx_python()
        with TemporaryDirectory(prefix="captionflow-tfx-") as folder:
            answer = Path(folder) / "answer.json"
            request = {
                "component": self.task_id,
                "parameters": parameters.to_json(),
                "run_id": context["run_id"],
                "answer": str(answer),
            }
            command = [python, "-P", "-m", "tfx_pipeline.task"]
            try:
                self._job.run(command, environment=_environment(folder), stdin=json.dumps(request).encode())
            except AirflowException:
                with no_retry_in_vain():
                    _raise_error_of(answer)
                raise
            outputs: dict[str, list[str]] = json.loads(answer.read_bytes())["outputs"]
            return outputs

    def on_kill(self) -> None:
        """End the component's process, and what it started; one that is yet to come will not begin."""
        if self._job:
            self._job.kill()


def parameters_of(context: Context) -> TfxParameters:
    """Return what the form gives, with what the deployment says of code, places and Beam.

    Raises:
        InvalidInputError: the form, or a setting of the deployment, cannot be used.
    """
    from airflow.providers.apache.beam.hooks.beam import beam_options_to_args  # takes seconds to import

    check_conf(context, settings(TfxSettings))
    given = read(TfxParameters, context)
    options = tuple(beam_options_to_args(options_for(given.runner, given.beam_options)))
    set_by_deployment = TfxSettings.from_environment(pipeline_root=f"{ARTIFACT_ROOT}/{PIPELINE_NAME}")
    return replace(given, **set_by_deployment.to_json(), beam_options=options)


def _environment(home: str) -> dict[str, str]:
    """Return the environment of TFX, which uses Airflow 2 as a library and must not find what Airflow 3 imports."""
    kept = {name: value for name, value in without_airflow(os.environ).items() if name != "PYTHONPATH"}
    return kept | {"AIRFLOW_HOME": home, "_AIRFLOW__AS_LIBRARY": "1"}


def _raise_error_of(answer: Path) -> None:
    """Raise the error that the component wrote down, if there is one."""
    given = json.loads(answer.read_bytes()) if answer.exists() else {}
    if "error" in given:
        raise (StoreError if given["retry"] else InvalidInputError)(given["error"])
