"""Where the steps run that can be Beam jobs, and all their parameters."""

from dataclasses import dataclass
from typing import Literal

from captionflow.core.parameters import Parameters, parameter
from captionflow.preprocess.parameters import PreprocessParameters, ReuseParameters
from captionflow.sources.parameters import IngestParameters

DIRECT, DATAFLOW = "DirectRunner", "DataflowRunner"
NO_RUNNER = "none"
Runner = Literal["DirectRunner", "DataflowRunner", "FlinkRunner", "SparkRunner"]


@dataclass(frozen=True, kw_only=True)
class DataflowParameters(Parameters):
    """Where a Dataflow job runs, and as whom."""

    gcp_project: str | None = parameter(None, "Google Cloud project of a Dataflow job.", placement=True)
    region: str | None = parameter(None, "Google Cloud region of a Dataflow job, such as europe-west4.", placement=True)
    dataflow_staging_root: str | None = parameter(
        None, "Folder in Cloud Storage for the temporary files of a Dataflow job.", placement=True
    )
    dataflow_service_account: str | None = parameter(
        None,
        "E-mail of the service account that Dataflow's workers act as; the project's default one if empty.",
        placement=True,
    )
    dataflow_worker_image: str | None = parameter(
        None,
        "Image of Dataflow's workers: Beam's own with this package in it, so that a job starts without installing.",
        placement=True,
    )


@dataclass(frozen=True, kw_only=True)
class BeamOptions(Parameters):
    """How a Beam job runs."""

    beam_options: tuple[str, ...] = parameter(
        (),
        "Further Beam options, such as --max_num_workers=20.",
        placement=True,
        common=True,
    )


@dataclass(frozen=True, kw_only=True)
class RunnerParameters(Parameters):
    """Where the preprocess job runs."""

    runner: Literal[Runner] = parameter(
        DIRECT,
        "Where the preprocess job runs; DirectRunner is the machine that starts it.",
        placement=True,
        common=True,
    )


@dataclass(frozen=True, kw_only=True)
class IngestRunnerParameters(Parameters):
    """Where ingest runs."""

    ingest_runner: Literal["none", Runner] = parameter(
        NO_RUNNER,
        "Where ingest runs as a Beam job, for more ids than one machine can hold; none reads all sources in one "
        "process, the quickest way on one machine.",
        placement=True,
    )


@dataclass(frozen=True, kw_only=True)
class BeamParameters(BeamOptions, RunnerParameters, DataflowParameters):
    """Where and how the preprocess job runs."""


@dataclass(frozen=True, kw_only=True)
class IngestJobParameters(BeamOptions, IngestRunnerParameters, DataflowParameters, IngestParameters):
    """The parameters of the step `ingest`; the fields are those of the bases, the last first."""


@dataclass(frozen=True, kw_only=True)
class JobParameters(BeamParameters, ReuseParameters, PreprocessParameters):
    """The parameters of the step `preprocess`; the fields are those of the bases, the last first."""
