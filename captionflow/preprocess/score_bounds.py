"""Bounds of scores, as a user gives them: `clip>=0.28`."""

import math
import re
from dataclasses import dataclass

from captionflow.core.errors import InvalidInputError

SCORER_NAME = re.compile("[a-z][a-z0-9_]{0,39}")
_BOUND = re.compile(rf"({SCORER_NAME.pattern})(>=|<=)(-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)")


@dataclass(frozen=True, slots=True)
class ScoreBound:
    """The least score that is kept (`>=`), or the most (`<=`)."""

    scorer: str
    sign: str
    number: float

    @classmethod
    def parse(cls, text: str) -> "ScoreBound":
        """Read `NAME>=NUMBER` or `NAME<=NUMBER`.

        Raises:
            InvalidInputError: it is neither, or the number is too large for a double.
        """
        found = _BOUND.fullmatch(text)
        if not found or not math.isfinite(float(found[3])):
            raise InvalidInputError(
                f"--score-bounds: {text[:100]!r} is no bound; give the name of a scorer, >= or <=, and a number, "
                "without spaces, as clip>=0.28"
            )
        return cls(found[1], found[2], float(found[3]))

    @property
    def reason(self) -> str:
        """The reason of its Rejects."""
        return f"score_{self.scorer}"

    def refusal(self, score: float) -> str | None:
        """Return the score and the bound that it does not meet, as a text; None keeps the picture."""
        if self.sign == ">=":
            return f"{score:g} is below {self.number:g}" if score < self.number else None
        return f"{score:g} is above {self.number:g}" if score > self.number else None
