"""Ingest: rows that become rejects, and sources that are refused in one line."""

import base64
import gzip
import itertools
import json
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captionflow.core.artifact import open_artifact
from captionflow.core.errors import InvalidInputError, StepFailedError
from captionflow.core.records import UNKNOWN_LICENSE
from captionflow.sources.ingest import ingest
from captionflow.sources.parameters import IngestParameters
from tests.servers import Site, send
from tests.test_ingest import ANNOTATIONS, HEADER, IMAGES, coco, jsonl, row, run, zipped


def with_annotation(**changes: Any) -> bytes:
    bad = {"image_id": 1, "id": 99, "caption": "bad", **changes}
    return coco(annotations=[*ANNOTATIONS, {name: value for name, value in bad.items() if value is not None}])


def with_image(**changes: Any) -> bytes:
    image = {name: value for name, value in {**IMAGES[0], "id": 3, **changes}.items() if value is not None}
    return coco(images=[*IMAGES, image], annotations=[*ANNOTATIONS, {"image_id": 3, "id": 99, "caption": "bad"}])


def table(bad: bytes) -> bytes:
    return f"{HEADER}7,1,a,u,n,l\n".encode() + bad + b"7,3,c,u,n,l\n"


def lines(bad: bytes) -> bytes:
    return jsonl(row(1)) + bad + jsonl(row(3))


@pytest.mark.parametrize(
    ("source", "reason", "detail"),
    [
        (with_annotation(image_id=5), "unknown_image", "5"),
        (with_annotation(image_id="1"), "ill_typed_field", "image_id"),
        (with_annotation(image_id=None), "missing_field", "image_id"),
        (with_annotation(id=None), "missing_field", "id"),
        (with_annotation(id=1.5), "ill_typed_field", "id"),
        (with_annotation(id=True), "ill_typed_field", "id"),
        (with_annotation(id=2**70), "ill_typed_field", "id"),
        (with_annotation(caption=None), "missing_field", "caption"),
        (with_annotation(caption=["a", "list"]), "ill_typed_field", "caption"),
        (with_image(coco_url=None), "missing_field", "image_url"),
        (with_image(coco_url=5), "ill_typed_field", "image_url"),
        (with_image(file_name=5), "ill_typed_field", "image_name"),
        (coco(annotations=[*ANNOTATIONS, "text"]), "missing_field", "image_id"),
        (
            coco(images=[*IMAGES, {**IMAGES[0], "coco_url": "http://other"}, 5], annotations=[*ANNOTATIONS, {}]),
            "missing_field",
            "image_id",
        ),
        (table(b"7,1,b,u,n,l\n"), "duplicate_id", "1"),
        (table(b"7,two,b,u,n,l\n"), "ill_typed_field", "id"),
        (table(b"7,2_0,b,u,n,l\n"), "ill_typed_field", "id"),
        (table(b"7,99999999999999999999,b,u,n,l\n"), "ill_typed_field", "id"),
        (table(b"7,,b,u,n,l\n"), "missing_field", "id"),
        (table(b"7,2,b,,n,l\n"), "missing_field", "image_url"),
        (table(b"7,2,b\n"), "missing_field", "image_url"),
        (table(b"7,2,b,u,n,l,more\n"), "ill_typed_field", "line 3"),
        (table(b"7,2,\xff\xfe,u,n,l\n"), "ill_typed_field", "caption"),
        (lines(jsonl(row(1))), "duplicate_id", "1"),
        (lines(jsonl(row(2, image_url="http://other"))), "conflicting_image", "another URL"),
        (lines(jsonl(row(2, split="holdout"))), "unknown_split", "'holdout', none of train, val, test"),
        (lines(jsonl(row(2, split=["train"]))), "ill_typed_field", "split"),
        (lines(jsonl(row(2, split="train"))), "conflicting_image", "or split"),
        (lines(jsonl(row(2, caption=None))), "missing_field", "caption"),
        (lines(jsonl(row(2, caption=2))), "ill_typed_field", "caption"),
        (lines(jsonl(row(2, caption="\ud800"))), "ill_typed_field", "caption"),
        (lines(b'{"id": 2,\n'), "not_json", "line 2"),
        (lines(b"[1, 2]\n"), "not_json", "line 2"),
        (lines(b"\xff\xfe\x00\n"), "not_json", "line 2"),
        (lines(b"[" * 100_000 + b"\n"), "not_json", "line 2"),
        (lines(jsonl(row(2, caption="x" * (1 << 20)))), "line_too_long", "line 2"),
    ],
    ids=itertools.count(),
)
def test_a_bad_row_is_a_reject_with_its_reason(tmp_path: Path, source: bytes, reason: str, detail: str) -> None:
    captions, rejects = run(tmp_path, source)
    assert len(captions) == 2
    (reject,) = rejects
    assert (reject.stage, reject.reason) == ("ingest", reason)
    assert detail in reject.detail


@pytest.mark.parametrize("license_", [None, 77, [4]])
def test_a_licence_that_is_not_named_is_unknown_and_left_to_the_filter(tmp_path: Path, license_: Any) -> None:
    captions, rejects = run(tmp_path, with_image(license=license_, file_name=None))
    assert not rejects
    assert (captions[-1].image_license, captions[-1].image_name) == (UNKNOWN_LICENSE, "")


def test_an_id_used_in_two_sources_is_kept_once(tmp_path: Path) -> None:
    captions, rejects = run(tmp_path, jsonl(row(1, caption="first"), row(2)), jsonl(row(1, caption="second"), row(3)))
    assert [(caption.id, caption.caption) for caption in captions] == [(1, "first"), (2, "a cat"), (3, "a cat")]
    assert [(reject.reason, reject.id, reject.image_id) for reject in rejects] == [("duplicate_id", 1, 7)]


def test_a_caption_keeps_its_id_whatever_becomes_of_it(tmp_path: Path) -> None:
    """So that which captions share an id can be told before anything else is known of them."""
    captions, rejects = run(tmp_path, jsonl(row(1), row(2, image_url="http://other"), row(2), row(3)))
    assert [caption.id for caption in captions] == [1, 3]
    assert [(reject.reason, reject.image_url) for reject in rejects] == [
        ("conflicting_image", "http://other"), ("duplicate_id", "http://images/7.jpg"),
    ]  # fmt: skip


def test_a_row_that_is_no_caption_may_give_its_id_to_a_later_one(tmp_path: Path) -> None:
    captions, _ = run(tmp_path, jsonl(row(1, caption=5), row(1)))
    assert [caption.id for caption in captions] == [1]


def test_an_image_whose_id_is_true_is_not_image_1(tmp_path: Path) -> None:
    captions, _ = run(tmp_path, coco(images=[*IMAGES, {**IMAGES[0], "id": True, "coco_url": "http://wrong"}]))
    assert captions[0].image_url == "http://coco/1.jpg"


def test_a_json_lines_file_may_begin_with_a_bad_line(tmp_path: Path) -> None:
    captions, rejects = run(tmp_path, b"oops\n" + jsonl(row(1), row(2)))
    assert (len(captions), len(rejects)) == (2, 1)


def test_too_many_rejects_fail_the_step_and_are_there_to_be_looked_at(tmp_path: Path) -> None:
    rows = jsonl(row(1), row(1), row(1), row(2))
    assert len(run(tmp_path, rows, max_reject_ratio=0.5)[1]) == 2
    with pytest.raises(StepFailedError, match=r"2 of 4 rows were rejected \(duplicate_id 2\).*--max-reject-ratio"):
        run(tmp_path, rows, max_reject_ratio=0.49)
    assert len((tmp_path / "out" / "rejects.jsonl").read_bytes().splitlines()) == 2
    with pytest.raises(InvalidInputError, match="has no manifest"):
        open_artifact(str(tmp_path / "out"))


@pytest.mark.parametrize("source", [jsonl(row(1, caption=5)), coco(annotations=[]), HEADER.encode()])
def test_no_caption_at_all_fails_the_step_whatever_the_ratio(tmp_path: Path, source: bytes) -> None:
    with pytest.raises(StepFailedError):
        run(tmp_path, source, max_reject_ratio=1.0)


def refused(folder: Path, uri: str, **parameters: Any) -> str:
    """Ingest `uri` and return the error, which is one line and names it."""
    with pytest.raises(InvalidInputError) as raised:
        ingest(str(folder / "out"), IngestParameters(sources=(uri,), **parameters))
    message = str(raised.value)
    assert message.startswith((f"{uri}: ", f"{uri!r}: "))
    assert "\n" not in message
    assert not (folder / "out" / "manifest.json").exists()
    return message


PACKED = gzip.compress(jsonl(*(row(n, caption=random.Random(n).randbytes(30).hex()) for n in range(3000))))


def damaged(data: bytes, start: int) -> bytes:
    return data[:start] + b"\xff" * 500 + data[start + 500 :]


def encrypted() -> bytes:
    """A zip file whose entry says that it is encrypted, in both its headers."""
    data = bytearray(zipped({"captions.json": coco()}))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    return bytes(data)


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xef\xbb\xbf", id="byte order mark alone"),
        pytest.param(b"hello world\n", id="text"),
        pytest.param(b"id,caption\n1,a cat\n", id="CSV without the columns"),
        pytest.param((HEADER + "7,1,a cat,u,n,l\n").replace("\n", "\r\n").encode("utf-16"), id="UTF-16"),
        pytest.param(b"{}", id="empty object"),
        pytest.param(b'{"name": "package.json"}', id="other object"),
        pytest.param(b"[1, 2, 3]", id="array"),
        pytest.param(coco()[:-20], id="COCO cut off"),
        pytest.param(coco() + b"more", id="COCO and more"),
        pytest.param(coco().replace(b"picture", b"\xff"), id="COCO not in UTF-8"),
        pytest.param(random.Random(0).randbytes(100_000), id="random bytes"),
        pytest.param(bytes(range(256)) * 10, id="all bytes"),
        pytest.param(bytes(100_000), id="zeros"),
        pytest.param(base64.b64decode("/9j/4AAQSkZJRgABAQEASABIAAD/2wBDAAEB"), id="JPEG"),
        pytest.param(PACKED[: len(PACKED) // 2], id="gz cut off"),
        pytest.param(PACKED[:8], id="gz header alone"),
        pytest.param(PACKED[:-8] + bytes(8), id="gz with a wrong checksum"),
        pytest.param(damaged(PACKED, len(PACKED) // 2), id="gz damaged inside"),
        pytest.param(PACKED[:10] + b"\xff" * 500, id="gz damaged at once"),
        pytest.param(gzip.compress(b"hello"), id="gz of something else"),
        pytest.param(zipped({}), id="empty zip"),
        pytest.param(encrypted(), id="encrypted zip"),
        pytest.param(zipped({"captions.json": coco(), "more.txt": b"x"})[:-30], id="zip cut off"),
        pytest.param(damaged(zipped({"a.jsonl": gzip.decompress(PACKED)}), 40), id="zip damaged inside"),
        pytest.param(zipped({"a.json": coco(), "b.json": coco()}), id="zip with a choice"),
        pytest.param(zipped({"a.txt": b"hello"}), id="zip of something else"),
    ],
)
def test_a_source_that_cannot_be_used_is_refused_in_one_line(tmp_path: Path, source: bytes) -> None:
    path = tmp_path / "source"
    path.write_bytes(source)
    refused(tmp_path, str(path))


@settings(deadline=None)
@given(
    head=st.sampled_from([b"", b"{", b'{"images": [', b"\x1f\x8b", b"PK\x03\x04", HEADER.encode()]), tail=st.binary()
)
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, head: bytes, tail: bytes) -> None:
    try:
        run(tmp_path_factory.mktemp("any"), head + tail)
    except (InvalidInputError, StepFailedError) as error:
        assert "\n" not in str(error)  # noqa: PT017


def test_what_is_not_there_or_no_file_is_refused(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path, str(tmp_path / "missing.json"))
    refused(tmp_path, str(tmp_path))
    refused(tmp_path, "nowhere://bucket/captions.json")
    refused(tmp_path, "http://127.0.0.1:9/captions.json", allow_host=("127.0.0.1",))
    with pytest.raises(InvalidInputError, match=r"^--sources: "):
        ingest(str(tmp_path / "out"), IngestParameters())


def test_a_server_that_fails_is_one_line_too(tmp_path: Path, site: Site) -> None:
    def break_off(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        handler.wfile.write(coco())
        handler.close_connection = True

    site.pages["/500"] = lambda handler: send(handler, b"", 500)
    site.pages["/403"] = lambda handler: send(handler, b"", 403)
    site.pages["/broken"] = break_off
    for page in ("/missing", "/500", "/403", "/broken"):
        assert "cannot be fetched" in refused(tmp_path, site.url + page, allow_host=("127.0.0.1",))


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(b'{"images": ' + b"[" * 10_000, id="deep nesting"),
        pytest.param(b'{"info": ' + b'{"a":' * 10_000, id="deep nesting of objects"),
        pytest.param(HEADER.encode() + b"x" * (64 << 20), id="CSV row without end"),
        pytest.param(jsonl(row(1, caption="x" * (64 << 20))), id="JSON line without end"),
    ],
)
def test_hostile_sources_take_little_memory(tmp_path: Path, source: bytes) -> None:
    path = tmp_path / "source"
    path.write_bytes(source)
    tracemalloc.start()
    try:
        with pytest.raises((InvalidInputError, StepFailedError)):
            ingest(str(tmp_path / "out"), IngestParameters(sources=(str(path),)))
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


# Joined gzip files are a gzip file; joining makes a large one quickly.
def gzip_bomb() -> bytes:
    return gzip.compress(jsonl(row(1))) + gzip.compress(bytes(1 << 24)) * 22


def zip_bomb() -> bytes:
    return zipped({"captions.jsonl": jsonl(row(1)) + bytes(340 << 20)})


@pytest.mark.parametrize("bomb", [gzip_bomb, zip_bomb])
def test_an_archive_that_unpacks_without_end_is_stopped(tmp_path: Path, bomb: Callable[[], bytes]) -> None:
    path = tmp_path / "bomb"
    path.write_bytes(bomb())
    assert "unpacks to over" in refused(tmp_path, str(path))


def test_a_rerun_that_fails_leaves_no_manifest_behind(tmp_path: Path) -> None:
    run(tmp_path, jsonl(row(1)))
    assert (tmp_path / "out" / "manifest.json").exists()
    with pytest.raises(InvalidInputError):
        run(tmp_path, coco()[:-20])
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize("theirs", ["{}", "[]", "not JSON", json.dumps({"kind": "model"})])
def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path, theirs: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.json").write_text(theirs)
    with pytest.raises(InvalidInputError, match="holds something"):
        run(tmp_path, jsonl(row(1)))
    assert (tmp_path / "out" / "manifest.json").read_text() == theirs
