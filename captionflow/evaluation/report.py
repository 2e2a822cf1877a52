"""The evaluation report: one HTML file that holds all its images and styles."""

import io
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from PIL import Image

from captionflow.captioner.dataset import to_tensor
from captionflow.core.records import Sample
from captionflow.images.formats import IMAGE_FORMATS
from captionflow.pages.rendering import data_uri, render

# Pixels: twice the width of a card of the gallery.
_WIDEST = 448
_TITLES = {
    "bleu_1": "BLEU-1",
    "bleu_2": "BLEU-2",
    "bleu_3": "BLEU-3",
    "bleu_4": "BLEU-4",
    "rouge_l": "ROUGE-L",
    "cider": "CIDEr",
    "exact_match": "exact match",
}


@dataclass(frozen=True)
class Exhibit:
    """A picture of the gallery with its captions and scores."""

    sample: Sample
    image_format: str
    prediction: str
    references: list[str]
    bleu_4: float
    cider: float

    @property
    def exact(self) -> bool:
        """Whether the prediction is one of the references, word for word."""
        return self.prediction in self.references

    @property
    def data_uri(self) -> str:
        """The picture as a `data:` URI, scaled down to the size of the gallery."""
        image, kind = self.sample.image, self.image_format
        if IMAGE_FORMATS[kind].pillow is None or self.sample.width > _WIDEST:
            image, kind = _thumbnail(self.sample, kind), "png"
        return data_uri(image, kind)


def write_report(
    *,
    metrics: dict[str, float],
    history: list[dict[str, Any]],
    best: list[Exhibit],
    worst: list[Exhibit],
    counts: dict[str, Any],
    lineage: str,
) -> str:
    """Return the report as HTML; captions and all other text are escaped."""
    return render(
        str(__package__),
        "report.html.j2",
        metrics={_TITLES[name]: f"{value:.3f}" for name, value in metrics.items()},
        curve=training_curve(history),
        best=best,
        worst=worst,
        counts=counts,
        lineage=lineage,
    )


def training_curve(history: list[dict[str, Any]]) -> str:
    """Return the losses of a training, in nats a token by epoch, as an SVG element."""
    figure = Figure(figsize=(7, 2.8), layout="constrained")
    axes = figure.subplots()
    epochs = [row["epoch"] for row in history]
    axes.plot(epochs, [row["train_loss"] for row in history], label="train (label-smoothed)", color="#9aa5b1")
    axes.plot(epochs, [row["val_loss"] for row in history], label="validation", color="#2563eb")
    best = min(history, key=lambda row: row["val_loss"])
    axes.plot(best["epoch"], best["val_loss"], "o", color="#2563eb", label=f"kept: epoch {best['epoch']}")
    axes.set(xlabel="epoch", ylabel="nats a token")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    buffer = io.StringIO()
    # Without a date and random ids the same history gives the same bytes.
    with matplotlib.rc_context({"svg.hashsalt": "captionflow"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()[buffer.getvalue().index("<svg") :]


def _thumbnail(sample: Sample, image_format: str) -> bytes:
    pixels = to_tensor(sample.image, image_format, sample.height, sample.width)
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    image.thumbnail((_WIDEST, _WIDEST))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
