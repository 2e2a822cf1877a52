"""The parameters of the ingest step."""

from dataclasses import dataclass
from typing import Literal

from captionflow.core.parameters import FETCHED, parameter
from captionflow.web.parameters import AccessParameters


@dataclass(frozen=True, kw_only=True)
class IngestParameters(AccessParameters):
    """Which captions are read, and how."""

    sources: tuple[str, ...] = parameter(
        (),
        "Caption files: COCO JSON (also .gz or .zip), CSV or JSON Lines; path, file://, http(s)://, gs:// or s3://.",
        reaches=FETCHED,
        common=True,
    )
    member: str | None = parameter(None, "Which file to read inside a .zip source that holds several.")
    url_field: Literal["coco_url", "flickr_url"] = parameter("coco_url", "Which URL of a COCO image to use.")
    image_root: tuple[str, ...] = parameter(
        (),
        "Folder (path or URL) that holds the COCO images by file name, used instead of their URLs: "
        "one for all sources, or one for each.",
        reaches=FETCHED,
        common=True,
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
    max_reject_ratio: float = parameter(
        0.5, "Fail when a larger share of the rows than this is rejected.", minimum=0.0, maximum=1.0
    )
