"""The page of a dataset: one HTML file that holds its pictures and styles."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from captionflow.core.lineage import short
from captionflow.core.records import SPLITS
from captionflow.core.show import chosen
from captionflow.core.steps import PREPROCESSED
from captionflow.pages.rendering import data_uri, number, render
from captionflow.preprocess.parameters import PreprocessParameters
from captionflow.preprocess.shards import IMAGES, READ, ShardInfo
from captionflow.preprocess.statistics import (
    FAILED_HOSTS,
    HISTOGRAMS,
    LICENSES,
    OTHERS,
    REJECTED_CAPTIONS,
    REJECTED_IMAGES,
    ShownPicture,
    Statistics,
    most_common,
)

# Rows of a table: they bound the page.
_MOST_REASONS, _MOST_NAMES = 40, 20
# In the order in which a caption meets them; others come after.
_STAGES = (READ, "licenses", "filters", "captions", IMAGES)


@dataclass(frozen=True)
class Split:
    """What the shards of a split hold together."""

    name: str
    counts: Counter[str]
    statistics: Statistics

    def numbers(self, name: str) -> dict[str, int]:
        """Return what was counted under a name."""
        return self.statistics.numbers.get(name, {})

    def __add__(self, other: "Split") -> "Split":
        """Return this split with more shards."""
        return Split(self.name, self.counts + other.counts, Statistics.merged([self.statistics, other.statistics]))


@dataclass(frozen=True)
class Bar:
    """A row of a waterfall: what came, was lost or is left, in each split; its bar, in percent of what came."""

    kind: str
    stage: str
    reason: str
    numbers: list[int]
    start: float
    width: float


def by_split(infos: Iterable[ShardInfo]) -> list[Split]:
    """Return the sums of shards, a split each; their order has no effect."""
    shards: dict[str, list[ShardInfo]] = {}
    for info in infos:
        shards.setdefault(info.split, []).append(info)
    return [
        Split(
            split,
            sum((Counter(info.counts) for info in shards[split]), Counter()),
            Statistics.merged(info.statistics for info in shards[split]),
        )
        for split in SPLITS
        if split in shards
    ]


def dataset_page(
    splits: Sequence[Split], parameters: PreprocessParameters, duplicates: Sequence[Sequence[ShownPicture]] = ()
) -> str:
    """Return the page as HTML; captions and all other text are escaped.

    Args:
        duplicates: groups to show side by side.
    """
    return render(
        str(__package__),
        "dataset.html.j2",
        splits=splits,
        totals=_totals(splits),
        waterfalls={
            "Captions": _waterfall(splits, "captions", REJECTED_CAPTIONS),
            "Images": _waterfall(splits, "images", REJECTED_IMAGES),
        },
        charts={histogram.title: _chart(splits, histogram.name, histogram.labels) for histogram in HISTOGRAMS},
        licenses=_rows(splits, LICENSES, _MOST_NAMES),
        failed_hosts=[
            (*each.partition(" ")[::2], numbers) for each, numbers in _rows(splits, FAILED_HOSTS, _MOST_NAMES).items()
        ],
        duplicates=[
            [(one, data_uri(one.picture, "jpeg") if one.picture else "") for one in group] for group in duplicates
        ],
        chosen={name: short(value) for name, value in chosen(PREPROCESSED, parameters.to_json()).items()},
        parameters=parameters,
    )


def _totals(splits: Sequence[Split]) -> dict[str, str]:
    images, captions = (sum(split.counts[f"{unit}_out"] for split in splits) for unit in ("images", "captions"))
    of_split = {split.name: split.counts["images_out"] for split in splits}
    return {title: number(count) for title, count in {"pictures": images, "captions": captions, **of_split}.items()}


def _rows(splits: Sequence[Split], name: str, most: int) -> dict[str, list[int]]:
    """Return what was counted under a name → how often in each split, the most frequent first, the rest as one."""
    named = most_common(sum((Counter(split.numbers(name)) for split in splits), Counter()), most)
    rows = {each: [split.numbers(name).get(each, 0) for split in splits] for each in named}
    if OTHERS in rows:
        named.pop(OTHERS)
        rows[OTHERS] = [
            sum(count for each, count in split.numbers(name).items() if each not in named) for split in splits
        ]
    return rows


def _waterfall(splits: Sequence[Split], unit: str, rejected: str) -> list[Bar]:
    came, left = ([split.counts[f"{unit}_{end}"] for split in splits] for end in ("in", "out"))
    percent = 100 / max(1, sum(came))
    bars = [Bar("in", "", "", came, 0.0, 100.0 * bool(sum(came)))]
    end = sum(came)
    for name, numbers in sorted(_rows(splits, rejected, _MOST_REASONS).items(), key=_by_stage):
        end -= sum(numbers)
        stage, _, reason = name.partition(" ")
        bars.append(Bar("loss", stage, reason, numbers, end * percent, sum(numbers) * percent))
    return [*bars, Bar("out", "", "", left, 0.0, sum(left) * percent)]


def _by_stage(row: tuple[str, list[int]]) -> tuple[int, int, str]:
    name, numbers = row
    stage = name.partition(" ")[0]
    return _STAGES.index(stage) if stage in _STAGES else len(_STAGES), -sum(numbers), name


def _chart(splits: Sequence[Split], name: str, labels: list[str]) -> list[tuple[str, list[tuple[int, float]]]]:
    """Return the bins from the first to the last that holds something: number and percentage in each split."""
    totals = [max(1, sum(split.numbers(name).values())) for split in splits]
    rows = [(label, [split.numbers(name).get(str(place), 0) for split in splits]) for place, label in enumerate(labels)]
    filled = [place for place, (_, numbers) in enumerate(rows) if any(numbers)]
    return [
        (label, [(count, 100 * count / total) for count, total in zip(numbers, totals, strict=True)])
        for label, numbers in (rows[filled[0] : filled[-1] + 1] if filled else [])
    ]
