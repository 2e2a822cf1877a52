"""Small caption files that once cost hours, gigabytes, or the rows of a whole file for one of them."""

import gzip
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from captionflow.core.artifact import open_artifact
from captionflow.core.errors import InvalidInputError
from captionflow.core.records import unforeseeable
from captionflow.sources import output
from captionflow.sources.ingest import ingest
from captionflow.sources.parameters import IngestParameters
from tests.processes import captionflow
from tests.test_ingest import ANNOTATIONS, COCO_CAPTIONS, HEADER, IMAGES, LICENSES, coco, jsonl, row, run

pytestmark = pytest.mark.security

MEGABYTE = 1_000_000
HEAVY = [[]] * 50_000  # some 3 MB once read, 0.15 MB as text


@pytest.mark.parametrize(
    "changes",
    [
        {"licenses": [*LICENSES, *({"id": n, "name": HEAVY} for n in range(10, 22))]},
        {"images": [*IMAGES, *({"id": n, "file_name": HEAVY, "coco_url": HEAVY} for n in range(10, 16))]},
        {"images": [*IMAGES, *({"id": n, "license": HEAVY} for n in range(10, 22))]},
        {"images": [*IMAGES, *({"id": n, "coco_url": "x" * 2 * MEGABYTE} for n in range(10, 22))]},
    ],
)
def test_no_more_of_an_image_or_a_licence_is_held_than_is_of_use(tmp_path: Path, changes: dict[str, object]) -> None:
    source = tmp_path / "source.json"
    source.write_bytes(coco(**changes))
    tracemalloc.start()
    try:
        run(tmp_path, str(source))
        assert tracemalloc.get_traced_memory()[1] < 20 * MEGABYTE
    finally:
        tracemalloc.stop()


def test_a_url_of_coco_without_end_is_a_reject(tmp_path: Path) -> None:
    images = [IMAGES[0], {**IMAGES[1], "coco_url": "http://coco/" + "x" * 100_000}]
    captions, rejects = run(tmp_path, coco(images=images))
    assert captions == COCO_CAPTIONS[:1]
    assert [reject.reason for reject in rejects] == ["text_too_long"]
    captions, rejects = run(tmp_path, coco(images=[IMAGES[0], {**IMAGES[1], "coco_url": ["http://coco/2.jpg"]}]))
    assert [reject.reason for reject in rejects] == ["ill_typed_field"]


@pytest.mark.parametrize("header", [HEADER.strip() + "," * 1000, HEADER.strip() + ',"\n"' * 1000])
def test_a_table_of_very_many_columns_is_one_line(tmp_path: Path, header: str) -> None:
    with pytest.raises(InvalidInputError, match="it has more than 256 columns"):
        run(tmp_path, f"{header}\n1\n".encode())


def test_rejects_that_are_very_many_are_counted_and_not_all_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a few kilobytes that unpack to millions of rows."""
    monkeypatch.setattr(output, "_FREE_REJECT_BYTES", 10_000)
    good = b"".join(jsonl(row(n, image_id=n)) for n in range(1000))
    (tmp_path / "source").write_bytes(gzip.compress(good + b"1\n" * 900))
    monkeypatch.setattr(output, "_REJECT_BYTES_PER_BYTE", 0)
    artifact = open_artifact(ingest(str(tmp_path / "out"), IngestParameters(sources=(str(tmp_path / "source"),))))
    counts, written = artifact.manifest.counts, artifact.read("rejects.jsonl").splitlines()
    assert counts["captions"] == {"in": 1900, "out": 1000, "rejected": 900}
    assert counts["rejects_not_written"] == 900 - len(written)
    assert 0 < sum(map(len, written)) <= 10_000


def test_ids_cannot_be_chosen_to_collide() -> None:
    """Whoever foresees hashes can have a dict look for each id behind all others. Integers are their own hashes."""
    code = "from captionflow.core.records import unforeseeable; print(*(hash(unforeseeable(n)) for n in range(100)))"
    hashes = {
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(hashes) == 2
    assert len({unforeseeable(n) for n in (-(2**63), -1, 0, 1, 2**63 - 1)}) == 5


ROW_OF_TEXT = b'{"image_id":1,"caption":2}'


@pytest.mark.parametrize(
    ("caption", "why"),
    [
        (ROW_OF_TEXT.decode().replace('"', '""'), "a line of JSON within a caption"),
        ("PK\x05\x06" + "\0" * 18, "the end of an archive"),
        ("x" * 2 * MEGABYTE, "a caption of 2 MB"),
        ("x\n" * MEGABYTE, "a caption of a million lines"),
    ],
    ids=str,
)
def test_a_row_costs_no_other_row_of_a_table(tmp_path: Path, caption: str, why: str) -> None:
    table = f'{HEADER}7,1,a cat,u,n,l\n7,2,"{caption}",u,n,l\n7,3,a dog,u,n,l\n'
    captions, rejects = run(tmp_path, table.encode())
    assert {1, 3} <= {caption.id for caption in captions}
    assert len(captions) + len(rejects) == 3


def test_a_line_of_json_in_a_table_is_a_reject(tmp_path: Path) -> None:
    captions, rejects = run(tmp_path, HEADER.encode() + b"7,1,a cat,u,n,l\n" + ROW_OF_TEXT + b"\n")
    assert ([caption.id for caption in captions], len(rejects)) == ([1], 1)


def test_an_archives_end_in_a_caption_of_json_lines_is_text(tmp_path: Path) -> None:
    lines = jsonl(row(1)) + json.dumps(row(2, caption="PK\x05\x06" + "\0" * 18), ensure_ascii=False).encode() + b"\n"
    captions, rejects = run(tmp_path, lines)
    assert len(captions) + len(rejects) == 2
    assert captions[0].id == 1


def test_coco_with_an_annotation_a_line_is_coco(tmp_path: Path) -> None:
    annotations = ",\n".join(map(json.dumps, ANNOTATIONS))
    rest = json.dumps({"images": IMAGES, "licenses": LICENSES})[1:]
    assert run(tmp_path, f'{{"annotations": [\n{annotations}\n],\n{rest}'.encode()) == (COCO_CAPTIONS, [])


def test_json_lines_may_have_fields_that_coco_has_too(tmp_path: Path) -> None:
    assert len(run(tmp_path, jsonl(row(1, type="x", info={}, images=[])))[0]) == 1


def test_a_number_out_of_range_is_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="a number is out of range"):
        run(
            tmp_path, coco(annotations=[{**ANNOTATIONS[0], "more": 0}]).replace(b'"more": 0', b'"more": 1e' + b"9" * 20)
        )


@pytest.mark.parametrize("name", ["out/captions.jsonl", "out/deeper/captions.jsonl"])
def test_an_output_that_holds_the_source_is_refused_before_it_is_swept(tmp_path: Path, name: str) -> None:
    (tmp_path / "source").write_bytes(jsonl(row(1)))
    ingest(str(tmp_path / "out"), IngestParameters(sources=(str(tmp_path / "source"),)))
    source = tmp_path / name
    source.parent.mkdir(exist_ok=True)
    source.write_bytes(jsonl(row(1)))
    with pytest.raises(InvalidInputError, match=r"--output: .* holds the source"):
        ingest(str(tmp_path / "out"), IngestParameters(sources=(str(source),)))
    assert source.read_bytes() == jsonl(row(1))


def test_a_name_that_is_no_utf_8_is_one_line(tmp_path: Path) -> None:
    name = f"{tmp_path}/caf\udce9.csv"
    Path(name).write_text(HEADER + "7,1,a cat,u,n,l\n")
    for arguments in (["--sources", name, "--output", str(tmp_path / "out")], ["--sources=x", "--member", "\udcff"]):
        done = captionflow("ingest", *arguments, *(["--output=o"] if "--output" not in arguments else []))
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        assert "UTF-8" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("source", ["x" * 300, "closed/captions.csv"])
def test_a_path_that_cannot_be_looked_at_is_one_line(tmp_path: Path, source: str) -> None:
    done = captionflow("ingest", "--sources", str(tmp_path / source), "--output", str(tmp_path / "out"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_a_full_disk_for_temporary_files_is_one_line(tmp_path: Path) -> None:
    """The last bytes of a source may fit no more."""
    (tmp_path / "disk").mkdir()
    code = (
        "import sys; from captionflow.sources.download import download;"
        "from captionflow.sources.parameters import IngestParameters; import tempfile, fsspec;"
        "fsspec.filesystem('memory').pipe('/source', bytes(1_052_576));"
        "download('memory://source', tempfile.TemporaryFile(), IngestParameters())"
    )
    script = f'mount -t tmpfs -o size=1m none "{tmp_path}/disk" && exec "$@"'
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh", "env", f"TMPDIR={tmp_path}/disk",
         sys.executable, "-c", code],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "StepFailedError" in done.stderr.splitlines()[-1]
    assert "make room and run again" in done.stderr
