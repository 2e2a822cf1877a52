"""Images: decode whatever the web sends to RGB, resize to a square, encode for storage."""

import io
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module

from PIL import Image, UnidentifiedImageError

from captionflow.images import filters
from captionflow.images.formats import IMAGE_FORMATS
from captionflow.images.parameters import ImageParameters

# Only these decoders: others (EPS, for one) start programs or have no place in an image dataset.
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")
_BACKGROUND = (255, 255, 255)
_MEGAPIXEL = 1_000_000
# Broken metadata is too frequent for a line in the log each.
warnings.filterwarnings("ignore", module=r"PIL\.")
# From this many source pixels for one of the target a narrow filter averages enough; below, a wide one is cheap.
_NARROW_FILTER_FROM = 1.75

# EXIF orientation → what turns the picture upright.
_EXIF_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Box = tuple[float, float, float, float]


REASONS = (
    *("not_an_image", "markup", "too_many_pixels", "truncated_image", "corrupt_image", "decode_out_of_memory"),
    *filters.REASONS,
)
"""Why decoding may fail, or the picture be filtered out."""


class ImageError(Exception):
    """The bytes are no picture we can use. `reason` is a short name."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class StoredImage:
    """A picture as a Sample holds it.

    Args:
        data: its bytes.
        height: in pixels; so is `width`.
        original_height: that of the picture before it was resized, in pixels; so is `original_width`. 0 is unknown.
        perceptual_hash: as `hashing.perceptual_hash` makes it of the stored picture; empty if nobody asked for it.
    """

    data: bytes
    height: int
    width: int
    original_height: int = 0
    original_width: int = 0
    perceptual_hash: bytes = b""


def is_stored_form(data: bytes, parameters: ImageParameters) -> bool:
    """Whether `data` has the signature, or for a tensor the length, of what `encode` returns."""
    form = IMAGE_FORMATS[parameters.image_format]
    if form.pillow is None:
        return len(data) == 3 * parameters.image_size**2
    return data.startswith(form.begins)


def load_decoders() -> None:
    """Import now the decoders that Pillow imports on demand: a confined process can open no file."""
    Image.preinit()
    for name in ("MpoImagePlugin", "TiffImagePlugin", "WebPImagePlugin", "ImageCms", "ImageColor", "ImagePalette"):
        import_module(f"PIL.{name}")
    import_module("captionflow.images.hashing")
    for form in IMAGE_FORMATS.values():
        if form.pillow:
            Image.new("RGB", (1, 1)).save(io.BytesIO(), form.pillow)


def process(data: bytes, parameters: ImageParameters) -> StoredImage:
    """Decode, orient, resize and encode one picture; the first frame of an animation.

    Raises:
        ImageError: `not_an_image`, `markup`, `too_many_pixels`, `truncated_image` or `corrupt_image`, or the reason of
            a filter.
    """
    side, max_pixels = parameters.image_size, parameters.max_image_megapixels * _MEGAPIXEL
    is_fast = parameters.downscaling == "fast"
    with _opened(data, max_pixels) as image:
        width, height = image.size
        _filter(filters.SIZE_FILTERS, image, parameters)
        box, size = _frame(image.size, side, parameters.resize)
        if is_fast:
            box = _decode_smaller(image, box, size)
        resized = _resize(to_rgb(image), box, size, is_fast=is_fast)
        _filter(filters.PIXEL_FILTERS, resized, parameters)
        upright = _upright(_on_square(resized, side), image)
    stored = StoredImage(encode(upright, parameters.image_format, parameters.jpeg_quality), side, side, height, width)
    return hashed(stored, parameters) if parameters.duplicates == "near" else stored


def hashed(stored: StoredImage, parameters: ImageParameters) -> StoredImage:
    """Return a stored picture with its perceptual hash, which its bytes alone decide: one that is reused has the same.

    Raises:
        ImageError: the bytes are no stored picture.
    """
    from captionflow.images.hashing import SMALLEST, perceptual_hash  # wants a package that only preprocessing installs

    with _stored_pixels(stored.data, parameters, SMALLEST) as picture:
        return replace(stored, perceptual_hash=perceptual_hash(picture))


@contextmanager
def _stored_pixels(data: bytes, parameters: ImageParameters, size: tuple[int, int]) -> Iterator[Image.Image]:
    side = parameters.image_size
    if IMAGE_FORMATS[parameters.image_format].pillow is None:
        yield of_tensor(data, side)
        return
    with _opened(data, side**2) as picture:
        picture.draft("L", size)  # a JPEG, at the smallest scale that will do
        yield picture


def of_tensor(data: bytes, side: int) -> Image.Image:
    """Return the picture in raw uint8 of shape (3, side, side)."""
    channels = [data[start : start + side**2] for start in range(0, 3 * side**2, side**2)]
    return Image.merge("RGB", [Image.frombytes("L", (side, side), channel) for channel in channels])


def _filter(rows: Iterable[filters.Filter[Image.Image]], image: Image.Image, parameters: ImageParameters) -> None:
    if refusal := filters.refusal(rows, image, parameters):
        raise ImageError(*refusal)


@contextmanager
def _opened(data: bytes, max_pixels: int, formats: tuple[str, ...] = FORMATS) -> Iterator[Image.Image]:
    """Open a picture; whatever Pillow raises on it in the block becomes an ImageError."""
    try:
        with Image.open(io.BytesIO(data), formats=formats) as image:
            if image.width * image.height > max_pixels:
                raise ImageError("too_many_pixels", f"{image.width}×{image.height} is over {max_pixels} pixels")
            yield image
    except UnidentifiedImageError as error:
        if data.lstrip()[:1] == b"<":
            raise ImageError("markup", "HTML, XML or SVG where a picture should be") from error
        raise ImageError("not_an_image", "no known image format") from error
    except Image.DecompressionBombError as error:
        raise ImageError("too_many_pixels", str(error)) from error
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        # Pillow's decoders raise anything on broken files, AssertionError included.
        is_cut = "truncated" in str(error).lower()
        raise ImageError("truncated_image" if is_cut else "corrupt_image", str(error) or repr(error)) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Return `image` in mode RGB, whatever its mode was, transparency laid over white."""
    image.load()
    if image.mode.startswith("I"):  # 16 bits a pixel, or 32 that hold 16.
        return image.convert("I").point(lambda value: value * (1 / 256)).convert("L").convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        background = Image.new("RGBA", layer.size, (*_BACKGROUND, 255))
        return Image.alpha_composite(background, layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _upright(image: Image.Image, original: Image.Image) -> Image.Image:
    try:
        transpose = _EXIF_TRANSPOSES.get(original.getexif().get(0x0112, 1))
    except Exception:  # Broken metadata does not make the picture unusable.
        return image
    return image.transpose(transpose) if transpose is not None else image


def _frame(size: tuple[int, int], side: int, mode: str) -> tuple[Box, tuple[int, int]]:
    """Return which part of a picture of `size` is kept, and the size that part will have in a square of `side`.

    Args:
        mode: squash (ignore the aspect ratio), crop (fill and cut the rest) or pad (fit, black around).
    """
    width, height = size
    if mode == "crop":
        edge = min(size)
        left, top = (width - edge) / 2, (height - edge) / 2
        return (left, top, left + edge, top + edge), (side, side)
    whole = (0, 0, width, height)
    if mode == "pad":
        scale = side / max(size)
        return whole, (max(1, round(width * scale)), max(1, round(height * scale)))
    return whole, (side, side)


def _decode_smaller(image: Image.Image, box: Box, size: tuple[int, int]) -> Box:
    """Have a JPEG decoded at the smallest scale at which `box` covers `size`; returns the box at that scale.

    libjpeg decodes at 1/2, 1/4 or 1/8 for less than it costs in full. Other formats are left as they are.
    """
    width, height = image.size
    image.draft("RGB", (round(width * size[0] / (box[2] - box[0])), round(height * size[1] / (box[3] - box[1]))))
    x, y = image.width / width, image.height / height
    return box[0] * x, box[1] * y, box[2] * x, box[3] * y


def _resize(image: Image.Image, box: Box, size: tuple[int, int], *, is_fast: bool) -> Image.Image:
    shrink = min((box[2] - box[0]) / size[0], (box[3] - box[1]) / size[1])
    narrow = is_fast and shrink >= _NARROW_FILTER_FROM
    return image.resize(size, Image.Resampling.HAMMING if narrow else Image.Resampling.LANCZOS, box)


def _on_square(image: Image.Image, side: int) -> Image.Image:
    if image.size == (side, side):
        return image
    square = Image.new("RGB", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def encode(image: Image.Image, image_format: str, jpeg_quality: int) -> bytes:
    """Return an RGB picture in one of `IMAGE_FORMATS`."""
    form = IMAGE_FORMATS[image_format]
    if form.pillow is None:
        return b"".join(channel.tobytes() for channel in image.split())
    buffer = io.BytesIO()
    # Of no effect on a form that loses nothing.
    image.save(buffer, form.pillow, quality=jpeg_quality)
    return buffer.getvalue()


def load_stored(stored: StoredImage, image_format: str) -> Image.Image:
    """Return a stored picture in RGB, read by the decoder of its form and by no other.

    Raises:
        ImageError: it is no picture of this form and size.
    """
    form, size = IMAGE_FORMATS[image_format], (stored.width, stored.height)
    pixels = stored.width * stored.height
    if form.pillow is None:
        if len(stored.data) != 3 * pixels:
            raise ImageError("corrupt_image", f"{len(stored.data)} bytes for {size[0]}×{size[1]} pixels")
        planes = (stored.data[start : start + pixels] for start in range(0, 3 * pixels, pixels))
        return Image.merge("RGB", [Image.frombytes("L", size, plane) for plane in planes])
    with _opened(stored.data, pixels, (form.pillow,)) as image:
        if image.size != size:
            raise ImageError("corrupt_image", f"{image.width}×{image.height} pixels in place of {size[0]}×{size[1]}")
        return to_rgb(image)
