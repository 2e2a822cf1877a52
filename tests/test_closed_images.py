"""Images that nobody opened are told before the job starts, with the flag that opens them."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_jobs.preprocess import run
from captionflow.core.artifact import open_artifact
from captionflow.core.errors import InvalidInputError
from captionflow.preprocess.parameters import PreprocessParameters
from captionflow.web.access import Access, prefix_for
from captionflow.web.parameters import AccessParameters
from tests.ingesting import CAPTION, ingest_records
from tests.processes import captionflow
from tests.servers import Site


def ingested_urls(urls: list[str], folder: Path) -> str:
    return ingest_records([replace(CAPTION, image_id=i, id=i, image_url=url) for i, url in enumerate(urls)], folder)


def test_local_pictures_are_told_with_the_flag_that_opens_them(
    ingested: str, small_sample: Path, tmp_path: Path
) -> None:
    command = ["preprocess", "--ingested", ingested, "--output", str(tmp_path / "out"), "--image-size=32"]
    command += ["--licenses=*", "--split=0.5,0.25,0.25"]
    done = captionflow(*command)
    assert (done.returncode, done.stdout) == (2, "")
    (told,) = done.stderr.splitlines()
    images = small_sample / "images"
    assert told == (
        "captionflow: --allow-url-prefix: of the first 300 captions 300 have an image that is not open, such as "
        f"{images}/000000000001.jpg; add --allow-url-prefix {images}"
    )
    assert not (tmp_path / "out").exists()
    done = captionflow(*command, *shlex.split(told.rpartition("; add ")[2]))
    assert done.returncode == 0, done.stderr
    assert open_artifact(done.stdout.strip()).manifest.counts["images"]["out"] == 60


@pytest.mark.parametrize(
    ("urls", "prefix"),
    [
        (["/data/images/0/a.jpg", "/data/images/1/b.jpg"], "/data/images"),
        (["/data/images/a.jpg", "s3://bucket/b.jpg", "/other/c.jpg"], "/data/images"),
        (["/a.jpg", "/b.jpg"], "/a.jpg"),
        (["/data/my images/a.jpg"], "'/data/my images'"),
        (["s3://bucket/images/a/b.jpg", "s3://bucket/images/c.jpg", "s3://other/d.jpg"], "s3://bucket/images"),
        (["gs://bucket/a.jpg"], "gs://bucket"),
        (["http://10.1.2.3:8000/a/b.jpg", "http://10.1.2.3:8000/c.jpg"], "http://10.1.2.3:8000"),
        (["http://169.254.169.254"], "http://169.254.169.254"),
        (["https://[::1]/a/b.jpg"], "'https://[::1]/a'"),
    ],
)  # fmt: skip
def test_the_prefix_to_add_is_as_narrow_as_the_pictures_allow(urls: list[str], prefix: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError) as caught:
        run(ingested_urls(urls, tmp_path), str(tmp_path / "out"), PreprocessParameters(), [])
    assert f"such as {urls[0]}; add --allow-url-prefix {prefix}" in str(caught.value)
    assert str(caught.value).endswith(prefix)


NAME = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8)
PATH = st.lists(NAME, min_size=1, max_size=4).map("/".join)
ORIGIN = st.sampled_from(["/", "file:///", "s3://bucket/", "gs://bucket/", "http://127.0.0.1/", "https://[fd00::1]:8/"])
URL = st.builds(str.__add__, ORIGIN, PATH)


@given(st.lists(URL, min_size=1, max_size=10))
def test_the_prefix_opens_what_it_was_told_for(urls: list[str]) -> None:
    assert not any(Access.of(AccessParameters()).may_be_open(url) for url in urls)
    prefix = prefix_for(urls)
    opened = Access.of(AccessParameters(allow_url_prefix=(prefix,)))
    assert opened.may_be_open(urls[0])
    assert prefix.rstrip("/") not in ("", "file:", "s3:", "gs:", "http:", "https:")


@pytest.mark.parametrize("url", ["http://host.example/a.jpg", "https://1.1.1.1/a.jpg", "http://[", "http:a", "/a\0b"])
def test_a_name_is_not_looked_up_and_what_is_no_url_is_left_to_the_job(url: str) -> None:
    assert Access.of(AccessParameters()).may_be_open(url)


def test_a_few_closed_pictures_are_rejects(site: Site, small_sample: Path, tmp_path: Path) -> None:
    site.pages["/a.jpg"] = next((small_sample / "images").iterdir()).read_bytes()
    urls = [f"{site.url}/a.jpg", f"{site.url}/a.jpg", "/etc/passwd", "/etc/group"]
    parameters = PreprocessParameters(allow_url_prefix=(site.url,), image_size=32, split="1,0,0")
    artifact = open_artifact(run(ingested_urls(urls, tmp_path), str(tmp_path / "out"), parameters, []))
    assert artifact.manifest.counts["rejected"] == {"url_not_allowed": 2}
    with pytest.raises(InvalidInputError, match="of the first 4 captions 2 have an image that is not open"):
        run(
            ingested_urls(urls, tmp_path / "again"), str(tmp_path / "out"),
            replace(parameters, max_reject_ratio=0.4), [],
        )  # fmt: skip


def test_pictures_that_a_rule_leaves_out_need_not_be_open(site: Site, small_sample: Path, tmp_path: Path) -> None:
    site.pages["/a.jpg"] = next((small_sample / "images").iterdir()).read_bytes()
    records = [replace(CAPTION, image_id=i, id=i, image_url=f"/{i}", image_license="other") for i in range(1, 4)]
    source = ingest_records([replace(CAPTION, image_id=0, id=0, image_url=f"{site.url}/a.jpg"), *records], tmp_path)
    parameters = PreprocessParameters(allow_url_prefix=(site.url,), image_size=32, split="1,0,0")
    assert open_artifact(run(source, str(tmp_path / "out"), parameters, [])).manifest.counts["images"]["out"] == 1


def test_pictures_of_an_earlier_artifact_need_not_be_open(ingested: str, small_sample: Path, tmp_path: Path) -> None:
    opened = PreprocessParameters(
        allow_url_prefix=(str(small_sample),), image_size=32, licenses=("*",), split="0.5,0.25,0.25"
    )
    earlier = run(ingested, str(tmp_path / "earlier"), opened, [])
    again = run(ingested, str(tmp_path / "again"), replace(opened, allow_url_prefix=()), [], earlier)
    assert open_artifact(again).manifest.counts["images"]["out"] == 60
