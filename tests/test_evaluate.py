"""Scores that can be checked by hand, and a report that stands alone and trusts no caption."""

import json
import re
from pathlib import Path

import pytest

from captionflow.evaluate import Prediction, score
from captionflow.records import Caption, Sample
from captionflow.report import Exhibit, write_report

REFERENCES = ["a red circle above a blue square", "a blue square below a red circle"]


def predictions(*texts: str) -> list[Prediction]:
    return [Prediction(i, f"http://x/{i}", text, REFERENCES) for i, text in enumerate(texts)]


def test_a_perfect_prediction_scores_one() -> None:
    metrics, scored = score(predictions(REFERENCES[0], REFERENCES[1]))
    for name in ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "exact_match"):
        assert metrics[name] == pytest.approx(1.0)
    assert all(p.bleu_4 == pytest.approx(1.0) for p in scored)


def test_bleu_1_is_clipped_unigram_precision() -> None:
    # "a a a a a a a": seven words, of which a reference holds "a" twice.
    metrics, _ = score(predictions("a a a a a a a"))
    assert metrics["bleu_1"] == pytest.approx(2 / 7)
    assert metrics["exact_match"] == 0


def test_nothing_said_scores_nothing() -> None:
    metrics, _ = score(predictions("", REFERENCES[0]))
    assert metrics["exact_match"] == 0.5
    assert metrics["bleu_4"] < 1


def report(tmp_path: Path, text: str) -> str:
    sample = Sample(1, (Caption(1, text),), bytes(3 * 4 * 4), 4, 4, "http://x/1", "Attribution License")
    html = write_report(
        metrics={"bleu_4": 0.5, "cider": 1.25},
        history=[{"epoch": 1, "train_loss": 2.0, "val_loss": 1.5}],
        best=[Exhibit(sample, "tensor", text, [text], 1.0, 2.0)],
        worst=[],
        counts=json.loads(
            '{"splits": {"test": 1, "train": 8, "val": 1}, "images": {"out": 10}, "captions": {"in": 50, "out": 49}}'
        ),
        lineage=text,
    )
    (tmp_path / "report.html").write_text(html)
    return html


def test_the_report_needs_nothing_beside_it(tmp_path: Path) -> None:
    html = report(tmp_path, "a dog")
    assert re.findall(r'src="([a-z/]+:[a-z/]+)', html) == ["data:image/png"]
    assert not re.search(r'(src|href)="(http|/)', html)
    assert "<script" not in html
    assert "0.500" in html
    assert "BLEU-4" in html
    assert "<svg" in html


def test_a_caption_cannot_write_html(tmp_path: Path) -> None:
    html = report(tmp_path, "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>")
    assert "<script>" not in html
    assert "<img src=x" not in html


def test_the_same_evaluation_gives_the_same_report(tmp_path: Path) -> None:
    assert report(tmp_path, "a dog") == report(tmp_path, "a dog")
