"""Images: decode whatever the web sends to RGB, resize to a square, encode for storage."""

import io
import struct
import warnings
from dataclasses import dataclass

from PIL import Image, ImageOps, UnidentifiedImageError

from captionflow.parameters import PreprocessParameters

# Only these decoders: others (EPS, for one) start programs or have no place in an image dataset.
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")
_BACKGROUND = (255, 255, 255)
_MEGAPIXEL = 1_000_000
# Broken metadata is the web's daily bread and not worth a line in the log each.
warnings.filterwarnings("ignore", module=r"PIL\.")
# libjpeg can decode at 1/2, 1/4 or 1/8 almost for free; twice the target keeps the resampling honest.
_DRAFT_FACTOR = 2


class ImageError(Exception):
    """The bytes are no picture we can use. `reason` is a short name."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class StoredImage:
    """A picture as a Sample holds it; height and width in pixels."""

    data: bytes
    height: int
    width: int


def process(data: bytes, parameters: PreprocessParameters) -> StoredImage:
    """Decode, orient, resize and encode one picture.

    Raises:
        ImageError: it is not an image, is broken, or has more pixels than allowed.
    """
    size = parameters.image_size
    image = decode(data, max_pixels=parameters.max_image_megapixels * _MEGAPIXEL, target=size)
    image = resize(image, size, parameters.resize)
    return StoredImage(encode(image, parameters.image_format, parameters.jpeg_quality), image.height, image.width)


def decode(data: bytes, *, max_pixels: int, target: int | None = None) -> Image.Image:
    """Return the picture in RGB, upright, transparency laid over white; the first frame if it moves.

    Args:
        max_pixels: refuse a picture whose header promises more.
        target: the side in pixels it will be resized to; a JPEG may be decoded at a smaller scale.

    Raises:
        ImageError: `not_an_image`, `too_many_pixels` or `corrupt_image`.
    """
    try:
        return _decode(data, max_pixels, target)
    except UnidentifiedImageError as error:
        raise ImageError("not_an_image", "no known image format") from error
    except Image.DecompressionBombError as error:
        raise ImageError("too_many_pixels", str(error)) from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, IndexError, KeyError, TypeError) as error:
        # Pillow's decoders raise all of these on broken files.
        raise ImageError("corrupt_image", str(error)) from error


def _decode(data: bytes, max_pixels: int, target: int | None) -> Image.Image:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        if image.width * image.height > max_pixels:
            raise ImageError("too_many_pixels", f"{image.width}×{image.height} is over {max_pixels} pixels")
        if target is not None:
            image.draft("RGB", (target * _DRAFT_FACTOR, target * _DRAFT_FACTOR))
        image.load()
        return _upright(to_rgb(image), image.getexif())


def _upright(image: Image.Image, exif: Image.Exif) -> Image.Image:
    if exif.get(0x0112, 1) == 1:  # Orientation; 1 is upright.
        return image
    image.getexif()[0x0112] = exif[0x0112]
    return ImageOps.exif_transpose(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """Return `image` in mode RGB, whatever its mode was."""
    if image.mode.startswith("I"):  # 16 bits a pixel, or 32 that hold 16.
        return image.convert("I").point(lambda value: value * (1 / 256)).convert("L").convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        background = Image.new("RGBA", layer.size, (*_BACKGROUND, 255))
        return Image.alpha_composite(background, layer).convert("RGB")
    return image.convert("RGB")


def resize(image: Image.Image, size: int, mode: str) -> Image.Image:
    """Return the picture as a square of `size` pixels.

    Args:
        mode: squash (ignore the aspect ratio), crop (fill and cut the rest) or pad (fit, black around).
    """
    square = (size, size)
    if mode == "crop":
        return ImageOps.fit(image, square, Image.Resampling.BICUBIC)
    if mode == "pad":
        return ImageOps.pad(image, square, Image.Resampling.BICUBIC)
    return image.resize(square, Image.Resampling.BICUBIC)


def encode(image: Image.Image, image_format: str, jpeg_quality: int) -> bytes:
    """Return an RGB picture as a JPEG or PNG file, or as raw uint8 of shape (3, height, width)."""
    if image_format == "tensor":
        return b"".join(channel.tobytes() for channel in image.split())
    buffer = io.BytesIO()
    if image_format == "png":
        image.save(buffer, "PNG")
    else:
        image.save(buffer, "JPEG", quality=jpeg_quality)
    return buffer.getvalue()
