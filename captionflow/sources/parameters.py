"""The parameters of the ingest step."""

from dataclasses import dataclass
from typing import Literal

from captionflow.core.parameters import FETCHED, SOURCE, RejectParameters, parameter
from captionflow.web.parameters import AccessParameters


@dataclass(frozen=True, kw_only=True)
class IngestParameters(RejectParameters, AccessParameters):
    """Which captions are read, and how."""

    sources: tuple[str, ...] = parameter(
        (),
        "Caption files: COCO or Karpathy JSON (also .gz or .zip), Parquet, CSV, JSON Lines or Flickr tokens; path, "
        "file://, http(s)://, gs:// or s3://; a pattern (DIR/*.parquet), a folder of Parquet or with metadata.jsonl. "
        "train=URI puts the images of a file into that split, val+test=URI divides them between two.",
        reaches=SOURCE,
        common=True,
    )
    url_col: str | None = parameter(
        None,
        "Column of the image's URL or path in Parquet, CSV, JSON Lines; by default image_url, url, URL or file_name.",
    )
    caption_col: str | None = parameter(None, "Column of the caption there; by default caption, text or TEXT.")
    id_col: str | None = parameter(
        None,
        "Column of the caption's id there, an integer or text; by default id, or else a hash of image and caption.",
    )
    license_col: str | None = parameter(None, "Column of the image's licence there; by default image_license.")
    split_col: str | None = parameter(None, "Column of the image's split there; by default split.")
    member: str | None = parameter(None, "Which file to read inside a .zip source that holds several.")
    url_field: Literal["coco_url", "flickr_url"] = parameter("coco_url", "Which URL of a COCO image to use.")
    image_root: tuple[str, ...] = parameter(
        (),
        "Folder (path or URL) that holds the images of COCO, Karpathy and Flickr files by name, used instead of URLs: "
        "one for all sources, or one for each.",
        reaches=FETCHED,
        common=True,
    )
    restval: Literal["train", "val", "reject"] = parameter(
        "train", "What becomes of the images that Karpathy's files call restval; train is usual."
    )
    max_text_bytes: int = parameter(
        10_000,
        "Longest caption, URL, file name or licence, in bytes of UTF-8; a row with a longer one is rejected.",
        minimum=1,
        maximum=1_000_000,
    )
    max_captions: int = parameter(
        20, "Captions taken of one image, the first in the sources; more are rejected.", minimum=1, maximum=10_000
    )
    max_source_megabytes: int = parameter(
        10_000, "Largest source fetched over the network, in MB.", minimum=1, maximum=1_000_000
    )
    max_source_seconds: float = parameter(
        3600.0, "Seconds that fetching one source over the network may take.", minimum=0.1, maximum=86_400.0
    )
