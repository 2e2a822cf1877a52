"""The tables of docs/settings.md, written from the classes of parameters that a deployment sets.

python -m tests.settings_page    writes them anew
"""

import json
from pathlib import Path

from beam_jobs.parameters import DataflowParameters
from captionflow.airflow.placement import PlaceParameters
from captionflow.airflow.vertex_pipeline import PipelineSettings
from captionflow.core.parameters import Parameters, variable
from tfx_pipeline.parameters import TfxSettings

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"
TABLES = {
    "training": PlaceParameters, "dataflow": DataflowParameters, "tfx": TfxSettings, "vertex": PipelineSettings,
}  # fmt: skip
_DEFAULTS = {"pipeline_root": "`image_captioning_tfx` in the artifact root"}  # that of the DAG


def table(parameters: type[Parameters]) -> str:
    """Return a table of the environment variables of a class."""
    schemas = parameters.json_schema()
    rows = [
        f"| `{variable(name)}` | {_default(name, schemas[name]['default'])} | {schemas[name]['description']} |"
        for name in sorted(schemas, key=lambda name: name not in parameters.__annotations__)  # its own first
    ]
    return "\n".join(["| variable | default | meaning |", "| --- | --- | --- |", *rows]) + "\n"


def _default(name: str, value: object) -> str:
    if name in _DEFAULTS:
        return _DEFAULTS[name]
    return "" if value in (None, []) else f"`{value if isinstance(value, str) else json.dumps(value)}`"


def page(text: str) -> str:
    """Return the page with its tables as they should be."""
    for name, parameters in TABLES.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
        before, _, rest = text.partition(begin)
        text = before + begin + table(parameters) + end + rest.partition(end)[2]
    return text


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
