"""Images: whatever the web sends becomes a square RGB picture or an ImageError."""

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from captionflow.images.decode import ImageError, encode, process
from captionflow.preprocess.parameters import PreprocessParameters

RED, BLUE = (200, 30, 30), (30, 30, 200)


def two_colours(mode: str = "RGB", size: tuple[int, int] = (120, 80)) -> Image.Image:
    """Left half red, right half blue."""
    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (size[0] // 2, 0, *size))
    return image.convert(mode)


def saved(image: Image.Image, image_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def picture(data: bytes, **parameters: object) -> Image.Image:
    """What is stored of `data`."""
    stored = process(data, PreprocessParameters(**{"image_size": 96, "image_format": "png", **parameters}))
    return Image.open(io.BytesIO(stored.data))


def colours(image: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """Mean colour of the left and the right quarter."""
    pixels = np.asarray(image, dtype=float)
    width = pixels.shape[1]
    return pixels[:, : width // 4].mean((0, 1)), pixels[:, -width // 4 :].mean((0, 1))


def assert_red_then_blue(image: Image.Image, tolerance: float = 25) -> None:
    left, right = colours(image)
    assert np.abs(left - RED).max() < tolerance
    assert np.abs(right - BLUE).max() < tolerance


@pytest.mark.parametrize(
    ("mode", "image_format"),
    [
        ("RGB", "JPEG"),
        ("CMYK", "JPEG"),
        ("RGB", "PNG"),
        ("P", "PNG"),
        ("P", "GIF"),
        ("RGB", "WEBP"),
        ("RGB", "BMP"),
        ("RGB", "TIFF"),
        ("CMYK", "TIFF"),
    ],
)
def test_colours_survive_every_mode_and_format(mode: str, image_format: str) -> None:
    image = picture(saved(two_colours(mode), image_format))
    assert (image.mode, image.size) == ("RGB", (96, 96))
    assert_red_then_blue(image)


@pytest.mark.parametrize(("mode", "image_format"), [("RGBA", "PNG"), ("LA", "PNG"), ("RGBA", "WEBP")])
def test_transparency_is_laid_over_white(mode: str, image_format: str) -> None:
    image = Image.new("RGBA", (40, 40), (0, 0, 0, 0)).convert(mode)
    assert picture(saved(image, image_format)).getpixel((5, 5)) == (255, 255, 255)


def test_a_transparent_palette_entry_is_laid_over_white() -> None:
    image = Image.new("P", (40, 40), 0)
    image.putpalette([0, 0, 0, 255, 0, 0])
    assert picture(saved(image, "PNG", transparency=0)).getpixel((5, 5)) == (255, 255, 255)


@pytest.mark.parametrize("value", [0, 0x8000, 0xFFFF])
def test_16_bit_grey_keeps_its_brightness(value: int) -> None:
    pixels = np.full((20, 30), value, dtype=np.uint16)
    image = picture(saved(Image.fromarray(pixels), "PNG"))
    assert image.getpixel((3, 3)) == (value >> 8,) * 3


def test_1_bit_and_grey_become_rgb() -> None:
    for mode in ("1", "L"):
        assert picture(saved(Image.new(mode, (9, 9), 1 if mode == "1" else 255), "PNG")).getpixel((4, 4)) == (
            255,
            255,
            255,
        )


def test_exif_orientation_is_applied() -> None:
    upright = two_colours()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90° for display
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    image = picture(saved(turned, "JPEG", exif=exif, quality=95))
    assert_red_then_blue(image)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("exif", [b"Exif\x00\x00MM\x00*\xff\xff\xff\xff", b"Exif\x00\x00garbage"])
def test_broken_exif_does_not_matter(image_format: str, exif: bytes) -> None:
    assert_red_then_blue(picture(saved(two_colours(), image_format, exif=exif)))


def test_an_animation_gives_its_first_frame() -> None:
    frames = [two_colours(), Image.new("RGB", (120, 80), (0, 255, 0))]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert_red_then_blue(picture(data))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not_an_image"),
        (b"\n<html>404</html>", "markup"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not_an_image"),
        (saved(two_colours(), "JPEG")[:300], "truncated_image"),
        (saved(two_colours(), "PNG")[:100], "truncated_image"),
    ],
)
def test_what_is_no_picture_says_so(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError) as caught:
        picture(data)
    assert caught.value.reason == reason


@pytest.mark.parametrize("size", [(3000, 3000), (2_000_000, 1), (30000, 30000)])
def test_too_many_pixels_are_refused_before_decoding(size: tuple[int, int]) -> None:
    # A header alone: were it decoded, the pixels would be found missing.
    header = saved(Image.new("1", (1, 1)), "BMP")
    width, height = (side.to_bytes(4, "little") for side in size)
    with pytest.raises(ImageError) as caught:
        picture(header[:18] + width + height + header[26:], max_image_megapixels=1)
    assert caught.value.reason == "too_many_pixels"


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_mutated_files_never_raise_anything_else(data: st.DataObject) -> None:
    image_format = data.draw(st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"]))
    content = bytearray(saved(two_colours(size=(24, 16)), image_format))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ImageError):
        image = process(bytes(content), PreprocessParameters(image_size=32, max_image_megapixels=1))
        assert (image.height, image.width) == (32, 32)


def test_squash_crop_and_pad_do_what_they_say() -> None:
    wide = saved(two_colours(size=(400, 100)), "PNG")
    assert_red_then_blue(picture(wide, image_size=64, resize="squash"))
    assert_red_then_blue(picture(wide, image_size=64, resize="crop"))
    padded = picture(wide, image_size=64, resize="pad")
    assert padded.getpixel((32, 2)) == (0, 0, 0)
    assert np.abs(np.asarray(padded)[30, 4] - np.array(RED, dtype=float)).max() < 25
    assert {picture(wide, image_size=64, resize=mode).size for mode in ("squash", "crop", "pad")} == {(64, 64)}


def test_tensor_is_channels_first_uint8() -> None:
    image = two_colours(size=(8, 8))
    raw = np.frombuffer(encode(image, "tensor", 90), np.uint8).reshape(3, 8, 8)
    assert (raw.transpose(1, 2, 0) == np.asarray(image)).all()


@pytest.mark.parametrize("image_format", ["jpeg", "png", "tensor"])
def test_the_same_picture_gives_the_same_bytes(image_format: str) -> None:
    parameters = PreprocessParameters(image_size=32, image_format=image_format)
    data = saved(two_colours(), "JPEG")
    assert process(data, parameters) == process(data, parameters)


@pytest.mark.parametrize("mode", ["squash", "crop", "pad"])
def test_fast_downscaling_stays_close_to_full_decoding_and_lanczos(coco_mini: Path, mode: str) -> None:
    errors = []
    for path in sorted(coco_mini.glob("*/*.jpg")):
        fast, exact = (
            np.asarray(picture(path.read_bytes(), image_size=224, resize=mode, downscaling=how), dtype=float)
            for how in ("fast", "exact")
        )
        # Without the bars of pad, where no error can be.
        drawn = np.ix_(exact.any(axis=(1, 2)), exact.any(axis=(0, 2)))
        errors.append(np.abs(fast - exact)[drawn].mean())
    assert np.mean(errors) <= 2
    assert np.percentile(errors, 95) <= 5


def test_exact_downscaling_is_full_decoding_and_lanczos(coco_mini: Path) -> None:
    path = next(coco_mini.glob("*/*.jpg"))
    with Image.open(path) as full:
        best = full.convert("RGB").resize((224, 224), Image.Resampling.LANCZOS)
    assert (np.asarray(picture(path.read_bytes(), image_size=224, downscaling="exact")) == np.asarray(best)).all()


def test_colour_profiles_do_not_disturb() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert_red_then_blue(picture(saved(two_colours(), "JPEG", icc_profile=profile)))
