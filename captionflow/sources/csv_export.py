"""Write the ingested captions as CSV, which TFX's CsvExampleGen reads."""

import csv
import io
import re
from dataclasses import asdict

from captionflow.core.artifact import open_artifact
from captionflow.core.draft import begin
from captionflow.core.records import CAPTIONS, ImageCaption
from captionflow.core.steps import CSV, INGESTED
from captionflow.sources.rows import OPTIONAL, REQUIRED

FILE = "captions.csv"
COLUMNS = tuple(name for name in (*REQUIRED, *OPTIONAL) if name != "split")
"""Those of the file. TFX divides the rows into splits itself."""
# The start of a cell, since a spreadsheet may split at semicolons too, if a formula follows.
_FORMULA = re.compile(r"(^|;)(?!')(?=[^\w;]*[=+\-@＝＋－＠\x00])")


def export_csv(ingested: str, output: str) -> str:
    """Write the captions of the ingested artifact, in their order, as the artifact at `output`; returns its URI.

    The file has a header with the fields of ImageCaption but the split, and one line for each caption. White space in
    a text becomes single spaces, since TFX reads each line of a file as a row. No text is a spreadsheet's formula.

    Raises:
        InvalidInputError: `ingested` is no ingested artifact.
    """
    source = open_artifact(ingested, INGESTED)
    draft = begin(output, CSV, {}, [source.parent])
    count = 0
    with source.parse(CAPTIONS) as lines, draft.output(FILE) as file:
        text = io.StringIO(newline="")
        rows = csv.DictWriter(text, COLUMNS, lineterminator="\n", extrasaction="ignore")
        rows.writeheader()
        for line in lines:
            record = asdict(ImageCaption.from_json(line))
            rows.writerow({name: _cell(v) if isinstance(v, str) else v for name, v in record.items()})
            file.write(text.getvalue().encode())
            text.seek(0)
            text.truncate()
            count += 1
    draft.commit([file.info], counts={"captions": count})
    return draft.uri


def without_formulas(text: str) -> str:
    """Return `text` with an apostrophe before each formula; cleaning the caption removes it again."""
    return _FORMULA.sub(r"\1'", text)


def _cell(text: str) -> str:
    return without_formulas(" ".join(text.split()))
