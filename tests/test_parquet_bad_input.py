"""Parquet that is broken or hostile: refused in one line, or its rows counted as rejects."""

import gzip
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from captionflow.core.errors import InvalidInputError, StepFailedError
from captionflow.sources import parquet_format
from tests.tables import parquet
from tests.test_ingest import run
from tests.test_ingest_bad_input import refused

TABLE = {"url": [f"http://images/{n}.jpg" for n in range(300)], "text": [f"picture {n}" for n in range(300)]}
GOOD = parquet(TABLE)


def with_bad(field: str, value: Any, type_: pa.DataType | None = None) -> bytes:
    """A table of three rows, in which one value is bad."""
    table: dict[str, Any] = {"url": ["http://a", "http://b", "http://c"], "text": ["a", "b", "c"], "id": [1, 2, 3]}
    values = [table[field][0], value, table[field][2]]
    return parquet({**table, field: pa.array(values, type_ or pa.string())})


@pytest.mark.parametrize(
    ("source", "reason", "detail"),
    [
        (with_bad("url", None), "missing_field", "image_url"),
        (with_bad("text", None), "missing_field", "caption"),
        (with_bad("id", None, pa.int64()), "missing_field", "id"),
        (with_bad("id", 2.5, pa.float64()), "ill_typed_field", "id"),
        (with_bad("id", float("nan"), pa.float64()), "ill_typed_field", "id"),
        (with_bad("id", float("inf"), pa.float64()), "ill_typed_field", "id"),
        (with_bad("text", "x" * 20_000), "text_too_long", "caption"),
        (with_bad("id", 1, pa.int64()), "duplicate_id", "1"),
    ],
)
def test_a_bad_value_is_a_reject(tmp_path: Path, source: bytes, reason: str, detail: str) -> None:
    captions, rejects = run(tmp_path, source)
    assert len(captions) == 2
    assert [reject.reason for reject in rejects] == [reason]
    assert detail in rejects[0].detail


@pytest.mark.parametrize("stored", [pa.binary(), pa.string()])
def test_a_text_that_is_not_utf_8_is_a_reject(tmp_path: Path, stored: pa.DataType) -> None:
    texts = pa.Array.from_buffers(stored, 2, pa.array([b"\xff\xfe", b"fine"]).buffers())
    captions, rejects = run(tmp_path, parquet({"url": ["http://a", "http://b"], "text": texts}))
    assert ([c.caption for c in captions], [r.reason for r in rejects]) == (["fine"], ["ill_typed_field"])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"url": ["a"]}, "has no column of caption (--caption-col); it has url"),
        ({"text": ["a"], "li\nnk": ["b"]}, "has no column of image_url (--url-col); it has text, li nk"),
        ({"url": [["a"]], "text": ["a"]}, "its column 'url' holds nested values, not text"),
        ({"url": ["a"], "text": [{"en": "a"}]}, "its column 'text' holds nested values, not text"),
        ({"url": ["a"], "text": [5]}, "its column 'text' holds int64, not text"),
        ({"url": ["a"], "text": ["a"], "id": [True]}, "its column 'id' holds bool, not text or integers"),
        (pa.table([["a"], ["b"], ["c"]], names=["url", "text", "url"]), "has more than one column 'url'"),
    ],
)
def test_a_table_without_the_columns_is_refused(tmp_path: Path, table: Any, message: str) -> None:
    path = tmp_path / "table.parquet"
    path.write_bytes(parquet(table))
    assert refused(tmp_path, str(path)) == f"{path}: {message}"


def test_a_column_that_was_named_must_be_in_the_table(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    path.write_bytes(GOOD)
    said = refused(tmp_path, str(path), license_col="licence")
    assert said == f"{path}: has no column 'licence' (--license-col); it has url, text"


def nested(depth: int) -> bytes:
    """A file without rows whose columns are within each other, in the bytes of Thrift's compact protocol."""
    group, leaf = b"\x35\x00\x18\x01a\x15\x02\x00", b"\x15\x0c\x25\x00\x18\x01a\x00"
    count = bytes([(depth + 1) & 127 | 128, (depth + 1) >> 7])
    footer = b"\x15\x02\x19\xfc" + count + group * depth + leaf + b"\x16\x00\x19\x0c\x00"
    return b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1"


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(nested(200), id="nested columns"),
        pytest.param(nested(16_000), id="very deeply nested columns"),
        pytest.param(b"PAR1", id="signature alone"),
        pytest.param(b"PAR1PAR1", id="two signatures"),
        pytest.param(b"PAR1" + bytes(8) + b"PAR1", id="no footer"),
        pytest.param(b"PAR1" + b"\xff" * 100 + (50).to_bytes(4, "little") + b"PAR1", id="footer of anything"),
        pytest.param(b"PAR1" + (200).to_bytes(4, "little") + b"PAR1", id="footer larger than the file"),
        pytest.param(b"PAR1" + b"\xff\xff\xff\x7f" + b"PAR1", id="footer of 2 GB"),
        pytest.param(GOOD[:-1], id="cut off"),
        pytest.param(GOOD[: len(GOOD) // 2], id="cut in half"),
        pytest.param(GOOD[:4] + GOOD[200:], id="pages gone"),
        pytest.param(gzip.compress(GOOD), id="in an archive"),
    ],
)
def test_a_broken_file_is_refused_in_one_line(tmp_path: Path, source: bytes) -> None:
    path = tmp_path / "table.parquet"
    path.write_bytes(source)
    refused(tmp_path, str(path))


def test_a_large_footer_is_refused_before_it_is_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_format, "_MAX_FOOTER_BYTES", 100)
    path = tmp_path / "table.parquet"
    path.write_bytes(GOOD)
    assert "its footer has more than 100 bytes" in refused(tmp_path, str(path))


@pytest.mark.parametrize("seed", range(8))
def test_a_damaged_file_is_read_or_refused(tmp_path: Path, seed: int) -> None:
    """Bytes are changed in the pages and, as often, in the footer, which says where the pages are."""
    chance = random.Random(seed)
    footer = len(GOOD) - 8 - int.from_bytes(GOOD[-8:-4], "little")
    for _ in range(25):
        data = bytearray(GOOD)
        for _ in range(chance.randint(1, 4)):
            place = chance.randrange(4, footer) if chance.random() < 0.5 else chance.randrange(footer, len(GOOD) - 8)
            data[place] = chance.randrange(256)
        try:
            run(tmp_path, bytes(data))
        except (InvalidInputError, StepFailedError) as error:
            assert "\n" not in str(error)  # noqa: PT017


MEASURE = """
import json, sys
import pyarrow as pa
from captionflow.core.errors import CaptionFlowError
from captionflow.sources.ingest import ingest
from captionflow.sources.parameters import IngestParameters
try:
    ingest(sys.argv[2], IngestParameters(sources=(sys.argv[1],), max_reject_ratio=1.0))
    said = ""
except CaptionFlowError as error:
    said = str(error)
print(json.dumps([said, pa.default_memory_pool().max_memory()]))
"""


def measured(folder: Path, data: bytes) -> tuple[str, int]:
    """Ingest in a process of its own; return what it said and the bytes that Arrow held at most."""
    (folder / "table.parquet").write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(folder / "table.parquet"), str(folder / "out")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    said, held = json.loads(done.stdout)
    return said, held


@pytest.mark.slow
def test_a_group_of_very_many_rows_is_never_held_whole(tmp_path: Path) -> None:
    count = 30_000
    table = {"url": [f"http://images/{n}.jpg" for n in range(count)], "text": [f"{n:05}" * 300 for n in range(count)]}
    data = parquet(table, row_group_size=count, compression="zstd", use_dictionary=False)
    said, held = measured(tmp_path, data)
    assert said == ""
    assert held < 24 << 20 < 40 << 20 < sum(map(len, table["text"]))


@pytest.mark.slow
def test_a_dictionary_that_every_row_points_to_is_not_repeated(tmp_path: Path) -> None:
    rows, text = 20_000, "x" * (1 << 20)
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), [text])
    data = parquet({"url": pa.array(["http://a"] * rows), "text": texts}, compression="zstd")
    assert len(data) < 50_000
    said, held = measured(tmp_path, data)
    assert "unpacks to over" in said
    assert held < 120 << 20


def test_rows_without_end_are_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = 200_000
    monkeypatch.setattr(parquet_format, "_ROW_BYTES", 1000)
    nothing = pa.DictionaryArray.from_arrays(pa.nulls(rows, pa.int32()), pa.array([], pa.string()))
    data = parquet({"url": nothing, "text": nothing}, compression="zstd", row_group_size=rows)
    assert len(data) < 5_000
    (tmp_path / "table.parquet").write_bytes(data)
    assert "unpacks to over" in refused(tmp_path, str(tmp_path / "table.parquet"))
