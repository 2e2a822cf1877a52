"""What runs pipelines: the form that Kubeflow and Vertex AI share, and how the end of a run is waited for."""

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
    """How a run is: one word in lower case, and what is said of what failed."""

    word: str
    failure: str = ""


class PassingError(InvalidInputError):
    """What may be otherwise in a moment."""


class Service(ABC):
    """What runs a pipeline.

    Raises:
        InvalidInputError: it cannot be reached, refuses, or is no such service; in every method.
    """

    @abstractmethod
    def submit(self, submission: Submission) -> None:
        """Start a run."""

    @property
    @abstractmethod
    def url(self) -> str:
        """Where the run is seen in a browser."""

    @abstractmethod
    def look(self) -> RunState:
        """Ask how the run is."""

    def wait(self) -> None:
        """Wait for the end of the run; the states it goes through are logged.

        Raises:
            StepFailedError: it did not succeed.
        """
        state, pauses = self._look(), _pauses()
        _LOG.info("run: %s", state.word)
        while state.word not in _ENDED:
            time.sleep(next(pauses))
            before, state = state, self._look()
            if state != before:
                _LOG.info("run: %s", state.word)
        if state.word != _SUCCEEDED:
            said = f" ({state.failure})" if state.failure else ""
            raise StepFailedError(f"the run ended as {state.word}{said}; see {self.url}")

    def _look(self) -> RunState:
        """A service that is away for a moment is asked again."""
        pauses = _pauses()
        for _ in range(_FAILURES_IN_A_ROW):
            try:
                return self.look()
            except PassingError as error:
                _LOG.info("%s; trying again", error)
                time.sleep(next(pauses))
        return self.look()


def first_line(error: object) -> str:
    """Return the first line of what an error says, or what it is if it says nothing."""
    return one_line(next(iter(str(error).strip().splitlines()), type(error).__name__))


def _pauses() -> Iterator[float]:
    """Yield seconds between one question and the next."""
    pause = _FIRST_PAUSE
    while True:
        yield pause
        pause = min(2 * pause, _LONGEST_PAUSE)
