"""The Beam options of the components' jobs, by runner."""

from captionflow.core.errors import InvalidInputError
from tfx_pipeline.parameters import TfxParameters


def beam_args(parameters: TfxParameters) -> list[str]:
    """Return the options for the chosen runner, the user's own last.

    Raises:
        InvalidInputError: the runner needs something that is not given.
    """
    runner = parameters.runner
    return [*_OF_RUNNER[runner](parameters), *parameters.beam_options]


def _direct(parameters: TfxParameters) -> list[str]:
    workers = parameters.direct_num_workers
    # Left to itself DirectRunner downloads a Prism binary and runs that; this is what it falls back to offline.
    named = ["--runner=FnApiRunner", f"--direct_num_workers={workers}"]
    return named + ["--direct_running_mode=multi_processing"] * (workers != 1)


def _dataflow(parameters: TfxParameters) -> list[str]:
    for flag, value in {"--gcp-project": parameters.gcp_project, "--region": parameters.region}.items():
        if not value:
            raise InvalidInputError(f"{flag}: DataflowRunner needs it")
    return [
        "--runner=DataflowRunner",
        f"--project={parameters.gcp_project}",
        f"--region={parameters.region}",
        f"--temp_location={parameters.pipeline_root}/.temp",
    ]


def _flink(parameters: TfxParameters) -> list[str]:
    if not any(argument.startswith(("--flink_master", "--job_endpoint")) for argument in parameters.beam_options):
        raise InvalidInputError("--beam-options: FlinkRunner needs --flink_master=HOST:PORT")
    return ["--runner=FlinkRunner"]


_OF_RUNNER = {"DirectRunner": _direct, "DataflowRunner": _dataflow, "FlinkRunner": _flink}
