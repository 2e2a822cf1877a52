"""Scores that can be checked by hand, and a report that stands alone and trusts no caption."""

import json
import re
from pathlib import Path

import pytest

from beam_jobs.preprocess import run
from captionflow.core.artifact import open_artifact
from captionflow.core.errors import InvalidInputError
from captionflow.core.records import Caption, Sample
from captionflow.evaluation.evaluate import Prediction, evaluate, score
from captionflow.evaluation.parameters import EvaluateParameters
from captionflow.evaluation.report import Exhibit, write_report
from captionflow.preprocess.parameters import PreprocessParameters

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


def test_an_empty_prediction_scores_nothing() -> None:
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


def test_an_evaluation_counts_every_test_picture_and_shows_some(model: str, trainable: str, tmp_path: Path) -> None:
    uri = evaluate(model, trainable, str(tmp_path / "evaluation"), EvaluateParameters(gallery_size=1))
    artifact = open_artifact(uri, "evaluation")
    test_images = open_artifact(trainable).manifest.counts["splits"]["test"]
    assert len(artifact.read("predictions.jsonl").splitlines()) == test_images > 2
    assert json.loads(artifact.read("metrics.json")) == artifact.manifest.metrics
    html = artifact.read("report.html").decode()
    assert html.count('<div class="card">') == 2
    assert trainable in html


def test_data_may_be_stored_in_another_form_but_not_size(
    model: str, ingested: str, small_sample: Path, tmp_path: Path
) -> None:
    def data(**changes: object) -> str:
        parameters = PreprocessParameters(
            **{"allow_url_prefix": (str(small_sample),), "image_size": 64, "split": "0,0,1", **changes}
        )
        return run(ingested, str(tmp_path / "data"), parameters, [])

    other = data(image_format="tensor")
    html = open_artifact(evaluate(model, other, str(tmp_path / "out"), EvaluateParameters())).read("report.html")
    assert other in html.decode()
    with pytest.raises(InvalidInputError, match="preprocess with --image-size 64"):
        evaluate(model, data(image_size=32), str(tmp_path / "out"), EvaluateParameters())
