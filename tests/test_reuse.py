"""Taking pictures from an earlier artifact: what is fetched again, and that the result is a clean run's."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from beam_jobs.preprocess import run
from captionflow.core.artifact import open_artifact
from captionflow.core.errors import InvalidInputError
from captionflow.core.records import ImageCaption
from captionflow.core.shards import SHARD_FORMATS
from captionflow.preprocess.parameters import PreprocessParameters
from tests.ingesting import ingest_records
from tests.servers import Site, send
from tests.test_images import saved
from tests.test_preprocess import assert_accounted, content

RECORD = ImageCaption(1, 1, "A dog.", "", "1.jpg", "Attribution License")
FAILING, GONE = 5, 7

Job = Callable[..., str]


@pytest.fixture
def job(site: Site, small_sample: Path, tmp_path: Path) -> Job:
    """Run the job on the first pictures of a site, of which two fail, one of them for good."""
    pictures = sorted((small_sample / "images").iterdir())
    site.pages = {f"/{i}.jpg": path.read_bytes() for i, path in enumerate(pictures)}
    site.pages[f"/{FAILING}.jpg"] = lambda handler: send(handler, b"", 503)
    del site.pages[f"/{GONE}.jpg"]

    def start(name: str, images: int = 40, reuse: str | None = None, **parameters: object) -> str:
        records = [replace(RECORD, image_id=i, id=i, image_url=f"{site.url}/{i}.jpg") for i in range(images)]
        settings = PreprocessParameters(
            **{"image_size": 32, "allow_url_prefix": (site.url,), "fetch_retries": 0, "split": "1,0,0", **parameters}
        )
        return run(ingest_records(records, tmp_path / f"of-{images}"), str(tmp_path / name), settings, [], reuse)

    return start


def heal(site: Site) -> None:
    site.pages[f"/{FAILING}.jpg"] = site.pages["/0.jpg"]
    site.hits.clear()


def assert_equal(ours: str, clean: str) -> None:
    assert content(ours) == content(clean)
    assert open_artifact(ours).manifest.sha256 == open_artifact(clean).manifest.sha256


@pytest.mark.parametrize("output_format", SHARD_FORMATS)
def test_only_what_may_succeed_now_is_fetched_again(site: Site, job: Job, output_format: str) -> None:
    earlier = job("earlier", output_format=output_format)
    assert open_artifact(earlier).manifest.counts["rejected"] == {"http_404": 1, "http_503": 1}
    heal(site)
    again = job("again", reuse=earlier)
    assert set(site.hits) == {f"/{FAILING}.jpg"}
    manifest = open_artifact(again).manifest
    assert manifest.counts["rejected"] == {"http_404": 1}
    assert (manifest.run["images_reused"], manifest.run["reused"]["uri"]) == (38, earlier)
    assert_accounted(open_artifact(again))
    assert_equal(again, job("clean"))


def test_more_images_and_other_shards_are_no_hindrance(site: Site, job: Job) -> None:
    earlier = job("earlier")
    heal(site)
    again = job("again", images=60, reuse=earlier, split="0.4,0.3,0.3")
    assert set(site.hits) == {f"/{FAILING}.jpg", *(f"/{i}.jpg" for i in range(40, 60))}
    assert_equal(again, job("clean", images=60, split="0.4,0.3,0.3"))


def test_images_that_are_wanted_no_more_leave_no_trace(site: Site, job: Job) -> None:
    earlier = job("earlier", images=60, split="0.4,0.3,0.3")
    heal(site)
    assert_equal(job("again", images=1, reuse=earlier), job("clean", images=1))


def test_a_reject_made_by_other_rules_is_tried_again(site: Site, job: Job) -> None:
    earlier = job("earlier")
    heal(site)
    job("again", reuse=earlier, max_image_megapixels=1)
    assert set(site.hits) == {f"/{FAILING}.jpg", f"/{GONE}.jpg"}


def test_another_url_is_another_image(site: Site, job: Job, tmp_path: Path) -> None:
    earlier = job("earlier", images=2)
    site.pages["/new.jpg"] = site.pages["/1.jpg"]
    site.hits.clear()
    records = [
        replace(RECORD, image_id=i, id=i, image_url=f"{site.url}/{url}") for i, url in enumerate(["0.jpg", "new.jpg"])
    ]
    settings = PreprocessParameters(image_size=32, allow_url_prefix=(site.url,), fetch_retries=0, split="1,0,0")
    run(ingest_records(records, tmp_path / "other"), str(tmp_path / "again"), settings, [], earlier)
    assert set(site.hits) == {"/new.jpg"}


@pytest.mark.parametrize(
    ("output_format", "damage"),
    [
        ("avro", lambda data: data[:-40]),
        ("avro", lambda data: data[:-1] + b"x"),
        ("webdataset", lambda data: data[:-1024]),
        ("parquet", lambda data: data[:99] + bytes([data[99] ^ 1]) + data[100:]),
    ],
)
def test_a_shard_that_was_damaged_is_fetched_again(
    site: Site, job: Job, output_format: str, damage: Callable[[bytes], bytes]
) -> None:
    earlier = job("earlier", images=4, output_format=output_format)
    site.hits.clear()
    job("first", images=4, reuse=earlier)
    assert not site.hits
    (shard,) = Path(earlier).glob("train/*")
    shard.write_bytes(damage(shard.read_bytes()))
    again = job("second", images=4, reuse=earlier)
    assert len(site.hits) == 4
    assert_equal(again, job("clean", images=4))


def test_pictures_of_another_form_are_refused(job: Job) -> None:
    earlier = job("earlier", images=4)
    with pytest.raises(InvalidInputError, match=r"--reuse: .* was made with image_size 32, not 64"):
        job("again", images=4, reuse=earlier, image_size=64)


def test_pictures_that_were_filtered_out_are_not_fetched_again(site: Site, job: Job) -> None:
    site.pages["/3.jpg"] = site.pages["/4.jpg"] = saved(Image.new("RGB", (64, 64)), "PNG")
    filtered = {"min_side": 100, "min_contrast": 1.0}
    earlier = job("earlier", **filtered)
    assert open_artifact(earlier).manifest.counts["rejected"]["image_too_small"] == 2
    heal(site)
    again = job("again", images=50, reuse=earlier, **filtered)
    assert set(site.hits) == {f"/{FAILING}.jpg", *(f"/{i}.jpg" for i in range(40, 50))}
    assert_equal(again, job("clean", images=50, **filtered))


def test_a_filter_of_pictures_that_was_on_may_be_off(site: Site, job: Job) -> None:
    site.pages["/3.jpg"] = saved(Image.new("RGB", (64, 64)), "PNG")
    earlier = job("earlier", min_side=100)
    heal(site)
    again = job("again", reuse=earlier)
    assert set(site.hits) == {f"/{i}.jpg" for i in (3, FAILING, GONE)}
    assert_equal(again, job("clean"))


@pytest.mark.parametrize(
    ("then", "now", "message"),
    [
        ({}, {"filters": "basic"}, "min_side 0, not 200"),
        ({"min_contrast": 1.0}, {"min_contrast": 2.0}, "min_contrast 1.0, not 2.0"),
    ],
)
def test_a_filter_of_pictures_that_is_on_must_have_been_on(
    job: Job, then: dict[str, object], now: dict[str, object], message: str
) -> None:
    earlier = job("earlier", images=4, **then)
    with pytest.raises(InvalidInputError, match=f"--reuse: .* was made with {message}; give the same, or no --reuse"):
        job("again", images=4, reuse=earlier, **now)


def test_a_caption_that_was_filtered_out_says_nothing_of_its_image(site: Site, job: Job, tmp_path: Path) -> None:
    records = [replace(RECORD, image_id=i, id=i, image_url=f"{site.url}/{i}.jpg") for i in range(2)]
    records.append(replace(records[0], id=2, caption="A dog in the snow."))
    ingested = ingest_records(records, tmp_path / "uneven")
    settings = PreprocessParameters(image_size=32, allow_url_prefix=(site.url,), split="1,0,0", min_words=3)
    earlier = run(ingested, str(tmp_path / "earlier"), settings, [])
    assert open_artifact(earlier).manifest.counts["rejected"] == {"too_few_words": 2}
    site.hits.clear()
    again = run(ingested, str(tmp_path / "again"), replace(settings, min_words=0), [], earlier)
    assert set(site.hits) == {"/1.jpg"}
    assert_equal(again, run(ingested, str(tmp_path / "clean"), replace(settings, min_words=0), []))


def test_an_artifact_cannot_be_made_from_itself(job: Job) -> None:
    earlier = job("earlier", images=4)
    with pytest.raises(InvalidInputError, match="choose another --output"):
        job("earlier", images=4, reuse=earlier)
    assert json.loads(Path(earlier, "manifest.json").read_bytes())["kind"] == "preprocessed"
