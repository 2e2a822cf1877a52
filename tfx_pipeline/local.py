"""Run the pipeline on this machine, in this process, one component after the other."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from absl import logging as absl_logging
from tfx.orchestration.local.local_dag_runner import LocalDagRunner

from captionflow.core.errors import CaptionFlowError, StepFailedError
from captionflow.core.uris import is_local
from tfx_pipeline.logs import Formatter
from tfx_pipeline.metadata import password
from tfx_pipeline.parameters import TfxParameters
from tfx_pipeline.pipeline import create_pipeline

LOG_FILE = "tfx.log"
_LOG = logging.getLogger(__name__)


def run(parameters: TfxParameters, metadata: str) -> None:
    """Run all components. If the pipeline's root is a local folder, TFX's log goes to `tfx.log` in it.

    Raises:
        StepFailedError: a component failed; the message names it.
    """
    pipeline = create_pipeline(parameters, metadata)
    progress = _Progress(len(pipeline.components))
    with _log_to_file(parameters.pipeline_root, progress, password(metadata)):
        try:
            LocalDagRunner().run(pipeline)
        except CaptionFlowError:
            raise
        except Exception as error:  # Whatever a component raises.
            _LOG.debug("%s failed", progress.component, exc_info=error)
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise StepFailedError(
                f"{progress.component}: {reason}; more in {LOG_FILE} in the pipeline's root"
            ) from error


@contextmanager
def _log_to_file(root: str, progress: logging.Handler, secret: str) -> Iterator[None]:
    file = logging.FileHandler(Path(root, LOG_FILE)) if is_local(root) else logging.NullHandler()
    file.setFormatter(Formatter("%(asctime)s %(levelname)s %(name)s %(message)s", secret))
    logger, before = logging.getLogger(), logging.getLogger().handlers
    absl_logging.set_verbosity(absl_logging.INFO)
    _LOG.setLevel(logging.DEBUG)
    logger.handlers = [file]
    absl_logging.get_absl_logger().addHandler(progress)
    try:
        yield
    finally:
        absl_logging.get_absl_logger().removeHandler(progress)
        logger.handlers = before
        file.close()


class _Progress(logging.Handler):
    """Follows the log of TFX's runner, and logs each component that is done."""

    component = "pipeline"

    def __init__(self, total: int) -> None:
        super().__init__(logging.INFO)
        self._total, self._done, self._began = total, 0, 0.0

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg == "Component %s is running." and isinstance(record.args, tuple):
            self.component, self._began = str(record.args[0]), time.monotonic()
        elif record.msg == "Component %s is finished.":
            self._done += 1
            seconds = time.monotonic() - self._began
            _LOG.info("[%d/%d] %s: done in %.1f s", self._done, self._total, self.component, seconds)
