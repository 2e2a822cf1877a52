"""Dataflow's options, as Beam calls them."""

from beam_jobs.parameters import DataflowParameters

_NAMES = {
    "gcp_project": "project",
    "region": "region",
    "dataflow_staging_root": "temp_location",
    "dataflow_service_account": "service_account_email",
    "dataflow_worker_image": "sdk_container_image",
}


def dataflow_options(parameters: DataflowParameters) -> dict[str, str]:
    """Return Beam's options by name, without those that are not given."""
    values = {beams: getattr(parameters, ours) for ours, beams in _NAMES.items()}
    return {name: value for name, value in values.items() if value}
