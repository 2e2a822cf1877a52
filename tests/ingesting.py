"""Captions through the real ingest step."""

from pathlib import Path

from captionflow.core.records import ImageCaption, to_json_line
from captionflow.sources.ingest import ingest
from captionflow.sources.parameters import IngestParameters

CAPTION = ImageCaption(1, 1, "A dog.", "http://x/1.jpg", "1.jpg", "Attribution License")


def ingest_records(records: list[ImageCaption], folder: Path) -> str:
    """Ingest the records; returns the artifact's URI."""
    folder.mkdir(exist_ok=True)
    source = folder / "captions.jsonl"
    source.write_bytes(b"".join(map(to_json_line, records)))
    return ingest(str(folder / "ingested"), IngestParameters(sources=(str(source),)))
