"""The most frequent of values that may be too many to hold."""

from collections import Counter
from collections.abc import Iterable


class Frequent:
    """Counts values exactly while they are few; of many it keeps the most frequent.

    It is the summary of Misra and Gries 1982, "Finding repeated elements", cut down as by Agarwal et al. 2012,
    "Mergeable summaries": when there are twice `kept` values, the count of the first that is too many is taken from
    each. So a count is too low by at most `error`, which is at most `total` / (`kept` + 1).
    """

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._counts = Counter[str]()
        self.error = 0
        self.total = 0

    def update(self, values: Iterable[str]) -> None:
        """Count some values."""
        before = len(self._counts)
        values = list(values)
        self._counts.update(values)
        self.total += len(values)
        if before != len(self._counts) > 2 * self._kept:
            self._cut_down()

    def most_common(self, number: int) -> dict[str, int]:
        """Return the most frequent values with their counts, the most frequent first, ties by name."""
        ranked = sorted(self._counts.items(), key=lambda item: (-item[1], item[0]))
        return dict(ranked[:number])

    def _cut_down(self) -> None:
        taken = sorted(self._counts.values(), reverse=True)[self._kept]
        self._counts = Counter({value: count - taken for value, count in self._counts.items() if count > taken})
        self.error += taken
