"""Which pictures are kept: filters by size and by what is seen, asked in the sandbox. A new one is one row."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from PIL import Image, ImageFilter, ImageStat

T = TypeVar("T")

_LAPLACIAN = ImageFilter.Kernel((3, 3), (0, 1, 0, 1, -4, 1, 0, 1, 0), scale=1, offset=128)


@dataclass(frozen=True)
class Filter(Generic[T]):
    """A bound on a number that is measured of a caption or of a picture.

    Args:
        parameter: the one that holds the bound, min_… for the least or max_… for the most that is kept; 0 is no bound.
        reason: that of the Rejects.
        measure: returns the number.
    """

    parameter: str
    reason: str
    measure: Callable[[T], float]

    def refusal(self, subject: T, bound: float) -> str | None:
        """Return the number that is out of bounds and the bound, as a text; None keeps the subject."""
        number = self.measure(subject)
        if self.parameter.startswith("min_"):
            return f"{number:g} is below {bound:g}" if number < bound else None
        return f"{number:g} is above {bound:g}" if number > bound else None


def refusal(filters: Iterable[Filter[T]], subject: T, parameters: Any) -> tuple[str, str] | None:
    """Return reason and detail of the first filter that refuses a caption or a picture; None keeps it."""
    for each in filters:
        bound = getattr(parameters, each.parameter)
        if bound and (detail := each.refusal(subject, bound)):
            return each.reason, detail
    return None


def smallest_side(image: Image.Image) -> int:
    """Return height or width in pixels, whichever is less."""
    return min(image.size)


def aspect_ratio(image: Image.Image) -> float:
    """Return the long side divided by the short one."""
    return max(image.size) / min(image.size)


def contrast(image: Image.Image) -> float:
    """Return the standard deviation of the channel that varies most: from 0, a single colour, to 127.5."""
    # What should be 0 may be a little less, of rounded sums.
    return float(max(0.0, *ImageStat.Stat(image).var) ** 0.5)


def sharpness(image: Image.Image) -> float:
    """Return the variance of the Laplacian of the grey picture; the fewer and softer its edges, the lower.

    After Pech-Pacheco et al. 2000, "Diatom autofocusing in brightfield microscopy: a comparative study", with the
    kernel of the four neighbours. Its values are cut at -128 and 127, so a very sharp picture has less than by formula.
    """
    if min(image.size) < 3:
        return 0.0  # The kernel does not fit in.
    inner = (1, 1, image.width - 1, image.height - 1)
    return float(ImageStat.Stat(image.convert("L").filter(_LAPLACIAN).crop(inner)).var[0])


SIZE_FILTERS: tuple[Filter[Image.Image], ...] = (
    Filter("min_side", "image_too_small", smallest_side),
    Filter("max_aspect_ratio", "extreme_aspect_ratio", aspect_ratio),
)
"""Asked about the original before it is decoded, so with its header alone."""

PIXEL_FILTERS: tuple[Filter[Image.Image], ...] = (
    Filter("min_contrast", "blank_image", contrast),
    Filter("min_sharpness", "blurred_image", sharpness),
)
"""Asked about the picture in RGB at the size at which it is stored, without the black around it."""

PICTURE_FILTERS = (*SIZE_FILTERS, *PIXEL_FILTERS)
REASONS = frozenset(each.reason for each in PICTURE_FILTERS)
