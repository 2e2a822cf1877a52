"""captions.csv holds what was ingested, and in a spreadsheet no cell of it is a formula."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captionflow.core.records import ImageCaption, to_json_line
from captionflow.preprocess.cleaning import clean_caption
from captionflow.sources.csv_export import COLUMNS, FILE, export_csv, without_formulas
from captionflow.sources.ingest import ingest
from captionflow.sources.parameters import IngestParameters
from tests.ingesting import CAPTION, ingest_records
from tests.spreadsheets import ATTACKS

pytestmark = pytest.mark.security

FORMULAS = "=+-@＝＋－＠\t\r\0"


def exported(tmp_path: Path, **attack: str) -> str:
    records = [replace(CAPTION, id=-7, image_id=-3, **attack), CAPTION]
    return Path(export_csv(ingest_records(records, tmp_path), str(tmp_path / "csv")), FILE).read_text()


def is_formula(cell: str) -> bool:
    return cell.lstrip(' "“\u00a0\u200b').startswith(tuple(FORMULAS))


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("column", ["caption", "image_url", "image_name", "image_license"])
def test_no_text_is_a_formula_whatever_parts_the_cells(tmp_path: Path, column: str, attack: str) -> None:
    lines = exported(tmp_path, **{column: attack}).splitlines()
    assert len(lines) == 3
    (row,) = csv.DictReader(lines[:2])
    assert not is_formula(row[column])
    assert (row["id"], row["image_id"]) == ("-7", "-3")  # numbers, which no text can stand behind
    # A spreadsheet may part at semicolons too: by the user's locale, or by LibreOffice's own choice.
    for cells in (lines[1].split(";"), *csv.reader(lines[1:2], delimiter=";")):
        assert not any(map(is_formula, cells[1:]))


@pytest.mark.parametrize(
    "text", ["A dog.", "A black-and-white cat; it sleeps", "'=1", "http://x/a=b?c=-1", "", "5 = 5"]
)
def test_what_is_no_formula_stays_as_it_is(text: str) -> None:
    assert without_formulas(text) == text


@given(st.text(st.characters(exclude_categories=["Cs"])) | st.text("=+-@;'\"\0 aΣσ\u0301.:/w"))
def test_the_words_stay_the_same(text: str) -> None:
    assert clean_caption(without_formulas(text)) == clean_caption(text)
    assert without_formulas(without_formulas(text)) == without_formulas(text)


def test_the_csv_holds_what_was_ingested(tmp_path: Path) -> None:
    texts = ['He said "hi", twice', "two\nlines \t and  blanks", "ünï"]
    records = [replace(CAPTION, id=i, caption=text) for i, text in enumerate(texts)]
    uri = export_csv(ingest_records(records, tmp_path), str(tmp_path / "csv"))
    lines = Path(uri, FILE).read_text().splitlines()
    assert lines[0] == ",".join(COLUMNS)
    assert len(lines) == 4
    again = Path(ingest(str(tmp_path / "again"), IngestParameters(sources=(f"{uri}/{FILE}",))), "captions.jsonl")
    expected = [replace(record, caption=" ".join(record.caption.split())) for record in records]
    assert again.read_bytes() == b"".join(map(to_json_line, expected))
    assert ImageCaption.from_json(again.read_bytes().splitlines()[0]).caption == texts[0]
