"""Caption files that once crashed the reader or made it hold without bound what they hold."""

import io
import json
import subprocess
import sys
import tracemalloc
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captionflow.core.errors import InvalidInputError, StepFailedError
from captionflow.sources.bounded import JSONReader
from captionflow.sources.ingest import ingest
from captionflow.sources.parameters import IngestParameters
from tests.test_ingest import ANNOTATIONS, COCO_CAPTIONS, HEADER, IMAGES, LICENSES, coco, jsonl, row, run, zipped

pytestmark = pytest.mark.security

MEGABYTE = 1_000_000


def with_number(number: str, at: int) -> bytes:
    """COCO whose second image has `number` in a field of no interest, that many bytes after its beginning."""
    begin = '{"images": [' + json.dumps(IMAGES[0]) + ', {"height": '
    rest = json.dumps(IMAGES[1])[1:] + "], " + json.dumps({"licenses": LICENSES, "annotations": ANNOTATIONS})[1:]
    return f"{begin}{' ' * (at - len(begin))}{number}, {rest}".encode()


@pytest.mark.parametrize("at", [300, 64_000, 65_536])
@pytest.mark.parametrize("number", ["1" * 5000, "-" + "7" * 200_000])
def test_an_integer_without_end_is_one_line(tmp_path: Path, number: str, at: int) -> None:
    """In a process of its own: such a number once ended it."""
    source = tmp_path / "source.json"
    source.write_bytes(with_number(number, at))
    code = "import sys; from captionflow.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "ingest", "--sources", str(source), "--output", str(tmp_path / "out")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr[-500:]
    assert f"{source}: " in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", ["1e99999999999999999999", "-1.5E-99999999999999999999", "0.1e+" + "9" * 5000])
@pytest.mark.parametrize("at", [300, 65_530])
def test_an_exponent_without_end_is_one_line(tmp_path: Path, number: str, at: int) -> None:
    with pytest.raises(InvalidInputError, match=r"cannot be read|expected Parquet, or CSV"):
        run(tmp_path, with_number(number, at))


@pytest.mark.parametrize("number", ["1" * 300, "1e400", "-1E-400", "0." + "3" * 600, "1e999999999"])
def test_a_large_number_of_no_interest_is_let_be(tmp_path: Path, number: str) -> None:
    assert run(tmp_path, with_number(number, 65_500)) == (COCO_CAPTIONS, [])


@pytest.mark.parametrize("shift", range(4))
def test_digits_in_a_caption_are_text(tmp_path: Path, shift: int) -> None:
    """Quotes and backslashes among them, at the places where one read ends and the next begins."""
    text = " " * shift + '1\\"' * 30_000 + "1" * 200_000
    captions, rejects = run(tmp_path, coco(annotations=[{**ANNOTATIONS[0], "caption": text}]), max_text_bytes=10**6)
    assert [caption.caption for caption in captions] == [text]
    assert not rejects


JSON = st.recursive(
    st.none() | st.integers() | st.floats(allow_nan=False) | st.text(st.sampled_from('1"\\ ,:{é')),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.sampled_from('1"\\')), inner),
)


def pieces(data: bytes, sizes: Iterable[int]) -> bytes:
    """Read all of the data, so many bytes at a time."""
    reader, found = JSONReader(io.BytesIO(data)), b""
    for size in sizes:
        buffer = bytearray(size)
        found += bytes(buffer[: reader.readinto(buffer)])
    return found


@given(value=JSON, size=st.integers(1, 700))
def test_json_passes_however_it_is_cut(value: object, size: int) -> None:
    data = json.dumps([value, "1" * 2000, 12]).encode()
    assert pieces(data, [size] * len(data)) == data


@given(value=JSON, size=st.integers(1, 700))
def test_an_integer_without_end_is_found_however_it_is_cut(value: object, size: int) -> None:
    data = json.dumps([value, 12]).encode()[:-1] + b"1" * 1000 + b"]"
    with pytest.raises(ValueError, match="digits"):
        pieces(data, [size] * len(data))


def endless(begin: bytes, filling: bytes, path: Path) -> Path:
    with path.open("wb") as file:
        file.write(begin)
        for _ in range(200):
            file.write(filling * (MEGABYTE // len(filling)))
    return path


@pytest.mark.parametrize(
    ("begin", "filling"),
    [
        pytest.param(b'{"images": [{"file_name": "', b"x", id="string"),
        pytest.param(b'{"images": [], "', b"x", id="key"),
        pytest.param(b'{"info": "', b"x", id="string of no interest"),
        pytest.param(b'{"licenses": [{"id": 1, "more": [', b"1.25, ", id="row"),
        pytest.param(HEADER.encode() + b"7,1,", b'"\n",', id="CSV row of many lines"),
    ],
)
def test_a_row_without_end_is_not_held(tmp_path: Path, begin: bytes, filling: bytes) -> None:
    """What Python holds at a time. Small values take some twenty times the 24 MiB that a row may have."""
    source = endless(begin, filling, tmp_path / "source")
    with source.open("ab") as file:
        file.write(b'"')
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInputError, match="a row is longer than"):
            ingest(str(tmp_path / "out"), IngestParameters(sources=(str(source),)))
        assert tracemalloc.get_traced_memory()[1] < 700 * MEGABYTE
    finally:
        tracemalloc.stop()


def test_rows_may_be_many(tmp_path: Path) -> None:
    """Together they are longer than one may be."""
    images = [{**IMAGES[0], "id": n, "more": "x" * 10_000} for n in range(2500)]
    captions, rejects = run(tmp_path, coco(images=images))
    assert (len(captions), rejects) == (2, [])
    table = HEADER + "".join(f'7,{n},"{"x" * 10_000}",u,n,l\n' for n in range(2500))
    captions, rejects = run(tmp_path, table.encode(), max_captions=2500)
    assert (len(captions), rejects) == (2500, [])


@pytest.mark.parametrize("number", ["1" * 5000, "-" + "1" * 5000])
def test_a_long_number_in_a_table_is_a_reject(tmp_path: Path, number: str) -> None:
    captions, rejects = run(tmp_path, f"{HEADER}7,1,a,u,n,l\n7,{number},b,u,n,l\n".encode())
    assert (len(captions), [reject.reason for reject in rejects]) == (1, ["ill_typed_field"])


@pytest.mark.parametrize("number", ["1" * 5000, "1" * 4000, "1e99999999999999999999"])
def test_a_long_number_in_json_lines_is_a_reject(tmp_path: Path, number: str) -> None:
    bad = jsonl(row(2)).replace(b'"id": 2', b'"id": ' + number.encode())
    for lines in (jsonl(row(1)) + bad, bad + jsonl(row(1))):
        captions, rejects = run(tmp_path, lines)
        assert (len(captions), len(rejects)) == (1, 1)


def test_a_column_named_with_a_line_break_is_no_traceback(tmp_path: Path) -> None:
    names = 'id,image_id,image_url,image_name,image_license,"caption\nx"\n1,5,http://x/y,n,l,a\n'
    (tmp_path / "source.csv").write_text(names)
    with pytest.raises((InvalidInputError, StepFailedError)):
        ingest(str(tmp_path / "out"), IngestParameters(sources=(str(tmp_path / "source.csv"),)))


def test_a_zip_of_a_later_version_is_one_line(tmp_path: Path) -> None:
    packed = bytearray(zipped({"captions.json": coco()}))
    entry = packed.index(b"PK\x01\x02")
    packed[entry + 6] = 99
    (tmp_path / "source.zip").write_bytes(packed)
    with pytest.raises(InvalidInputError):
        ingest(str(tmp_path / "out"), IngestParameters(sources=(str(tmp_path / "source.zip"),)))
