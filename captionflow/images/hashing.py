"""The perceptual hash of a picture: that of one which looks the same differs in a few bits."""

import dhash
from PIL import Image

from captionflow.images.formats import HASH_SIDE

_GRAYS = HASH_SIDE + 1
SMALLEST = (4 * _GRAYS, 4 * _GRAYS)
"""Width and height in pixels of the smallest picture that has about the hash of a larger one."""

# A step of brightness counts if it is that large, of 255, and a picture is hashed if so many of its steps count. On
# flat ground the hash is chance: it would take two logos on white for the same. Of 2,000 photographs of Flickr8k the
# flattest has 0.41 such steps.
_LEAST_STEP, _LEAST_SHARE = 3, 1 / 3


def perceptual_hash(picture: Image.Image) -> bytes:
    """Return the difference hash of a picture: for each place, whether it grows brighter to the right, and downwards.

    After Krawetz 2013, "Kind of Like That" (hackerfactor.com/blog). A picture that is mostly flat has none: b"".
    """
    grays = list(picture.convert("L").resize((_GRAYS, _GRAYS), Image.Resampling.LANCZOS).tobytes())
    if _share_of_steps(grays) < _LEAST_SHARE:
        return b""
    return bytes(dhash.format_bytes(*dhash.dhash_row_col(grays, HASH_SIDE), HASH_SIDE))


def _share_of_steps(grays: list[int]) -> float:
    """Return the share, of the neighbours that are compared, that differ by a step."""
    places = [y * _GRAYS + x for y in range(HASH_SIDE) for x in range(HASH_SIDE)]
    neighbours = [abs(grays[place] - grays[place + way]) for place in places for way in (1, _GRAYS)]
    return sum(step >= _LEAST_STEP for step in neighbours) / len(neighbours)
