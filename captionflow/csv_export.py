"""The ingested captions as CSV, for what reads no JSON Lines: TFX's CsvExampleGen."""

import csv
import io
from dataclasses import asdict, fields

from captionflow.artifacts import begin, open_artifact
from captionflow.kinds import CSV, INGESTED
from captionflow.records import CAPTIONS, ImageCaption

FILE = "captions.csv"


def export_csv(ingested: str, output: str) -> str:
    """Write the captions of the ingested artifact, in their order, as the artifact at `output`; returns its URI.

    The file has one header line, the columns of ImageCaption, and one line a caption: white space in a
    text is folded, since TFX takes each line of a file as a row.

    Raises:
        InvalidInputError: `ingested` is no ingested artifact.
    """
    source = open_artifact(ingested, INGESTED)
    draft = begin(output, CSV, {}, [source.parent])
    count = 0
    with source.open(CAPTIONS) as lines, draft.output(FILE) as file:
        text = io.StringIO(newline="")
        rows = csv.DictWriter(text, [field.name for field in fields(ImageCaption)], lineterminator="\n")
        rows.writeheader()
        for line in lines:
            record = asdict(ImageCaption.from_json(line))
            rows.writerow({name: " ".join(v.split()) if isinstance(v, str) else v for name, v in record.items()})
            file.write(text.getvalue().encode())
            text.seek(0)
            text.truncate()
            count += 1
    draft.commit([file.info], counts={"captions": count})
    return draft.uri
