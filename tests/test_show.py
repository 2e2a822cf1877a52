"""`captionflow show`, and the commands of docs/artifacts.md."""

import shutil
from pathlib import Path

import pytest

from captionflow.core.artifact import open_artifact
from captionflow.core.errors import InvalidInputError
from captionflow.core.records import ImageCaption, to_json_line
from captionflow.core.show import show
from captionflow.core.steps import INGESTED
from tests.ingesting import CAPTION, ingest_records
from tests.processes import captionflow
from tests.recipes import ROOT, commands, run
from tests.security.test_output import ACTS, HOSTILE, forge
from tests.test_preprocess import samples


def lines(uri: str) -> list[str]:
    return [" ".join(line.split()) for line in show(uri).splitlines()]


def test_a_preprocessed_artifact_tells_counts_choices_parents_and_captions(trainable: str, small_sample: Path) -> None:
    artifact = open_artifact(trainable)
    shown, counts, (parent,) = lines(trainable), artifact.manifest.counts, artifact.manifest.parents
    assert shown[:2] == [f"preprocessed {trainable}", f"sha256 {artifact.manifest.sha256}"]
    assert f"splits={', '.join(f'{split} {number}' for split, number in counts['splits'].items())}" in shown
    assert "rejected=-" in shown
    # After the lines of kind, digest, time and code: those of the fixture, and no others.
    chosen = shown[4 : shown.index("counts captions=in 300, out 300, rejected 0")]
    assert sorted(line.removeprefix("parameters ") for line in chosen) == [
        f"allow_url_prefix={small_sample}", "image_size=64", "licenses=*", "split=0.8,0.1,0.1",
    ]  # fmt: skip
    first = next(samples(artifact, "train"))
    captions = shown[shown.index(f"parents ingested {parent.uri}") + 1 :]
    assert captions == [
        f"{'captions ' * (not i)}{caption.id} of image {first.image_id}, {first.image_url}: {caption.text}"
        for i, caption in enumerate(first.captions)
    ]


def test_an_ingested_artifact_shows_its_first_captions(tmp_path: Path) -> None:
    uri = ingest_records([CAPTION, ImageCaption(2, 7, "x" * 9000, "gs://b/2.jpg")], tmp_path)
    *_, first, second = lines(uri)
    assert first == "captions 1 of image 1, http://x/1.jpg: A dog."
    assert second.startswith("7 of image 2, gs://b/2.jpg: xxx")
    assert second.endswith("x…")
    assert len(second) < 250


def test_a_model_shows_what_it_was_asked_for(model: str) -> None:
    shown = lines(model)
    assert shown[0] == f"model {model}"
    assert "epochs=8" in " ".join(shown)
    assert not [line for line in shown if line.startswith("learning_rate=")]


def test_hostile_text_is_shown_and_obeyed_by_no_terminal(tmp_path: Path) -> None:
    forge(tmp_path / "one", HOSTILE, parameters={HOSTILE: HOSTILE}, counts={"a": {HOSTILE: 1}})
    uri = ingest_records([ImageCaption(1, 1, HOSTILE.replace("\ud800", ""), "http://x/1.jpg")], tmp_path / "two")
    for shown in (f"{tmp_path}/one", uri):
        done = captionflow("show", shown)
        assert done.returncode == 0, done.stderr
        assert not ACTS.search(done.stdout)
        assert r"\u001b[2J" in done.stdout


@pytest.mark.parametrize("data", [b"[]\n", b"no JSON\n", b'{"image_id": 1}\n', to_json_line(CAPTION) * 99])
def test_captions_that_were_changed_are_one_line(data: bytes, tmp_path: Path) -> None:
    uri = ingest_records([CAPTION], tmp_path)
    (Path(uri) / "captions.jsonl").write_bytes(data)
    with pytest.raises(InvalidInputError, match=r"captions\.jsonl: differs from its manifest"):
        show(uri)


def test_a_manifest_without_files_is_one_line(tmp_path: Path) -> None:
    forge(tmp_path / "one", INGESTED)
    with pytest.raises(InvalidInputError, match=r"its manifest lists no captions\.jsonl"):
        show(f"{tmp_path}/one")


def test_the_commands_of_the_docs_work(trainable: str, tmp_path: Path) -> None:
    shutil.copytree(trainable, tmp_path / "artifacts" / "hand" / "preprocessed")
    told = run(commands("Look into one", ROOT / "docs" / "artifacts.md"), tmp_path, ROOT)
    assert told.startswith(f"preprocessed  {tmp_path}/artifacts/hand/preprocessed\n")
    assert (tmp_path / "rejects.jsonl").read_text() == ""
