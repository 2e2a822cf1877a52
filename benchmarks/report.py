"""The table, the goals and the plot of benchmarks/preprocess.py."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib.pyplot as plt

from benchmarks.measure import Measurement

_HEAD = (
    "| | wall, s | start-up, s | steady images/s | memory, MB | largest process, MB "
    "| requests | fetched, MB | written, MB |"
)


@dataclass(frozen=True)
class Goal:
    """A figure and its bound."""

    name: str
    value: float
    bound: float
    at_least: bool = True

    def __str__(self) -> str:
        met = self.value >= self.bound if self.at_least else self.value <= self.bound
        sign = "≥" if self.at_least else "≤"
        return f"| {self.name} | {self.value:.2f} | {sign} {self.bound:g} | {'met' if met else 'missed'} |"


@dataclass(frozen=True)
class Report:
    """The measurements: medians by case, the processor's limit in images/s, the number of images and the machine."""

    cases: dict[str, Measurement]
    limit: float
    images: int
    machine: str

    def goals(self) -> list[Goal]:
        """Return the ratios of the cases, with their bounds."""
        c = self.cases
        ours, theirs, five = c["ours"], c["img2dataset"], c["ours, five captions"]
        sharded = c["img2dataset, 1,000 a shard"]
        tiny = [c[f"ours, {n} tiny"] for n in (500, 5_000, 50_000)]
        return [
            Goal("images/s ÷ img2dataset's", ours.steady / theirs.steady, 2.2),
            Goal("images/s ÷ img2dataset's with 1,000 a shard", ours.steady / sharded.steady, 1),
            Goal("wall time ÷ img2dataset's", ours.wall / theirs.wall, 0.5, at_least=False),
            Goal("wall time of 500 images ÷ img2dataset's", c["ours, few"].wall / c["img2dataset, few"].wall, 1, False),
            Goal("images/s ÷ the processor's limit", ours.steady / self.limit, 0.85),
            Goal("images/s ÷ Beam documentation's", ours.steady / c["Beam documentation"].steady, 12),
            Goal("the same, five captions an image", five.steady / c["Beam documentation, five captions"].steady, 40),
            Goal("requests ÷ images, five captions", five.requests / self.images, 1, at_least=False),
            Goal("bytes written ÷ img2dataset's", five.written_mb / theirs.written_mb, 1.05, at_least=False),
            Goal("images/s, 2 CPUs ÷ 1", ours.steady / c["ours, one CPU"].steady, 1.8),
            Goal("images/s at 50 ms latency ÷ at none", c["ours, 50 ms latency"].steady / ours.steady, 0.95),
            Goal(
                "largest process, MB",
                max(m.peak_process_mb for name, m in c.items() if name.startswith("ours")),
                400,
                at_least=False,
            ),
            Goal("memory, 5,000 ÷ 500 images", tiny[1].peak_mb / tiny[0].peak_mb, 1.1, at_least=False),
            Goal("memory, 50,000 ÷ 5,000 images", tiny[2].peak_mb / tiny[1].peak_mb, 1.1, at_least=False),
            Goal("time for an image, 50,000 ÷ 5,000", tiny[1].steady / tiny[2].steady, 1.1, at_least=False),
        ]

    def text(self) -> str:
        """Return the table and the goals as Markdown."""
        rows = [
            f"| {name} | {m.wall:.1f} | {m.startup:.1f} | {m.steady:.0f} | {m.peak_mb:.0f} | {m.peak_process_mb:.0f} "
            f"| {m.requests:.0f} | {m.fetched_mb:.0f} | {m.written_mb:.1f} |"
            for name, m in self.cases.items()
        ]
        limit = f"| the processor's limit | | | {self.limit:.0f} | | | | | |"
        goals = map(str, self.goals())
        return "\n".join(
            [
                f"{self.images:,} images; {self.machine}. Medians.",
                "",
                _HEAD,
                "| --- " * _HEAD.count(" |") + "|",
                *rows,
                limit,
                "",
                "| ratio | seen | goal | |",
                "| --- | --- | --- | --- |",
                *goals,
                "",
            ]
        )

    def save(self, folder: Path) -> None:
        """Write table, figures and plot."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "preprocess.md").write_text(self.text())
        figures = {name: asdict(m) for name, m in self.cases.items()} | {"limit": self.limit, "machine": self.machine}
        (folder / "preprocess.json").write_text(json.dumps(figures, indent=2) + "\n")
        names = ["Beam documentation, five captions", "Beam documentation", "img2dataset", "img2dataset, 1,000 a shard"]
        bars = {name: self.cases[name].steady for name in [*names, "ours, five captions", "ours"]}
        bars["the processor's limit"] = self.limit
        figure, axes = plt.subplots(figsize=(8, 3.2), layout="constrained")
        colours = ["#2a7f62" if "ours" in name else "#c9c9c9" if "limit" in name else "#8a8a8a" for name in bars]
        axes.bar_label(axes.barh(list(bars), list(bars.values()), color=colours), fmt="%.0f", padding=3)
        axes.set_xlabel("images a second, after start-up")
        axes.set_title(f"{self.images:,} images; {self.machine}", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(folder / "preprocess.png", dpi=110)
