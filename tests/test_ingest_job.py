"""Ingest as a Beam job: the artifact that one process makes, byte for byte, or the same error in one line."""

import gzip
import logging
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_jobs.ingest import ingest
from beam_jobs.parameters import IngestJobParameters
from captionflow.core.artifact import Artifact, open_artifact
from captionflow.core.errors import CaptionFlowError, InvalidInputError, StepFailedError
from captionflow.core.records import ImageCaption, Reject
from captionflow.sources import output as output_module
from captionflow.sources import rules
from captionflow.sources.expansion import SourceFile
from captionflow.sources.parameters import IngestParameters
from captionflow.sources.parts import FilePart, judged, rows_of, verdict
from tests.processes import captionflow
from tests.recipes import ROOT, commands
from tests.recipes import run as run_commands
from tests.servers import Site, send
from tests.tables import parquet
from tests.test_ingest import HEADER, coco, jsonl, row
from tests.test_preprocess import TWO_WORKERS, content

ON_BEAM = {"ingest_runner": "DirectRunner"}

RECORD = st.builds(
    ImageCaption,
    image_id=st.integers(-1, 2),
    id=st.integers(-3, 8),
    caption=st.just("a cat"),
    image_url=st.sampled_from(["a.jpg", "b.jpg"]),
    split=st.sampled_from([None, "train", "val+test"]),
)
ROWS = st.lists(RECORD | st.just(Reject("ingest", "not_json", "a line")), max_size=12)


@given(files=st.lists(ROWS, max_size=4), max_captions=st.integers(1, 3), seed=st.integers())
def test_the_rules_refuse_the_same_rows_in_order_and_by_id_and_image(
    files: list[list[ImageCaption | Reject]], max_captions: int, seed: int
) -> None:
    in_order = rules.InOrder(max_captions)
    expected = [list(in_order.apply(rows)) for rows in files]

    rng = random.Random(seed)
    by_id, by_image = defaultdict(list), defaultdict(list)
    verdicts, images = defaultdict(list), Counter[str | None]()
    for number, rows in enumerate(files):
        part = FilePart(number, len(files), SourceFile("", None, None))
        for id_, seen in rows_of(part, cast(Any, SimpleNamespace(read=lambda _, rows=rows: rows)), IngestParameters()):
            by_id[id_].append(seen)
    refused = []
    for group in by_id.values():
        rng.shuffle(group)  # as workers may bring them
        (image_id, caption), others = rules.of_one_id(group)
        by_image[image_id].append(caption)
        refused += [verdict(place, rules.DUPLICATE) for place in others]
    for captions in by_image.values():
        rng.shuffle(captions)
        split, of_image = rules.of_one_image(captions, max_captions)
        images[split] += 1
        refused += [verdict(place, reason) for place, reason in of_image]
    for number, on_row in refused:
        verdicts[number].append(on_row)

    found = [list(judged(iter(rows), sorted(verdicts[number]), max_captions)) for number, rows in enumerate(files)]
    assert found == expected
    assert images == in_order.images


def run(folder: Path, sources: tuple[str, ...], **parameters: Any) -> str:
    return ingest(str(folder), IngestJobParameters(sources=sources, **parameters))


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Files of several formats; ids, images and splits meet across them, so that each rule refuses something."""
    folder = tmp_path_factory.mktemp("sources")
    (folder / "tables").mkdir()
    for number in range(3):
        urls = [f"http://images/{n % 7}.jpg" for n in range(number, number + 40)]
        texts = [f"picture {n % 11}" for n in range(len(urls))]
        table = parquet({"url": urls, "text": texts, "split": ["train"] * 39 + [["train", "val"][number == 2]]})
        (folder / "tables" / f"part-{number}.parquet").write_bytes(table)
    (folder / "coco.json.gz").write_bytes(gzip.compress(coco()))
    table_of_texts = HEADER + "1,10,again,http://coco/1.jpg,n,l\n1,11,other,http://other/1.jpg,n,l\n7,two,bad,u,n,l\n"
    (folder / "more.csv").write_text(table_of_texts + f"1,12,{'long ' * 100},http://coco/1.jpg,n,l\n")
    (folder / "lines.jsonl").write_bytes(
        jsonl(*(row(n, image_id=100) for n in range(500, 506))) + b"oops\n" + jsonl(row(11), row(500))
    )
    return (
        f"{folder}/tables", f"val+test={folder}/coco.json.gz", f"val={folder}/more.csv", f"{folder}/lines.jsonl"
    )  # fmt: skip


@pytest.fixture(scope="module")
def in_one_process(sources: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return open_artifact(run(tmp_path_factory.mktemp("one") / "out", sources, **LIMITS))


LIMITS: dict[str, Any] = {"max_captions": 4, "max_text_bytes": 300, "max_reject_ratio": 0.9}


@pytest.mark.parametrize("beam_options", [(), tuple(TWO_WORKERS)], ids=["in process", "two processes"])
def test_a_job_makes_the_artifact_that_one_process_makes(
    sources: tuple[str, ...], in_one_process: Artifact, tmp_path: Path, beam_options: tuple[str, ...]
) -> None:
    assert in_one_process.manifest.counts["rejected"].keys() == {
        "duplicate_id", "conflicting_image", "too_many_captions", "text_too_long", "ill_typed_field", "not_json",
    }  # fmt: skip
    assert in_one_process.manifest.counts["splits"].keys() == {"train", "val+test"}
    job = open_artifact(run(tmp_path / "out", sources, **LIMITS, **ON_BEAM, beam_options=beam_options))
    job.verify()
    assert content(job.uri) == content(in_one_process.uri)
    assert job.manifest.sha256 == in_one_process.manifest.sha256
    assert "run" in job.manifest.to_json().decode()


def test_the_command_of_the_page_is_run(tmp_path: Path) -> None:
    (tmp_path / "artifacts" / "laion").mkdir(parents=True)
    for name in ("part-0", "part-1", "held-out"):
        table = parquet({"URL": [f"http://images/{name}.jpg"], "TEXT": ["a cat"]})
        (tmp_path / "artifacts" / "laion" / f"{name}.parquet").write_bytes(table)
    run_commands(commands("As a Beam job", ROOT / "docs" / "data.md"), tmp_path, ROOT)
    assert open_artifact(f"{tmp_path}/artifacts/on_beam").manifest.counts["splits"] == {"train": 2, "val": 1}


def test_a_job_of_one_file_is_the_same_too(tmp_path: Path) -> None:
    (tmp_path / "captions.jsonl").write_bytes(jsonl(row(1)))
    source = (str(tmp_path / "captions.jsonl"),)
    one, job = (open_artifact(run(tmp_path / name, source, **way)) for name, way in (("one", {}), ("job", ON_BEAM)))
    assert content(job.uri) == content(one.uri)
    assert job.manifest.sha256 == one.manifest.sha256


def test_the_rejects_of_a_file_have_a_bound_in_both_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound is a file's own, so that no part need know how many Rejects those before it have."""
    monkeypatch.setattr(output_module, "_FREE_REJECT_BYTES", 4000)
    monkeypatch.setattr(output_module, "_REJECT_BYTES_PER_BYTE", 0)
    (tmp_path / "many.jsonl").write_bytes(jsonl(row(1)) + b"1\n" * 100)
    (tmp_path / "few.jsonl").write_bytes(jsonl(row(2)) + b"1\n")
    names = (str(tmp_path / "many.jsonl"), str(tmp_path / "few.jsonl"))
    for way in ({}, ON_BEAM):
        artifact = open_artifact(run(tmp_path / "out", names, max_reject_ratio=1.0, **way))
        rejects = artifact.read("rejects.jsonl").splitlines()
        assert len(rejects) == 101 - artifact.count("rejects_not_written") < 40
        assert len(b"".join(rejects)) <= 4000
        assert Reject.from_json(rejects[-1]).detail.startswith("line 2")


def test_each_worker_fetches_a_remote_file_for_itself(site: Site, tmp_path: Path) -> None:
    site.pages = {"/a.json": coco(), "/b.jsonl": jsonl(row(10), row(1))}
    urls = tuple(site.url + page for page in site.pages)
    way = {"allow_url_prefix": (site.url,)}
    one = open_artifact(run(tmp_path / "one", urls, **way))
    site.hits.clear()
    job = open_artifact(run(tmp_path / "job", urls, **way, **ON_BEAM))
    assert site.hits == dict.fromkeys(site.pages, 2)
    assert content(job.uri) == content(one.uri)
    assert job.manifest.sha256 == one.manifest.sha256


def test_a_file_that_changes_between_the_two_readings_fails_the_step(site: Site, tmp_path: Path) -> None:
    def changing(handler: BaseHTTPRequestHandler) -> None:
        send(handler, jsonl(row(site.hits["/a.jsonl"])))

    site.pages["/a.jsonl"] = changing
    with pytest.raises(StepFailedError) as caught:
        run(tmp_path / "out", (f"{site.url}/a.jsonl",), allow_url_prefix=(site.url,), **ON_BEAM)
    assert str(caught.value) == f"{site.url}/a.jsonl: changed while it was read; run again when it no longer does"
    with pytest.raises(InvalidInputError, match="has not finished"):
        open_artifact(str(tmp_path / "out"))


def broken(folder: Path) -> tuple[str, ...]:
    (folder / "broken.json").write_bytes(coco()[:-20])
    return (f"{folder}/broken.json",)


def bad_rows(folder: Path) -> tuple[str, ...]:
    (folder / "bad.jsonl").write_bytes(jsonl(row(1)) + b"1\n2\n")
    return (f"{folder}/bad.jsonl",)


def no_rows(folder: Path) -> tuple[str, ...]:
    (folder / "empty.json").write_bytes(coco(annotations=[]))
    return (f"{folder}/empty.json",)


WRONG: dict[str, Callable[[Path], tuple[str, ...]]] = {
    "no source": lambda _: (),
    "no such file": lambda folder: (f"{folder}/none.json",),
    "no match": lambda folder: (f"{folder}/*.none",),
    "the output": lambda folder: (f"{folder}/out/a.json",),
    "broken": broken,
    "bad rows": bad_rows,
    "no rows": no_rows,
    "not open": lambda _: ("http://127.0.0.1:9/a.json",),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_job_fails_with_the_error_of_one_process(tmp_path: Path, wrong: str) -> None:
    sources = WRONG[wrong](tmp_path)
    errors = []
    for way in ({}, ON_BEAM):
        with pytest.raises(CaptionFlowError) as caught:
            run(tmp_path / "out", sources, **way)
        errors.append((type(caught.value), str(caught.value)))
    assert errors[0] == errors[1]
    assert "\n" not in errors[0][1]


def test_the_command_says_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    (source,) = broken(tmp_path)
    done = captionflow("ingest", f"--sources={source}", f"--output={tmp_path}/out", "--ingest-runner=DirectRunner")
    assert (done.returncode, done.stdout) == (2, "")
    (begin, end) = done.stderr.splitlines()
    assert begin == "INFO:beam_jobs.ingest:ingest: 1 files"
    assert end.startswith(f"captionflow: {source}: cannot be read to its end: ")


def test_words_that_no_job_takes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.json").write_bytes(coco())
    source = (str(tmp_path / "a.json"),)
    with pytest.raises(InvalidInputError, match=r"^b\.json: belongs to no option"):
        run(tmp_path / "out", source, beam_options=("b.json",))
    with caplog.at_level(logging.WARNING):
        run(tmp_path / "out", source, beam_options=("--parallelism=2",))
    assert "no effect without --ingest-runner" in caplog.text


def test_dataflow_needs_sources_that_its_workers_reach(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(coco())
    place = {"gcp_project": "a-project", "region": "r", "dataflow_staging_root": "gs://bucket/staging"}
    with pytest.raises(InvalidInputError, match=r"^--ingest-runner: DataflowRunner's workers do not reach .*/a\.json"):
        run(tmp_path / "out", (str(tmp_path / "a.json"),), ingest_runner="DataflowRunner", **place)


def test_where_beam_is_not_installed_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.json").write_bytes(coco())
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(InvalidInputError, match="install CaptionFlow's extra 'preprocessing'"):
        run(tmp_path / "out", (str(tmp_path / "a.json"),), **ON_BEAM)
    run(tmp_path / "out", (str(tmp_path / "a.json"),))
