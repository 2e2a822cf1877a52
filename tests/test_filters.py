"""Filters: what each keeps and refuses, presets, and what becomes of what is refused."""

import random
import re
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from beam_jobs.preprocess import run
from captionflow.core.artifact import open_artifact
from captionflow.core.parameters import flag
from captionflow.core.records import ImageCaption, Reject
from captionflow.images.decode import ImageError, StoredImage, process
from captionflow.images.filters import PICTURE_FILTERS, Filter, contrast, sharpness
from captionflow.images.sandbox import Sandbox
from captionflow.preprocess.filters import CAPTION_FILTERS, apply_all, own_words, repetition, symbol_share
from captionflow.preprocess.parameters import PRESETS, PreprocessParameters
from tests.ingesting import CAPTION, ingest_records
from tests.servers import Site
from tests.test_images import saved, two_colours
from tests.test_preprocess import TWO_WORKERS, assert_accounted, content, rejects
from tests.test_sandbox import outcome

PAGE = Path(__file__).parents[1] / "docs" / "beam.md"
NAMED = replace(CAPTION, image_name="photos/IMG_2034.JPG")

# Parameter → a bound, a caption that just meets it, and one that does not.
CAPTIONS = {
    "min_words": (3, "a red car", "red-car parked"),
    "max_words": (3, "a red car", "a red car parked"),
    "min_characters": (6, "on ice", "on it"),
    "max_symbol_share": (0.25, "ice 1", "ox 1"),
    "max_repetition": (0.25, "a cat and a cat", "a cat, a cat"),
    "min_own_words": (1, "IMG 2034: snow", "img 2034.jpg"),
}


def noise(size: tuple[int, int]) -> Image.Image:
    """A picture with sharp edges everywhere."""
    return Image.frombytes("RGB", size, random.Random(0).randbytes(3 * size[0] * size[1]))


# Parameter → a bound, a picture that meets it, and one that does not.
PICTURES = {
    "min_side": (80, two_colours(size=(120, 80)), two_colours(size=(120, 79))),
    "max_aspect_ratio": (1.5, two_colours(size=(120, 80)), two_colours(size=(80, 121))),
    "min_contrast": (5.0, two_colours(), Image.new("RGB", (120, 80), (200, 30, 30))),
    "min_sharpness": (100.0, noise((96, 96)), noise((96, 96)).filter(ImageFilter.GaussianBlur(8))),
}


def row(filters: tuple[Filter, ...], parameter: str) -> Filter:
    (found,) = (each for each in filters if each.parameter == parameter)
    return found


def test_every_filter_has_a_case() -> None:
    assert list(CAPTIONS) == [each.parameter for each in CAPTION_FILTERS]
    assert list(PICTURES) == [each.parameter for each in PICTURE_FILTERS]


@pytest.mark.parametrize(("parameter", "case"), CAPTIONS.items(), ids=CAPTIONS)
def test_a_caption_is_kept_at_the_bound_and_refused_beyond(parameter: str, case: tuple[float, str, str]) -> None:
    bound, kept, refused = case
    parameters = PreprocessParameters(**{parameter: bound})
    assert isinstance(apply_all(replace(NAMED, caption=kept), parameters), ImageCaption)
    caption = replace(NAMED, caption=refused)
    reject = apply_all(caption, parameters)
    assert isinstance(reject, Reject)
    assert (reject.stage, reject.reason) == ("filters", row(CAPTION_FILTERS, parameter).reason)
    assert not reject.retryable
    assert isinstance(apply_all(caption, PreprocessParameters()), ImageCaption)


@pytest.mark.parametrize(("parameter", "case"), PICTURES.items(), ids=PICTURES)
def test_a_picture_is_kept_at_the_bound_and_refused_beyond(
    parameter: str, case: tuple[float, Image.Image, Image.Image]
) -> None:
    bound, kept, refused = case
    parameters = PreprocessParameters(image_size=96, **{parameter: bound})
    assert process(saved(kept, "PNG"), parameters) == process(saved(kept, "PNG"), PreprocessParameters(image_size=96))
    with closing(Sandbox(parameters)) as sandbox, pytest.raises(ImageError) as raised:
        sandbox.process(saved(refused, "PNG"))
    assert raised.value.reason == row(PICTURE_FILTERS, parameter).reason
    process(saved(refused, "PNG"), PreprocessParameters(image_size=96))


@pytest.mark.parametrize(
    ("measure", "text", "number"),
    [
        (symbol_share, "a1-b c", 0.4),
        (symbol_share, "١٢٣ 漢字 é", 0.5),
        (symbol_share, " ", 0.0),
        (repetition, "a a a a", 2 / 3),
        (repetition, "a b A B a", 0.5),
        (repetition, "a man on a horse", 0.0),
        (repetition, "a", 0.0),
        (own_words, "Img_2034", 0),
        (own_words, "1.jpg", 0),
        (own_words, "IMG 2034 (a dog, a cat)", 3),
    ],
)
def test_what_is_measured_of_a_caption(measure: Callable[[ImageCaption], float], text: str, number: float) -> None:
    assert measure(replace(NAMED, caption=text)) == pytest.approx(number)


@pytest.mark.parametrize(
    "url", ["http://x/a/My%20Dog.png?w=3", "/photos/my-dog.jpg", "my_dog.jpg#1", "http://[/my.dog"]
)
def test_a_file_name_is_that_of_the_url(url: str) -> None:
    assert own_words(replace(CAPTION, caption="My dog", image_url=url, image_name="")) == 0


@given(st.text())
def test_shares_are_shares_whatever_the_caption(text: str) -> None:
    caption = replace(CAPTION, caption=text)
    assert 0 <= symbol_share(caption) <= 1
    assert 0 <= repetition(caption) < 1


def step(height: int) -> Image.Image:
    """Six by six pixels: black on the left, `height` on the right."""
    image = Image.new("RGB", (6, 6))
    image.paste((height, height, height), (3, 0, 6, 6))
    return image


def test_what_is_measured_of_a_picture() -> None:
    assert contrast(Image.new("RGB", (2048, 2048), (201, 77, 3))) == 0
    assert contrast(step(100)) == pytest.approx(50)
    # In each row within the border: 0, 100, -100, 0.
    assert sharpness(step(100)) == pytest.approx(5000)
    # 0, 127, -128, 0 in place of 0, 200, -200, 0.
    assert sharpness(step(200)) == pytest.approx((127**2 + 128**2) / 4 - 0.25**2)


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(["squash", "crop", "pad"]))
def test_every_picture_can_be_measured(width: int, height: int, mode: str) -> None:
    parameters = PreprocessParameters(image_size=32, resize=mode, min_contrast=1e-6, min_sharpness=1e-6)
    stored = outcome(lambda data: process(data, parameters), saved(noise((width, height)), "PNG"))
    assert isinstance(stored, StoredImage) or stored[0] in ("blank_image", "blurred_image")


def test_what_pads_a_picture_is_no_contrast() -> None:
    with pytest.raises(ImageError, match="0 is below 1"):
        process(saved(Image.new("RGB", (96, 32), "white"), "PNG"), PreprocessParameters(resize="pad", min_contrast=1.0))


def test_a_size_is_read_from_the_header_alone() -> None:
    cut = saved(noise((300, 100)), "JPEG")[:2000]
    with pytest.raises(ImageError, match="100 is below 200") as raised:
        process(cut, PreprocessParameters(filters="basic"))
    assert raised.value.reason == "image_too_small"


def test_a_bound_that_is_given_goes_before_the_preset() -> None:
    assert not any(getattr(PreprocessParameters(), each.parameter) for each in (*CAPTION_FILTERS, *PICTURE_FILTERS))
    basic = PreprocessParameters(filters="basic")
    assert {name: getattr(basic, name) for name in PRESETS["basic"]} == PRESETS["basic"]
    assert PreprocessParameters.from_mapping(basic.to_json()) == basic
    assert replace(basic, min_side=1) == PreprocessParameters(filters="basic", min_side=1)
    assert PreprocessParameters(filters="basic", min_words=2, max_words=50).min_words == 2
    assert PreprocessParameters(filters="basic", languages=("*",)).languages == ("*",)


def test_the_page_has_the_table() -> None:
    (section,) = re.findall(r"^## Filters\n(.*?)^## ", PAGE.read_text(), re.M | re.S)
    written = [line for line in section.splitlines() if line.startswith("| `--")]
    basic = {name: str(bound).removesuffix(".0") for name, bound in PRESETS["basic"].items()}
    for each, line in zip((*CAPTION_FILTERS, *PICTURE_FILTERS), written, strict=True):
        assert line.startswith(f"| `{flag(each.parameter)}` | {basic.get(each.parameter, '')} | `{each.reason}` | ")


def test_what_filters_refuse_is_accounted_for_on_every_runner(site: Site, tmp_path: Path) -> None:
    pictures = {
        "good": noise((240, 240)),
        "small": noise((240, 100)),
        "long": noise((900, 240)),
        "blank": Image.new("RGB", (240, 240), "white"),
        "blurred": two_colours(size=(240, 240)).filter(ImageFilter.GaussianBlur(9)),
    }
    site.pages = {f"/{name}.png": saved(picture, "PNG") for name, picture in pictures.items()}
    captions = [(name, "A picture of something.") for name in pictures]
    captions += [("good", "A picture."), ("never", "A picture."), ("never", "a b c"), ("gone", "Nothing is there.")]
    image_ids = {name: i for i, name in enumerate(dict(captions))}
    records = [
        replace(CAPTION, image_id=image_ids[name], id=i, caption=text, image_url=f"{site.url}/{name}.png")
        for i, (name, text) in enumerate(captions)
    ]
    parameters = PreprocessParameters(
        filters="basic", min_contrast=3.0, min_sharpness=20.0, max_words=20, max_symbol_share=0.5, max_repetition=0.5,
        min_own_words=1, image_size=64, allow_url_prefix=(site.url,), split="1,0,0",
    )  # fmt: skip
    ingested = ingest_records(records, tmp_path)
    artifact = open_artifact(run(ingested, str(tmp_path / "out"), parameters, []))
    assert_accounted(artifact)
    assert artifact.manifest.counts["rejected"] == {
        "blank_image": 1, "blurred_image": 1, "extreme_aspect_ratio": 1, "http_404": 1, "image_too_small": 1,
        "too_few_characters": 1, "too_few_words": 2,
    }  # fmt: skip
    assert {(reject.stage, reject.reason == "http_404") for reject in rejects(artifact)} == {
        ("filters", False), ("images", True),
    }  # fmt: skip
    assert not any(reject.retryable for reject in rejects(artifact))
    assert site.hits["/never.png"] == 0
    again = run(ingested, str(tmp_path / "again"), parameters, TWO_WORKERS)
    assert content(again) == content(artifact.uri)
