"""Run one component in a process of TFX's environment: the request is JSON on stdin, the answer a JSON file.

    python -m tfx_pipeline.task < request.json

The request: {"component": ID, "parameters": {…}, "run_id": ID, "answer": FILE}.
The answer: {"outputs": {NAME: [URI, …]}}, or {"error": MESSAGE, "retry": BOOL} and an exit code that is not 0.
"""

import json
import logging
import sys
from pathlib import Path
from typing import Any

from captionflow.core.errors import CaptionFlowError, StoreError
from captionflow.core.parent import end_with_parent
from tfx_pipeline.environment import check_tfx
from tfx_pipeline.logs import Formatter, silence_libraries
from tfx_pipeline.parameters import TfxParameters, metadata_location


def main() -> int:
    """Run the component that the request names; returns the exit code."""
    end_with_parent()
    request = json.load(sys.stdin)
    answer, code = _run(request["component"], TfxParameters.from_mapping(request["parameters"]), request["run_id"])
    unfinished = Path(request["answer"] + ".part")
    unfinished.write_text(json.dumps(answer))
    unfinished.replace(request["answer"])
    return code


def _run(component: str, parameters: TfxParameters, run_id: str) -> tuple[dict[str, Any], int]:
    try:
        check_tfx()
        _log_to_stderr(metadata_location(parameters))
        from tfx_pipeline.component_run import run_component

        return {"outputs": run_component(component, parameters, run_id)}, 0
    except CaptionFlowError as error:
        return {"error": str(error), "retry": isinstance(error, StoreError)}, error.exit_code
    except Exception as error:  # A component may raise anything. The log leaves the password out.
        logging.getLogger(__name__).exception("%s failed", component)
        return {"error": f"{component}: {type(error).__name__}; its traceback is above", "retry": True}, 1


def _log_to_stderr(metadata: str) -> None:
    silence_libraries()
    from absl import logging as absl_logging

    from tfx_pipeline.metadata import password

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter("%(levelname)s:%(name)s:%(message)s", password(metadata)))
    logging.getLogger().handlers = [handler]
    logging.getLogger().setLevel(logging.INFO)
    absl_logging.use_python_logging()
    absl_logging.set_verbosity(absl_logging.INFO)


if __name__ == "__main__":
    sys.exit(main())
