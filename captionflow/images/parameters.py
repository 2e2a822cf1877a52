"""How a picture is fetched, decoded and stored."""

from dataclasses import dataclass
from typing import Any, Literal

from captionflow.core.parameters import Parameters, parameter
from captionflow.images.formats import IMAGE_FORMATS
from captionflow.web.parameters import AccessParameters

_NO_TRAINING = frozenset({"noai", "noimageai"})
ROBOTS_TAGS = {
    "respect": _NO_TRAINING,
    "strict": _NO_TRAINING | {"noindex", "noimageindex"},
    "ignore": frozenset[str](),
}
"""The choices of `x_robots_tag`: the words of the header that reject an image."""


def bound(none: float, description: str, most: float) -> Any:
    """Declare the bound of a filter.

    Args:
        none: 0 of the parameter's type, the default.
        most: the largest that can be given.
    """
    return parameter(none, f"{description} 0: as the filters' preset says.", minimum=none, maximum=most)


@dataclass(frozen=True, kw_only=True)
class PictureFilterParameters(Parameters):
    """Which pictures are kept."""

    min_side: int = bound(0, "Height and width that the original must have at least, in pixels.", 10_000)
    max_aspect_ratio: float = bound(0.0, "Largest ratio of the original's long side to its short one.", 1000.0)
    min_contrast: float = bound(
        0.0,
        "Least standard deviation, in levels of 0 to 255, of the picture's most varied colour channel. A single colour "
        "has 0.",
        128.0,
    )
    min_sharpness: float = bound(
        0.0,
        "Least variance of the Laplacian of the picture in grey, at the size it is stored. Blurred pictures have less.",
        16_384.0,
    )


@dataclass(frozen=True, kw_only=True)
class StoredImageParameters(Parameters):
    """The form in which a picture is stored."""

    image_size: int = parameter(
        224,
        "Height and width of the stored images, in pixels; a multiple of 16, as the captioner needs.",
        minimum=32,
        maximum=2048,
        multipleOf=16,
        common=True,
    )
    resize: Literal["squash", "crop", "pad"] = parameter(
        "squash",
        "squash: ignore the aspect ratio; crop: fill the square and cut the rest; pad: fit inside and fill with black.",
    )
    downscaling: Literal["fast", "exact"] = parameter(
        "fast",
        "fast: decode JPEGs at the smallest scale that suffices and average with a narrow filter; exact: decode in "
        "full and resample with Lanczos, at about twice the time. They differ by less than 2/255 a pixel on average.",
    )
    image_format: str = parameter(
        "jpeg", "Stored form; tensor is raw uint8 (3, height, width), read without decoding.", enum=[*IMAGE_FORMATS]
    )
    jpeg_quality: int = parameter(95, "JPEG quality of the stored images.", minimum=1, maximum=100)


@dataclass(frozen=True, kw_only=True)
class HashParameters(Parameters):
    """What is told of a stored picture, so that the same one is found again."""

    duplicates: Literal["none", "exact", "near"] = parameter(
        "none",
        "Of pictures that are the same one stays, so no two splits share one. exact: stored bytes that are equal; "
        "near: also pictures that look alike, as after resizing or re-encoding; none: all stay.",
    )


@dataclass(frozen=True, kw_only=True)
class FetchParameters(AccessParameters):
    """How pictures are fetched."""

    fetch_concurrency: int = parameter(
        64, "Images being fetched at the same time by one worker.", minimum=1, maximum=1024
    )
    fetch_connect_timeout: float = parameter(10.0, "Seconds to reach a host.", minimum=0.1, maximum=600.0)
    fetch_timeout: float = parameter(
        30.0, "Seconds one attempt at an image may take in all.", minimum=0.1, maximum=600.0
    )
    fetch_total_timeout: float = parameter(
        90.0, "Seconds all attempts at an image may take together.", minimum=0.1, maximum=3600.0
    )
    fetch_retries: int = parameter(3, "Further attempts at an image after a passing failure.", minimum=0, maximum=10)
    host_concurrency: int = parameter(
        64, "Requests one worker makes to one host at the same time.", minimum=1, maximum=1024
    )
    host_rate: float = parameter(
        0.0, "Requests a second one worker makes to one host; 0 sets no limit.", minimum=0.0, maximum=10_000.0
    )
    host_failures: int = parameter(
        32,
        "Failures in a row after which a host is left alone for a minute; its images become retryable rejects. "
        "0 leaves none alone.",
        minimum=0,
        maximum=10_000,
    )
    user_agent: str = parameter(
        "CaptionFlow (image dataset preprocessing)",
        "How the job names itself to web servers; say who you are, in printable ASCII.",
        pattern="^[ -~]+$",
    )
    x_robots_tag: str = parameter(
        "respect",
        "Which words of a server's X-Robots-Tag reject an image. respect: noai, noimageai; strict: also noindex, "
        "noimageindex; ignore: none.",
        enum=[*ROBOTS_TAGS],
    )
    robots_txt: Literal["respect", "ignore"] = parameter(
        "ignore", "respect: read each server's robots.txt, and reject the images that it forbids robots to fetch."
    )


@dataclass(frozen=True, kw_only=True)
class DecodeParameters(Parameters):
    """Limits of one picture: size, CPU time, memory."""

    max_image_megabytes: int = parameter(50, "Largest image file accepted, in MB.", minimum=1, maximum=1024)
    max_image_megapixels: int = parameter(64, "Largest picture decoded, in millions of pixels.", minimum=1, maximum=80)
    decode_seconds: float = parameter(
        20.0, "Seconds of CPU time one picture may take to decode.", minimum=0.1, maximum=600.0
    )
    decode_megabytes: int = parameter(2048, "Memory one picture may take to decode, in MB.", minimum=16, maximum=65536)


@dataclass(frozen=True, kw_only=True)
class ImageParameters(
    DecodeParameters, FetchParameters, HashParameters, StoredImageParameters, PictureFilterParameters, AccessParameters
):
    """All parameters of one picture; the fields are those of the bases, the last first."""
