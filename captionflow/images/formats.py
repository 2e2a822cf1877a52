"""The forms in which pictures are stored. A new one is one row here."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ImageFormat:
    """A form in which pictures are stored.

    Args:
        pillow: what Pillow calls it; None for raw uint8 of shape (3, height, width).
        begins: the first bytes of every picture in this form.
        compression: bytes stored for one byte of raw pixels, as seen on COCO photographs of 224 pixels.
    """

    pillow: str | None
    begins: bytes
    compression: float


IMAGE_FORMATS = {
    "jpeg": ImageFormat("JPEG", b"\xff\xd8\xff", 0.15),
    "png": ImageFormat("PNG", b"\x89PNG\r\n\x1a\n", 0.7),
    "tensor": ImageFormat(None, b"", 1.0),
}

HASH_SIDE = 8
"""Places in a row and in a column of a picture's perceptual hash, each of which gives two bits."""
HASH_BITS = 2 * HASH_SIDE**2
