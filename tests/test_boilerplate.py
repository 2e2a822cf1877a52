"""Captions that many images share: what is counted, what is rejected, on every runner."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from beam_jobs.preprocess import run
from beam_jobs.transforms import _HasMoreThan
from captionflow.core.artifact import open_artifact
from captionflow.preprocess.boilerplate import key
from captionflow.preprocess.filters import CleanedCaption
from captionflow.preprocess.parameters import PreprocessParameters
from tests.ingesting import CAPTION, ingest_records
from tests.test_preprocess import assert_accounted, rejects


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("picture") / "1.png"
    Image.new("RGB", (40, 40), "red").save(path)
    return str(path)


def ingested(picture: str, folder: Path, *captions: tuple[int, str], **fields: object) -> str:
    """Captions with the ids of their images."""
    records = [
        replace(CAPTION, image_id=image_id, id=i, caption=text, image_url=picture, **fields)
        for i, (image_id, text) in enumerate(captions)
    ]
    return ingest_records(records, folder)


def parameters(most: int, **changes: object) -> PreprocessParameters:
    return PreprocessParameters(
        **{"allow_url_prefix": ("/",), "image_size": 32, "max_same_caption": most, "split": "1,0,0", **changes}
    )


def test_a_caption_that_more_images_have_is_rejected_on_all(picture: str, tmp_path: Path) -> None:
    captions = [(i, "No image available!") for i in range(12)]
    captions += [(i, f"Picture {i}.") for i in range(12)]
    # On two images, each in a spelling of its own; then twice on one of them.
    captions += [(0, "A dog."), (1, "a DOG"), (1, "A dog!")]
    source = ingested(picture, tmp_path, *captions)
    # Counted over the splits.
    artifact = open_artifact(run(source, str(tmp_path / "out"), parameters(2, split="0.5,0.5,0"), []))
    assert_accounted(artifact)
    assert artifact.manifest.counts["rejected"] == {"boilerplate_caption": 12}
    dropped = rejects(artifact)
    assert [reject.id for reject in sorted(dropped, key=lambda reject: reject.id)] == list(range(12))
    assert {(r.stage, r.detail, r.retryable) for r in dropped} == {("filters", "more than 2 images have it", False)}
    fewer = open_artifact(run(source, str(tmp_path / "fewer"), parameters(1), []))
    assert fewer.manifest.counts["rejected"] == {"boilerplate_caption": 15}


def test_what_other_filters_reject_is_not_counted(picture: str, tmp_path: Path) -> None:
    source = ingested(picture, tmp_path, (1, "A dog."), (2, "A dog."), (3, "A dog ---"), (3, "A cat."))
    kept = open_artifact(run(source, str(tmp_path / "out"), parameters(2, max_symbol_share=0.2), []))
    assert kept.manifest.counts["rejected"] == {"too_many_symbols": 1}
    # Pictures that cannot be had count: captions are judged before anything is fetched.
    missing = replace(CAPTION, image_id=3, id=9, caption="A dog.", image_url="/no/such.png")
    records = [replace(CAPTION, image_id=i, id=i, caption="A dog.", image_url=picture) for i in (1, 2)]
    records += [missing, replace(CAPTION, image_id=4, id=4, caption="A cat.", image_url=picture)]
    lost = open_artifact(run(ingest_records(records, tmp_path / "b"), str(tmp_path / "lost"), parameters(2), []))
    assert lost.manifest.counts["rejected"] == {"boilerplate_caption": 3}


def test_captions_are_the_same_by_their_plain_text_if_they_have_one() -> None:
    texts = ["A dog.", " a DOG", "A dog http://a.example", "dog", "🐈", "🐕", "!", "\ud800"]
    keys = [key(CleanedCaption(1, 1, text, "")) for text in texts]
    assert len({*keys[:3]}) == 1
    assert len({*keys}) == len(keys) - 2
    assert {len(each) for each in keys} == {16}


@given(st.lists(st.lists(st.integers(0, 9))), st.integers(1, 6))
def test_the_count_is_of_different_images_however_they_are_spread(parts: list[list[int]], most: int) -> None:
    combine = _HasMoreThan(most)
    accumulators = []
    for part in parts:
        accumulator = combine.create_accumulator()
        for value in part:
            accumulator = combine.add_input(accumulator, value)
        assert len(accumulator) <= most + 1
        accumulators.append(accumulator)
    merged = combine.merge_accumulators(accumulators)
    assert len(merged) <= 2 * most + 1
    assert combine.extract_output(merged) == (len({value for part in parts for value in part}) > most)
