"""The graph of the pipeline's components, read from a file: a DAG file is parsed often, and TFX imports slowly.

    python -m tfx_pipeline.topology

builds the real pipeline and writes the file anew.
"""

import json
from pathlib import Path

from tfx_pipeline.parameters import TfxParameters

_FILE = Path(__file__).with_name("topology.json")


def topology() -> dict[str, list[str]]:
    """Return component → the components it waits for, in an order in which the components can run."""
    upstream: dict[str, list[str]] = json.loads(_FILE.read_bytes())
    return upstream


def topology_of_pipeline() -> dict[str, list[str]]:
    """Build the real pipeline and return its topology."""
    from tfx_pipeline.pipeline import create_pipeline

    components = create_pipeline(TfxParameters(csv="captions.csv"), metadata=None).components
    return {component.id: sorted(node.id for node in component.upstream_nodes) for component in components}


def main() -> None:
    """Write the file that `topology` reads."""
    _FILE.write_text(json.dumps(topology_of_pipeline(), indent=2) + "\n")


if __name__ == "__main__":
    main()
