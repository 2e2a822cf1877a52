"""Numbers that functions of a user's own package give to pictures, and the bounds that these must meet.

Which functions there are is up to the deployment: each is an entry point, `name = "module:function"`, of an installed
package. A run names some of them, and can name nothing else.
"""

import math
import threading
from collections.abc import Iterable, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Protocol, SupportsFloat

from PIL import Image

from captionflow.core.errors import InvalidInputError, StepFailedError
from captionflow.core.records import Sample
from captionflow.core.terminal import one_line
from captionflow.images.decode import ImageError, StoredImage, load_stored
from captionflow.preprocess.parameters import PreprocessParameters

GROUP = "captionflow.scorers"
"""The group of the entry points."""

BATCH = 32
"""Pictures that a scorer is given at a time, but for the last of a shard. Equal runs make equal calls."""


class Scorer(Protocol):
    """Gives each picture a number.

    The number must depend on the picture and its captions alone, not on the others of the batch. A process imports a
    scorer once, and calls it from one thread at a time.
    """

    def __call__(self, pictures: list[Image.Image], captions: list[list[str]], /) -> Iterable[SupportsFloat]:
        """Return a finite number for each picture, in their order.

        Args:
            pictures: from 1 to `BATCH`, as they are stored: in RGB, `image_size` pixels high and wide.
            captions: those of each picture, one at least, as they were ingested.
        """
        ...


def find(name: str) -> EntryPoint:
    """Return the entry point of a scorer.

    Raises:
        InvalidInputError: no installed package has one of this name, or several have.
    """
    found = {each.value: each for each in entry_points(group=GROUP, name=name)}
    if not found:
        known = ", ".join(sorted(entry_points(group=GROUP).names)) or "no scorer"
        raise InvalidInputError(
            f"--scorers: {name} is not installed here ({known} is); install a package that has it as an entry point of "
            f"the group {GROUP}"
        )
    if len(found) > 1:
        raise InvalidInputError(f"--scorers: {name} is both {' and '.join(sorted(found))}; uninstall all but one")
    (only,) = found.values()
    return only


def check_installed(names: Iterable[str]) -> None:
    """Raise InvalidInputError if a scorer is not installed; see `find`."""
    for name in names:
        find(name)


def load(name: str) -> Scorer:
    """Import a scorer.

    Raises:
        InvalidInputError: as `find`.
        StepFailedError: the import failed, or what was found cannot be called.
    """
    entry = find(name)
    try:
        scorer: Scorer = entry.load()
    except Exception as error:  # A module may raise anything while it is imported.
        raise _failure(name, f"cannot be imported from {entry.value}: {_in_words(error)}") from error
    if not callable(scorer):
        raise _failure(name, f"{entry.value} is no function")
    return scorer


class Scoring:
    """Scores pictures with the scorers that the parameters name; threads take turns."""

    def __init__(self, parameters: PreprocessParameters) -> None:
        self._names, self._bounds = parameters.scorer_names, parameters.parsed_score_bounds
        self._image_format = parameters.image_format
        self._scorers: dict[str, Scorer] = {}
        self._turn = threading.Lock()

    def __bool__(self) -> bool:
        """Whether there are scorers."""
        return bool(self._names)

    def score(self, samples: Sequence[Sample]) -> list[dict[str, float] | ImageError]:
        """Return for each sample its scores by name, or what is wrong with its picture.

        Raises:
            InvalidInputError: a scorer is not installed.
            StepFailedError: a scorer cannot be imported, fails, or returns something else than a finite number for
                each picture.
        """
        with self._turn:  # decoding, too, so that no more than one batch is in memory
            for name in self._names:
                self._scorers[name] = self._scorers.get(name) or load(name)
            loaded = [self._picture(sample) for sample in samples]
            pictures = [picture for picture in loaded if isinstance(picture, Image.Image)]
            captions = [
                [caption.raw for caption in sample.captions]
                for sample, picture in zip(samples, loaded, strict=True)
                if isinstance(picture, Image.Image)
            ]
            columns = {name: _scores(name, scorer, pictures, captions) for name, scorer in self._scorers.items()}
        rows = (dict(zip(columns, numbers, strict=True)) for numbers in zip(*columns.values(), strict=True))
        return [next(rows) if isinstance(picture, Image.Image) else picture for picture in loaded]

    def refusal(self, scores: dict[str, float]) -> tuple[str, str] | None:
        """Return reason and detail of the first bound that the scores do not meet; None keeps the picture."""
        for bound in self._bounds:
            if detail := bound.refusal(scores[bound.scorer]):
                return bound.reason, detail
        return None

    def _picture(self, sample: Sample) -> Image.Image | ImageError:
        try:
            return load_stored(StoredImage(sample.image, sample.height, sample.width), self._image_format)
        except ImageError as error:
            return error


def _scores(name: str, scorer: Scorer, pictures: list[Image.Image], captions: list[list[str]]) -> list[float]:
    if not pictures:
        return []
    try:
        # Lists of its own: it may change them.
        scores = [float(number) for number in scorer([*pictures], [[*texts] for texts in captions])]
    except Exception as error:  # A user's own code may raise anything.
        raise _failure(name, _in_words(error)) from error
    if len(scores) != len(pictures):
        raise _failure(name, f"returned {len(scores)} numbers for {len(pictures)} pictures")
    if unusable := [number for number in scores if not math.isfinite(number)]:
        raise _failure(name, f"returned {unusable[0]}, which is no finite number")
    return scores


def _failure(name: str, problem: str) -> StepFailedError:
    return StepFailedError(f"scorer {name}: {problem}")


def _in_words(error: Exception) -> str:
    return one_line(f"{type(error).__name__}: {error}")
