"""The interface that Kubeflow and Vertex AI share, and waiting for the end of a run."""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

from captionflow.core.errors import InvalidInputError, StepFailedError
from captionflow.core.terminal import one_line
from kfp_pipeline.submission import Submission

_LOG = logging.getLogger(__name__)

_SUCCEEDED = "succeeded"
_ENDED = (_SUCCEEDED, "failed", "skipped", "cancelled", "canceled")
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 15.0
_FAILURES_IN_A_ROW = 5


@dataclass(frozen=True)
class RunState:
    """The state of a run: its name in lower case, and why the run failed."""

    name: str
    failure: str = ""


class TransientError(InvalidInputError):
    """The service cannot be reached for now; asking again may help."""


class Service(ABC):
    """Runs a pipeline.

    Raises:
        InvalidInputError: from every method, when the service cannot be reached, refuses or is none of this kind.
    """

    @abstractmethod
    def submit(self, submission: Submission) -> None:
        """Start a run."""

    @property
    @abstractmethod
    def url(self) -> str:
        """The page of the run."""

    @abstractmethod
    def state(self) -> RunState:
        """Ask for the state of the run."""

    def wait(self) -> None:
        """Wait for the end of the run, and log each change of its state.

        Raises:
            StepFailedError: it did not succeed.
        """
        state, pauses = self._state(), _pauses()
        _LOG.info("run: %s", state.name)
        while state.name not in _ENDED:
            time.sleep(next(pauses))
            before, state = state, self._state()
            if state != before:
                _LOG.info("run: %s", state.name)
        if state.name != _SUCCEEDED:
            reason = f" ({state.failure})" if state.failure else ""
            raise StepFailedError(f"the run ended as {state.name}{reason}; see {self.url}")

    def _state(self) -> RunState:
        """Ask for the state of the run; ask again after a transient error."""
        pauses = _pauses()
        for _ in range(_FAILURES_IN_A_ROW):
            try:
                return self.state()
            except TransientError as error:
                _LOG.info("%s; trying again", error)
                time.sleep(next(pauses))
        return self.state()


def first_line(error: object) -> str:
    """Return the first line of an error's message, or the name of its class if it has none."""
    return one_line(next(iter(str(error).strip().splitlines()), type(error).__name__))


def _pauses() -> Iterator[float]:
    """Yield the seconds to wait before each further request."""
    pause = _FIRST_PAUSE
    while True:
        yield pause
        pause = min(2 * pause, _LONGEST_PAUSE)
