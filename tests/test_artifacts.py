"""Artifacts: made whole or not at all, replaced safely, checked, and traced."""

import json
from pathlib import Path

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captionflow.core.artifact import open_artifact
from captionflow.core.draft import begin
from captionflow.core.errors import InvalidInputError
from captionflow.core.lineage import lineage, render
from captionflow.core.manifest import FileInfo, Manifest, Parent
from captionflow.core.runs import artifact_uri

SOURCE = Parent("source", "/data/captions.json", "ab" * 32)


def make(uri: str, kind: str = "thing", content: bytes = b"content", parents: tuple[Parent, ...] = (SOURCE,)) -> str:
    draft = begin(uri, kind, {"size": 3}, parents)
    draft.commit([draft.put("data/file.bin", content)], counts={"files": 1}, metrics={"score": 0.5})
    return draft.uri


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("scheme", ["{tmp}/thing", "file://{tmp}/thing", "memory://things/thing"])
def test_a_committed_artifact_reads_back(tmp_path: Path, scheme: str) -> None:
    uri = make(scheme.format(tmp=tmp_path))
    artifact = open_artifact(scheme.format(tmp=tmp_path) + "/", "thing")
    assert artifact.uri == uri
    assert artifact.read("data/file.bin") == b"content"
    assert artifact.manifest.parameters == {"size": 3}
    assert artifact.manifest.parents == (SOURCE,)
    artifact.verify()


def test_without_a_manifest_it_is_not_real(tmp_path: Path) -> None:
    draft = begin(str(tmp_path / "thing"), "thing", {}, [])
    draft.put("file", b"x")
    with pytest.raises(InvalidInputError, match=r"no manifest\.json"):
        open_artifact(draft.uri)


def test_beginning_again_unmakes_the_earlier_artifact_and_leaves_nothing_of_it(tmp_path: Path) -> None:
    uri = make(str(tmp_path / "thing"))
    draft = begin(uri, "thing", {"size": 4}, [])
    with pytest.raises(InvalidInputError):
        open_artifact(uri)
    draft.commit([draft.put("other", b"x")], counts={})
    assert names(tmp_path / "thing") == ["manifest.json", "other"]


def test_commit_sweeps_away_what_a_killed_attempt_left(tmp_path: Path) -> None:
    killed = begin(str(tmp_path / "thing"), "thing", {}, [])
    killed.put("progress/1.json", b"{}")
    (tmp_path / "thing" / "data.bin.0123.tmp").write_bytes(b"half")
    draft = begin(killed.uri, "thing", {}, [], resume=True)
    assert draft.read("progress/1.json") == b"{}"
    draft.commit([draft.put("data.bin", b"whole")], counts={})
    assert names(tmp_path / "thing") == ["data.bin", "manifest.json"]
    assert not (tmp_path / "thing" / "progress").exists()


def test_resuming_with_other_parameters_starts_afresh(tmp_path: Path) -> None:
    begin(str(tmp_path / "thing"), "thing", {"size": 1}, []).put("progress/1.json", b"{}")
    draft = begin(str(tmp_path / "thing"), "thing", {"size": 2}, [], resume=True)
    assert draft.read("progress/1.json") is None


@pytest.mark.parametrize("kind", ["nothing of ours", "another kind"])
def test_a_folder_with_something_else_is_not_touched(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "thing"
    if kind == "another kind":
        make(str(target), kind="model")
    else:
        target.mkdir()
        (target / "thesis.txt").write_text("years of work")
    before = names(target)
    with pytest.raises(InvalidInputError, match="choose an empty folder"):
        begin(str(target), "thing", {}, [])
    assert names(target) == before


@pytest.mark.parametrize(
    "left", [{"manifest.partial.json.0a1b.tmp": b""}, {"manifest.partial.json": b'{"kind": "thing"}', "old.bin": b"x"}]
)
def test_a_start_that_was_killed_does_not_lock_the_folder(tmp_path: Path, left: dict[str, bytes]) -> None:
    target = tmp_path / "thing"
    target.mkdir()
    for name, data in left.items():
        (target / name).write_bytes(data)
    make(str(target))
    assert names(target) == ["data/file.bin", "manifest.json"]


@pytest.mark.parametrize("manifest", ["[]", "{", "null"])
def test_a_manifest_of_another_program_protects_its_folder(tmp_path: Path, manifest: str) -> None:
    (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(InvalidInputError, match="choose an empty folder"):
        begin(str(tmp_path), "thing", {}, [])


def test_an_output_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InvalidInputError, match="file/thing"):
        begin(str(tmp_path / "file" / "thing"), "thing", {}, [])


@pytest.mark.parametrize("root", ["{tmp}", "memory://halves"])
def test_a_file_is_whole_or_absent(root: str, tmp_path: Path) -> None:
    draft = begin(f"{root.format(tmp=tmp_path)}/thing", "thing", {}, [])

    def write_half() -> None:
        with draft.output("data.bin") as out:
            out.write(b"half")
            assert draft.read("data.bin") is None
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError):
        write_half()
    fs, path = fsspec.url_to_fs(draft.uri)
    assert fs.find(path) == [f"{path}/manifest.partial.json"]


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_verify_names_the_damaged_file(tmp_path: Path, damage: str) -> None:
    uri = make(str(tmp_path / "thing"))
    file = tmp_path / "thing" / "data" / "file.bin"
    file.write_bytes(b"CONTENT") if damage == "changed" else file.unlink()
    with pytest.raises(InvalidInputError, match=r"data/file\.bin"):
        open_artifact(uri).verify()


@pytest.mark.parametrize("content", ["", "[]", "{", '{"kind": "thing"}', '{"parents": 3}'])
def test_a_foreign_manifest_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(InvalidInputError, match="not a manifest of CaptionFlow"):
        open_artifact(str(tmp_path))


def test_equal_work_has_equal_digests_whenever_it_ran(tmp_path: Path) -> None:
    first, second = (open_artifact(make(str(tmp_path / name))) for name in "ab")
    assert first.manifest.sha256 == second.manifest.sha256
    other = open_artifact(make(str(tmp_path / "c"), content=b"other"))
    assert other.manifest.sha256 != first.manifest.sha256


@given(
    st.dictionaries(st.text(), st.one_of(st.none(), st.booleans(), st.integers(), st.text(), st.lists(st.text()))),
    st.dictionaries(st.text(), st.floats(allow_nan=False)),
)
def test_a_manifest_survives_json(parameters: dict[str, object], metrics: dict[str, float]) -> None:
    manifest = Manifest("thing", parameters, (SOURCE,), "1", {}, metrics, (FileInfo("a", 1, "00"),), {"at": "now"})
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert Manifest.from_json(manifest.to_json()).sha256 == manifest.sha256


def test_uris_need_no_clock() -> None:
    assert artifact_uri("gs://b/root/", "dag", "run", "model") == "gs://b/root/dag/run/model"


def test_lineage_reaches_the_sources_and_says_what_has_changed(tmp_path: Path) -> None:
    data = open_artifact(make(str(tmp_path / "data"), kind="data"))
    model = make(str(tmp_path / "model"), kind="model", parents=(data.parent,))
    text = render(lineage(model))
    for part in ("model", str(tmp_path / "data"), "size=3", "score=0.5", SOURCE.uri, SOURCE.sha256):
        assert part in text
    make(data.uri, kind="data", content=b"other")
    assert "changed since it was used" in render(lineage(model))
    fsspec.filesystem("file").rm(data.uri, recursive=True)
    assert "no longer there" in render(lineage(model))
    assert json.loads(json.dumps(lineage(model).to_json()))["parents"][0]["note"] == "no longer there"
