"""Rejects: how many are too many, and how they are looked at."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_jobs.preprocess import run
from captionflow.core.artifact import open_artifact
from captionflow.core.draft import begin
from captionflow.core.errors import InvalidInputError, StepFailedError
from captionflow.core.records import CAPTIONS, ImageCaption, Reject, to_json_line
from captionflow.core.rejects import open_rejects, printable_line
from captionflow.core.steps import INGESTED
from captionflow.preprocess.parameters import PreprocessParameters
from captionflow.sources.ingest import ingest
from captionflow.sources.parameters import IngestParameters
from tests.ingesting import CAPTION, ingest_records
from tests.processes import captionflow
from tests.security.test_output import ACTS, HOSTILE, forge
from tests.servers import Site
from tests.test_preprocess import assert_accounted, content

OTHER_LICENSE = "All rights reserved"


@pytest.fixture
def picture(small_sample: Path) -> bytes:
    return next((small_sample / "images").iterdir()).read_bytes()


def captions(site: Site, count: int) -> list[ImageCaption]:
    return [replace(CAPTION, image_id=i, id=i, image_url=f"{site.url}/{i}.jpg") for i in range(count)]


def settings(site: Site, **changes: object) -> PreprocessParameters:
    return PreprocessParameters(
        **{"allow_url_prefix": (site.url,), "image_size": 32, "split": "1,0,0", "fetch_concurrency": 8, **changes}
    )


def test_dead_links_fail_the_step_and_the_next_run_fetches_again(site: Site, picture: bytes, tmp_path: Path) -> None:
    site.pages["/7.jpg"] = picture
    source, out = ingest_records(captions(site, 100), tmp_path), str(tmp_path / "out")
    with pytest.raises(StepFailedError) as caught:
        run(source, out, settings(site), [])
    assert str(caught.value) == (
        "99 of 100 captions that no rule leaves out were rejected (http_404 99); --max-reject-ratio allows 0.5; "
        f"see {out}/rejects, or `captionflow rejects {out}`"
    )
    with pytest.raises(InvalidInputError, match="has not finished"):
        open_artifact(out)
    left = open_rejects(out)
    assert not left.is_verified
    assert {(reject.image_id, reject.reason) for reject in left} == {(i, "http_404") for i in range(100) if i != 7}

    site.pages = {f"/{i}.jpg": picture for i in range(100)}
    site.hits.clear()
    artifact = open_artifact(run(source, out, settings(site), []))
    assert set(site.hits) == set(site.pages)
    assert artifact.manifest.counts["images"] == {"in": 100, "out": 100, "rejected": 0}
    assert content(out) == content(run(source, str(tmp_path / "clean"), settings(site), []))


@pytest.mark.parametrize("beam_arguments", [[], ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]])
def test_what_a_rule_leaves_out_is_not_counted(
    site: Site, picture: bytes, tmp_path: Path, beam_arguments: list[str]
) -> None:
    """Six of the ten that are left are lost, however many were left out before."""
    records = captions(site, 100)
    records[10:80] = [replace(record, image_license=OTHER_LICENSE) for record in records[10:80]]
    records[80:] = [replace(record, caption="!!!") for record in records[80:]]
    site.pages = {f"/{i}.jpg": picture for i in (*range(3), *range(10, 100))} | {"/3.jpg": b"no picture"}
    source = ingest_records(records, tmp_path)
    with pytest.raises(StepFailedError, match=r"^7 of 10 .* \(http_404 6, not_an_image 1\); --max-reject-ratio allows"):
        run(source, str(tmp_path / "out"), settings(site), beam_arguments)
    artifact = open_artifact(run(source, str(tmp_path / "out"), settings(site, max_reject_ratio=0.7), beam_arguments))
    assert_accounted(artifact)
    assert artifact.manifest.counts["rejected"] == {
        "empty_caption": 20, "http_404": 6, "license_not_allowed": 70, "not_an_image": 1,
    }  # fmt: skip


def test_lines_that_cannot_be_read_are_counted(site: Site, picture: bytes, tmp_path: Path) -> None:
    """Ingest writes none; a later version of ours may."""
    site.pages["/0.jpg"] = picture
    draft = begin(f"{tmp_path}/ingested", INGESTED, {}, [])
    file = draft.put(CAPTIONS, to_json_line(captions(site, 1)[0]) + b"oops\n" * 3)
    draft.commit([file], counts={"captions": {"in": 4, "out": 4, "rejected": 0}, "images": 1})
    with pytest.raises(StepFailedError, match=r"^3 of 4 captions .* \(not_json 3\)"):
        run(draft.uri, f"{tmp_path}/out", settings(site), [])


def test_half_may_be_lost_and_no_more(site: Site, picture: bytes, tmp_path: Path) -> None:
    site.pages = {f"/{i}.jpg": picture for i in range(5)}
    artifact = open_artifact(
        run(ingest_records(captions(site, 10), tmp_path), str(tmp_path / "out"), settings(site), [])
    )
    assert artifact.manifest.counts["images"] == {"in": 10, "out": 5, "rejected": 5}
    source = ingest_records(captions(site, 11), tmp_path / "more")
    with pytest.raises(StepFailedError, match="6 of 11"):
        run(source, str(tmp_path / "out"), settings(site), [])


# captionflow rejects ------------------------------------------------------------------------------------------------


def printed(*arguments: str) -> tuple[list[dict[str, object]], str]:
    """What `captionflow rejects` prints: its lines, and the last of stderr."""
    done = captionflow("rejects", *arguments)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr.splitlines()[-1]


@pytest.fixture(scope="module")
def sorted_out(small_sample: Path, ingested: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A preprocessed artifact with rejects in each split."""
    parameters = PreprocessParameters(allow_url_prefix=(str(small_sample),), image_size=32, split="0.5,0.25,0.25")
    return run(ingested, str(tmp_path_factory.mktemp("sorted-out") / "preprocessed"), parameters, [])


def test_all_rejects_are_printed_as_they_are_in_the_artifact(sorted_out: str) -> None:
    counts = open_artifact(sorted_out).manifest.counts["rejected"]
    lines, told = printed(sorted_out)
    files = sorted(Path(sorted_out, "rejects").rglob("*.jsonl"))
    assert lines == [json.loads(line) for file in files for line in file.read_bytes().splitlines()]
    assert {reject["reason"] for reject in lines} == {"license_not_allowed"}
    assert told == f"captionflow: {len(lines)} rejects: license_not_allowed {counts['license_not_allowed']}"


def test_those_with_one_reason_are_printed(tmp_path: Path) -> None:
    rows = [CAPTION, CAPTION, replace(CAPTION, id=2, image_url="http://other"), replace(CAPTION, id=3)]
    uri = ingest_records(rows, tmp_path)
    lines, told = printed(uri, "--reason", "duplicate_id")
    assert [(reject["id"], reject["reason"]) for reject in lines] == [(1, "duplicate_id")]
    assert sorted(told.removeprefix("captionflow: 2 rejects: ").split(", ")) == [
        "conflicting_image 1",
        "duplicate_id 1",
    ]
    assert printed(uri, "--reason", "nonsense") == ([], told)


def test_an_artifact_without_rejects_prints_nothing(ingested: str) -> None:
    assert printed(ingested) == ([], "captionflow: 0 rejects: none")


def test_rejects_of_a_failed_step_are_printed_with_a_warning(tmp_path: Path) -> None:
    (tmp_path / "captions.csv").write_text("image_id,id,caption,image_url\n1,1,A dog.,u\n1,1,A dog.,u\n1,1,A dog.,u\n")
    with pytest.raises(StepFailedError):
        ingest(str(tmp_path / "out"), IngestParameters(sources=(f"{tmp_path}/captions.csv",)))
    done = captionflow("rejects", f"{tmp_path}/out")
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 2)
    assert done.stderr.splitlines() == [
        f"captionflow: {tmp_path}/out: has no manifest: its step has not finished, and nothing is verified",
        "captionflow: 2 rejects: duplicate_id 2",
    ]


def test_a_changed_file_of_rejects_is_told(sorted_out: str, tmp_path: Path) -> None:
    shutil.copytree(sorted_out, tmp_path / "copy")
    (file,) = (tmp_path / "copy" / "rejects" / "val").iterdir()
    for data in (file.read_bytes().replace(b"license", b"licence"), file.read_bytes()[:-9], b"[1]\n", b"no JSON\n"):
        file.write_bytes(data)
        done = captionflow("rejects", f"{tmp_path}/copy")
        assert done.returncode == 2
        assert str(file) in done.stderr
        assert done.stderr.strip().endswith("make the artifact again")
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "line",
    ["{}", "[]", "1", "null", "{", '{"stage": "x", "reason": ["a"], "detail": ""}', "[" * 100_000, '{"a": ' * 50_000,
     '{"stage": "x", "reason": "y", "detail": ' + "[" * 900 + "]" * 900 + "}", '{"reason": "y"}', "\x00"],
)  # fmt: skip
def test_a_line_that_is_no_reject_is_one_line(line: str, tmp_path: Path) -> None:
    (tmp_path / "rejects.jsonl").write_text(f"{line}\n")
    with pytest.raises(InvalidInputError, match=r"rejects\.jsonl: line 1 holds no reject"):
        [printable_line(reject) for reject in open_rejects(str(tmp_path))]


def test_artifacts_of_other_kinds_hold_no_rejects(tmp_path: Path) -> None:
    forge(tmp_path / "one", "model")
    with pytest.raises(InvalidInputError, match="is an artifact of kind model, which holds no rejects"):
        open_rejects(f"{tmp_path}/one")


def test_hostile_text_reaches_no_terminal(tmp_path: Path) -> None:
    row = {**asdict(CAPTION), "image_url": HOSTILE.replace("\ud800", ""), "split": None}
    (tmp_path / "captions.jsonl").write_text(
        f"{json.dumps(row)}\n{json.dumps(row)}\n{json.dumps(row | {'id': HOSTILE})}"
    )
    uri = ingest(f"{tmp_path}/out", IngestParameters(sources=(f"{tmp_path}/captions.jsonl",), max_reject_ratio=1.0))
    done = captionflow("rejects", uri)
    assert done.returncode == 0, done.stderr
    assert not ACTS.search(done.stdout + done.stderr)
    urls = {json.loads(line)["image_url"] for line in done.stdout.splitlines()}
    assert urls == {f"{tmp_path}/{row['image_url']}"}


@given(st.builds(Reject, stage=st.text(), reason=st.text(), detail=st.text(), image_url=st.text()))
def test_a_printed_reject_is_one_harmless_line_and_means_the_same(reject: Reject) -> None:
    line = printable_line(reject)
    assert not ACTS.search(line)
    assert "\n" not in line
    assert Reject.from_json(line) == reject


@pytest.mark.parametrize("rows", [3, 5000], ids=["within the pipe's buffer", "more"])
def test_a_closed_pipe_ends_it_quietly(rows: int, tmp_path: Path) -> None:
    uri = ingest_rejects(rows, tmp_path)
    command = f"{sys.executable} -m captionflow rejects {uri} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stdout == ""
    assert not re.search("Traceback|Exception|Broken", done.stderr)


def ingest_rejects(rows: int, folder: Path) -> str:
    """Ingest one caption and so many duplicates of it."""
    line = json.dumps({**asdict(CAPTION), "split": None})
    (folder / "captions.jsonl").write_text(f"{line}\n" * (rows + 1))
    return ingest(f"{folder}/out", IngestParameters(sources=(f"{folder}/captions.jsonl",), max_reject_ratio=1.0))
