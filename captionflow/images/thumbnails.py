"""Small JPEGs of stored pictures, to look at."""

import threading

from captionflow.images.decode import ImageError, encode, of_tensor
from captionflow.images.formats import IMAGE_FORMATS
from captionflow.images.parameters import ImageParameters, StoredImageParameters
from captionflow.images.sandbox import Sandbox

LARGEST = 32_000
"""Bytes that a thumbnail may have."""

_WIDEST = 256
# Of one that is made: at most 3/4 of a byte a pixel, as noise takes, is well below the largest.
_SIDE, _QUALITY = 192, 75


class Thumbnails:
    """Makes thumbnails; safe to share between threads. A picture is decoded in a sandbox, begun when it is needed.

    Args:
        parameters: the form in which the pictures are stored.
    """

    def __init__(self, parameters: StoredImageParameters) -> None:
        self._format, self._side = parameters.image_format, parameters.image_size
        self._sandbox: Sandbox | None = None
        self._lock = threading.Lock()

    def of(self, image: bytes) -> bytes | None:
        """Return a JPEG of at most `LARGEST` bytes: the stored picture if it is one; None if none can be made."""
        if self._format == "jpeg" and len(image) <= LARGEST and self._side <= _WIDEST:
            return image
        made = self._decoded(image) if IMAGE_FORMATS[self._format].pillow else _of_pixels(image, self._side)
        return made if made and len(made) <= LARGEST else None

    def close(self) -> None:
        """End the sandbox, if there is one."""
        if self._sandbox:
            self._sandbox.close()

    def _decoded(self, image: bytes) -> bytes | None:
        with self._lock:
            if not self._sandbox:
                side = min(self._side, _SIDE)
                self._sandbox = Sandbox(ImageParameters(image_size=side, image_format="jpeg", jpeg_quality=_QUALITY))
        try:
            return self._sandbox.process(image).data
        except ImageError:
            return None


def _of_pixels(image: bytes, side: int) -> bytes | None:
    """Make a thumbnail of raw uint8 of shape (3, side, side), which need no decoder."""
    if len(image) != 3 * side**2:
        return None
    picture = of_tensor(image, side)
    picture.thumbnail((_SIDE, _SIDE))
    return encode(picture, "jpeg", _QUALITY)
