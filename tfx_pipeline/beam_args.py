"""The Beam options of the components' jobs, by runner."""

from beam_jobs.dataflow import dataflow_options
from beam_jobs.parameters import DATAFLOW, DIRECT, DataflowParameters
from captionflow.core.errors import InvalidInputError
from tfx_pipeline.parameters import TfxParameters


def beam_args(parameters: TfxParameters) -> list[str]:
    """Return the options of the runner, then the user's own.

    Raises:
        InvalidInputError: the runner needs an option that is missing.
    """
    runner = parameters.runner
    return [*_RUNNER_OPTIONS[runner](parameters), *parameters.beam_options]


def _direct(parameters: TfxParameters) -> list[str]:
    workers = parameters.direct_num_workers
    # DirectRunner would download a Prism binary and run that; FnApiRunner is its fallback when it is offline.
    options = ["--runner=FnApiRunner", f"--direct_num_workers={workers}"]
    return options + ["--direct_running_mode=multi_processing"] * (workers != 1)


def _dataflow(parameters: TfxParameters) -> list[str]:
    for flag, value in {"--gcp-project": parameters.gcp_project, "--region": parameters.region}.items():
        if not value:
            raise InvalidInputError(f"{flag}: {DATAFLOW} needs it")
    place = DataflowParameters(
        gcp_project=parameters.gcp_project,
        region=parameters.region,
        dataflow_staging_root=f"{parameters.pipeline_root}/.temp",
    )
    return [f"--runner={DATAFLOW}", *(f"--{name}={value}" for name, value in dataflow_options(place).items())]


def _flink(parameters: TfxParameters) -> list[str]:
    if not any(argument.startswith(("--flink_master", "--job_endpoint")) for argument in parameters.beam_options):
        raise InvalidInputError("--beam-options: FlinkRunner needs --flink_master=HOST:PORT")
    return ["--runner=FlinkRunner"]


_RUNNER_OPTIONS = {DIRECT: _direct, DATAFLOW: _dataflow, "FlinkRunner": _flink}
