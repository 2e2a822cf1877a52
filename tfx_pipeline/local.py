"""Run the pipeline on this machine, in this process, one component after the other."""

import logging
import time
from collections.abc import Callable

from absl import logging as absl_logging
from tfx.orchestration.local.local_dag_runner import LocalDagRunner

from tfx_pipeline.parameters import TfxParameters
from tfx_pipeline.pipeline import create_pipeline


def run(parameters: TfxParameters, metadata: str, tell: Callable[[str], None]) -> None:
    """Run all components; `tell` hears of each as it begins and ends."""
    pipeline = create_pipeline(parameters, metadata)
    listener = _Listener(tell, len(pipeline.components))
    absl_logging.set_verbosity(absl_logging.INFO)
    logger = absl_logging.get_absl_logger()
    logger.addHandler(listener)
    try:
        LocalDagRunner().run(pipeline)
    finally:
        logger.removeHandler(listener)


class _Listener(logging.Handler):
    """Hears in the log of TFX's runner which component it is at."""

    def __init__(self, tell: Callable[[str], None], total: int) -> None:
        super().__init__(logging.INFO)
        self._tell, self._total, self._done, self._began = tell, total, 0, 0.0

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg == "Component %s is running.":
            self._began = time.monotonic()
        elif record.msg == "Component %s is finished.":
            self._done += 1
            self._tell(f"[{self._done}/{self._total}] {record.args[0]}  {time.monotonic() - self._began:.1f} s")
