"""Hostile text in what others made: it is shown on a terminal and in the report, and acts on neither."""

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from captionflow.core.artifact import Manifest, Parent
from captionflow.core.lineage import lineage, render
from captionflow.core.records import Sample
from captionflow.core.steps import EVALUATION, INGESTED, MODEL, PREPROCESSED
from captionflow.evaluation.report import Exhibit, training_curve
from captionflow.images.decode import encode
from tests.processes import captionflow

pytestmark = pytest.mark.security

# Clears the screen, sets the window's title, turns the writing round, forges a line, cannot be encoded.
HOSTILE = "\x1b[2J\x1b]0;owned\x07\x9b2J\u202egpj\r\nsha256 forged\u2028\ud800"
ACTS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029\ud800-\udfff]")


def forge(folder: Path, kind: str, parents: tuple[Parent, ...] = (), **sections: Any) -> Parent:
    """Write the manifest of an artifact without files, as nobody's code would; returns it as a parent."""
    values = {"parameters": {}, "code_version": "1", "counts": {}, "metrics": {}, "run": {}} | sections
    listed = [vars(parent) for parent in parents]
    data = json.dumps({"kind": kind, "parents": listed, "files": [], **values}).encode()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_bytes(data)
    return Parent(kind, str(folder), Manifest.from_json(data).sha256)


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    parents = (Parent("source", HOSTILE, HOSTILE), Parent(HOSTILE, "gs-like", "00"))
    forge(
        tmp_path / "one", HOSTILE, parents,
        parameters={HOSTILE: HOSTILE, "list": [HOSTILE]}, code_version=HOSTILE, counts={"a": {HOSTILE: HOSTILE}},
        metrics={HOSTILE: 1.0}, run={"committed_at": HOSTILE},
    )  # fmt: skip
    return tmp_path / "one"


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_lineage_shows_hostile_text_and_obeys_none(hostile: Path, form: tuple[str, ...]) -> None:
    done = captionflow("lineage", str(hostile), *form)
    assert done.returncode == 0, done.stderr
    assert not ACTS.search(done.stdout)
    assert r"\u001b[2J" in done.stdout
    assert not [line for line in done.stdout.splitlines() if line.startswith("sha256 forged")]
    if form:
        assert json.loads(done.stdout)["code_version"] == HOSTILE


def test_an_error_about_hostile_text_is_one_line(hostile: Path) -> None:
    for command in (["evaluate", "--model", str(hostile), "--preprocessed", str(hostile)],
                    ["preprocess", "--ingested", str(hostile)]):  # fmt: skip
        done = captionflow(*command, "--output", str(hostile.parent / "out"))
        assert done.returncode == 2
        assert not ACTS.search(done.stderr)
        assert len(done.stderr.splitlines()) == 1


def test_a_summary_shows_hostile_text_and_obeys_none(tmp_path: Path) -> None:
    captions = {"captions": {"in": 3, "out": 2, "rejected": 1}}
    forge(tmp_path / INGESTED, INGESTED, counts=captions)
    forge(tmp_path / PREPROCESSED, PREPROCESSED, counts=captions)
    forge(tmp_path / MODEL, MODEL, counts={"epochs": 2, "best_epoch": 1, "weights": 1, "stopped_by": HOSTILE})
    forge(tmp_path / EVALUATION, EVALUATION, counts={"images": 1}, metrics={HOSTILE: 0.5})
    done = captionflow("summary", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert not ACTS.search(done.stdout)
    assert len(done.stdout.splitlines()) == 6


def test_plain_text_of_any_language_stays(tmp_path: Path) -> None:
    forge(tmp_path / "one", "thing", parameters={"words": "naïve 一只猫 שלום 🐈‍⬛ a\\b"})
    assert "naïve 一只猫 שלום 🐈‍⬛ a\\b" in captionflow("lineage", str(tmp_path / "one")).stdout


def test_a_circle_of_artifacts_ends(tmp_path: Path) -> None:
    one, two = Parent("thing", str(tmp_path / "one"), "11"), Parent("thing", str(tmp_path / "two"), "22")
    forge(tmp_path / "one", "thing", (two, one))
    forge(tmp_path / "two", "thing", (one,))
    done = captionflow("lineage", str(tmp_path / "one"))
    assert done.returncode == 0, done.stderr
    assert "changed since it was used" in done.stdout


def test_an_ancestor_is_told_once_however_many_ways_lead_to_it(tmp_path: Path) -> None:
    parent = forge(tmp_path / "0", "thing")
    for level in range(1, 41):  # 2 ** 40 ways
        parent = forge(tmp_path / str(level), "thing", (parent, parent))
    node = lineage(parent.uri)
    assert len(render(node).splitlines()) < 400
    assert len(json.dumps(node.to_json())) < 40_000


def test_a_long_line_of_ancestors_is_cut(tmp_path: Path) -> None:
    parent = forge(tmp_path / "0", "thing")
    for level in range(1, 1200):
        parent = forge(tmp_path / str(level), "thing", (parent,))
    text = render(lineage(parent.uri))
    assert text.endswith(f"  {tmp_path / '1099'}  (too far back: ask for its own lineage)\n" + text.splitlines()[-1])


def test_a_forged_history_cannot_write_html() -> None:
    curve = training_curve([{"epoch": "--><script>alert(1)</script>", "train_loss": 1.0, "val_loss": 1.0}])
    assert "<script" not in curve
    assert "-->&lt;" not in curve


@pytest.mark.parametrize("image_format", ["jpeg", "png", "tensor"])
def test_a_report_shows_no_picture_larger_than_a_page_needs(image_format: str) -> None:
    """A webserver holds a report while it sends it."""
    picture = Image.effect_noise((1024, 1024), 80).convert("RGB")
    sample = Sample(1, (), encode(picture, image_format, 95), 1024, 1024, "http://x/1.jpg", "x")
    kind, _, data = Exhibit(sample, image_format, "", [], 0.0, 0.0).data_uri.partition(",")
    with Image.open(io.BytesIO(base64.b64decode(data))) as shown:
        assert (shown.size, shown.format) == ((448, 448), kind.removeprefix("data:image/").partition(";")[0].upper())
