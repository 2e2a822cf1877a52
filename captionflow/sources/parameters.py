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
        "Caption files: COCO or Karpathy JSON (also .gz or .zip), CSV or JSON Lines; path, file://, http(s)://, gs:// "
        "or s3://. train=URI puts the images of a file into that split, val+test=URI divides them between two.",
        reaches=SOURCE,
        common=True,
    )
    member: str | None = parameter(None, "Which file to read inside a .zip source that holds several.")
    url_field: Literal["coco_url", "flickr_url"] = parameter("coco_url", "Which URL of a COCO image to use.")
    image_root: tuple[str, ...] = parameter(
        (),
        "Folder (path or URL) that holds the images of COCO and Karpathy files by name, used instead of their URLs: "
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
