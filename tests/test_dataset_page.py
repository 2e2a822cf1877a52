"""The page of a preprocessed dataset: its numbers are those of the shards, it is bounded, and it trusts no caption."""

import base64
import io
import re
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from beam_jobs.preprocess import run
from captionflow.core.artifact import Artifact, open_artifact
from captionflow.core.errors import InvalidInputError
from captionflow.core.records import SPLITS, Caption, Reject, Sample
from captionflow.core.show import write_page
from captionflow.images.thumbnails import LARGEST, Thumbnails
from captionflow.preprocess.page import by_split, dataset_page
from captionflow.preprocess.parameters import PreprocessParameters
from captionflow.preprocess.shards import ShardInfo, ShardKey
from captionflow.preprocess.statistics import (
    HISTOGRAMS,
    PICTURES,
    SHOWN_GROUPS,
    SHOWN_OF_GROUP,
    ShownPicture,
    Statistics,
)
from captionflow.preprocess.survey import Survey, host
from tests.ingesting import CAPTION, ingest_records
from tests.processes import captionflow
from tests.servers import serve
from tests.test_filters import noise
from tests.test_images import saved
from tests.test_preprocess import rejects, samples

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>\u202e"
ONLY = ShardKey("train", 0, 1)
PICTURE = saved(noise((32, 32)), "JPEG")
THUMBNAILS = Thumbnails(PreprocessParameters())


class Tables(HTMLParser):
    """The tables of a page, by caption or, without one, by the first head: rows of what the cells say."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: dict[str, list[list[str]]] = {}
        self._rows: list[list[str]] = []
        self._name = ""
        self._in = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self._rows, self._name = [], ""
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("th", "td"):
            self._rows[-1].append("")
        if tag in ("th", "td", "caption"):
            self._in = tag

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            heads, *rows = self._rows
            self.found[self._name or heads[0]] = [heads, *rows]
        elif tag == self._in:
            self._in = ""

    def handle_data(self, data: str) -> None:
        if self._in == "caption":
            self._name += data
        elif self._in:
            self._rows[-1][-1] = " ".join(f"{self._rows[-1][-1]} {data}".split())


def page_of(artifact: Artifact) -> str:
    return artifact.read("dataset.html").decode()


def numbers(cells: Iterable[str]) -> list[int]:
    return [int(cell.replace(",", "")) for cell in cells]


def pictures(html: str) -> list[bytes]:
    found = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)"', html)
    assert html.count("<img") == len(found)
    return [base64.b64decode(each, validate=True) for each in found]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Images in three splits, of which some are filtered out, some cannot be had, and three are the same."""
    folder = tmp_path_factory.mktemp("planted")
    with serve() as site:
        for i in range(48):
            site.pages[f"/{i}.png"] = saved(noise((60 + i, 40)), "PNG")
        del site.pages["/3.png"], site.pages["/4.png"]
        site.pages["/5.png"] = b"<html>"
        site.pages["/46.png"] = site.pages["/47.png"] = site.pages["/12.png"]
        records = [
            replace(CAPTION, image_id=i, id=10 * i + k, caption=f"a picture, {'very ' * k}noisy", split=SPLITS[i % 3],
                    image_url=f"{site.url}/{i}.png")
            for i, k in product(range(48), range(3))
        ]  # fmt: skip
        records += [
            replace(records[0], id=1000, caption="no"),
            replace(CAPTION, image_id=100, id=1001, image_license="other", image_url="http://a.example/1.jpg"),
            replace(CAPTION, image_id=101, id=1002, caption="cats dogs mice", image_url="/etc/passwd"),
        ]
        parameters = PreprocessParameters(
            image_size=32, min_words=2, min_side=40, duplicates="exact", allow_url_prefix=(site.url,)
        )
        return open_artifact(run(ingest_records(records, folder), str(folder / "out"), parameters, []))


def test_the_waterfalls_lead_from_in_to_out_in_every_split(planted: Artifact) -> None:
    tables, counts = Tables(page_of(planted)).found, planted.manifest.counts
    dropped = Counter(f"{reject.stage} {reject.reason}" for reject in rejects(planted))
    for unit in ("captions", "images"):
        (_, *heads), *rows = tables[unit.capitalize()]
        assert heads == ["", "all", "share", "train", "val", "test"]
        told = {row[0]: numbers([row[2], *row[4:]]) for row in rows}
        assert next(iter(told)) == "in"
        assert list(told)[-1] == "out"
        came, left = told.pop("in"), told.pop("out")
        assert (came[0], left[0]) == (counts[unit]["in"], counts[unit]["out"])
        for column, total in enumerate(came):
            assert total == left[column] + sum(row[column] for row in told.values())
        assert all(row[0] == sum(row[1:]) for row in told.values())
        if unit == "captions":
            assert {reason: row[0] for reason, row in told.items()} == dropped
            assert [reason.split()[0] for reason in told] == [
                "licenses", "filters", "images", "images", "images", "duplicates",
            ]  # fmt: skip
        else:
            assert left[1:] == [counts["splits"][split] for split in SPLITS]


def test_the_distributions_are_those_of_the_samples(planted: Artifact) -> None:
    tables = Tables(page_of(planted)).found
    for histogram in HISTOGRAMS:
        (_, *splits), *rows = tables[histogram.title]
        assert splits == list(SPLITS)
        for column, split in enumerate(splits, start=1):
            kept = Counter(place for sample in samples(planted, split) for place in histogram.bins(sample))
            expected = {histogram.labels[int(place)]: count for place, count in kept.items()}
            assert {row[0]: int(row[column]) for row in rows if int(row[column])} == expected
        # From the first bin with something in it to the last.
        assert any(int(cell) for cell in rows[0][1:])
        assert any(int(cell) for cell in rows[-1][1:])


def test_hosts_that_failed_and_licences_are_told_by_split(planted: Artifact) -> None:
    tables = Tables(page_of(planted)).found
    _, *rows = tables["host"]
    assert {(row[0], row[1]): sum(map(int, row[2:])) for row in rows} == {
        ("127.0.0.1", "http_404"): 2, ("127.0.0.1", "markup"): 1, ("(local)", "url_not_allowed"): 1,
    }  # fmt: skip
    _, *rows = tables["images that were kept"]
    assert [(row[0], sum(map(int, row[1:]))) for row in rows] == [("Attribution License", 43)]


def test_the_gallery_shows_pictures_of_every_split_with_their_captions(planted: Artifact) -> None:
    html = page_of(planted)
    stored = {sample.image: sample for split in SPLITS for sample in samples(planted, split)}
    shown = pictures(html.partition("<h2>Pictures</h2>")[2])
    assert len(shown) == len(set(shown)) == 3 * PICTURES
    for picture in shown:
        sample = stored[picture]
        assert f"image {sample.image_id} · {sample.original_width} × {sample.original_height} · " in html
        assert f'alt="{sample.captions[0].raw}"' in html
        assert f'<li dir="auto">{sample.captions[-1].raw}</li>' in html
    # Neither the first nor in the order of their ids.
    ids = [stored[picture].image_id for picture in shown[:PICTURES]]
    assert ids != sorted(ids)


def test_duplicates_of_several_splits_stand_side_by_side(planted: Artifact) -> None:
    section = page_of(planted).partition("<h2>Duplicates</h2>")[2].partition("<h2>")[0]
    told = re.findall(r"<small>(.*?)</small>", section)
    assert told == ["image 47 of test: stays", "image 12 of train: dropped", "image 46 of val: dropped"]
    (kept,) = (sample.image for sample in samples(planted, "test") if sample.image_id == 47)
    assert pictures(section) == [kept] * 3


def test_the_page_needs_nothing_beside_it_and_runs_nothing(planted: Artifact) -> None:
    html = page_of(planted)
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in html
    assert {*re.findall(r'(?:src|href)="?(.{10})', html)} == {"data:image"}
    assert "<script" not in html
    assert planted.uri not in html


def sample_of(image_id: int, text: str = "a dog", **changes: object) -> Sample:
    return replace(
        Sample(image_id, (Caption(1, text, text),), PICTURE, 32, 32, "http://x/1", "free", 480, 640), **changes
    )


def info_of(records: Iterable[Sample | Reject], key: ShardKey = ONLY) -> ShardInfo:
    """What a shard of these images tells of itself."""
    survey, counts = Survey(key, THUMBNAILS), Counter[str]()
    for record in records:
        kept = record if isinstance(record, Sample) else None
        survey.add(kept, [] if kept else [record])
        counts.update(captions_in=1, captions_out=kept is not None, images_in=1, images_out=kept is not None)
    return ShardInfo(key.split, dict(counts), {}, {}, (), {}, survey.statistics())


def rejected(image_id: int, host_number: int) -> Reject:
    url = f"http://{host_number}.example/1.jpg"
    return Reject("images", "timeout", "", 1, image_id, url)


def test_a_caption_a_licence_and_a_host_cannot_write_html() -> None:
    sample = sample_of(1, HOSTILE, image_license=HOSTILE)
    bad = [Reject(HOSTILE, HOSTILE, HOSTILE, 1, 2, f"http://{HOSTILE}/"), Reject("images", HOSTILE, "", 1, 3, HOSTILE)]
    parameters = PreprocessParameters(allow_url_prefix=(HOSTILE,))
    duplicate = ShownPicture(1, HOSTILE, True, PICTURE)
    html = dataset_page(by_split([info_of([sample, *bad])]), parameters, [[duplicate]])
    assert "<script" not in html
    assert "<img src=x" not in html
    assert html.count("&lt;script&gt;") >= 7
    assert len(pictures(html)) == 2


def test_however_much_there_is_the_page_stays_small() -> None:
    noisy = [saved(noise((224, 224)), "JPEG", quality=quality) for quality in (60, 100)]
    assert len(noisy[0]) < LARGEST < len(noisy[1])
    infos, captions = [], (Caption(1, "long " * 99, "long " * 999),)
    for index, split in product(range(16), SPLITS):
        kept = (
            sample_of(
                1000 * index + i, image=noisy[i % 2], image_license=f"l{i}" * 999, captions=captions * 9,
            )
            for i in range(30)
        )  # fmt: skip
        lost = (rejected(i, 1000 * index + i) for i in range(100))
        odd = (Reject("images", f"http_{index}_{i}", "", 1, i) for i in range(10))
        infos.append(info_of([*kept, *lost, *odd], ShardKey(split, index, 16)))
        assert len(infos[-1].to_json()) < 500_000
    groups = [[ShownPicture(i, "train", i == 0, b"x" * LARGEST) for i in range(SHOWN_OF_GROUP)]] * SHOWN_GROUPS
    html = dataset_page(by_split(infos), PreprocessParameters(), groups)
    assert len(html) < 3_000_000
    assert len(pictures(html)) == 3 * PICTURES + SHOWN_GROUPS * SHOWN_OF_GROUP
    tables = Tables(html).found
    assert all(len(rows) < 50 for rows in tables.values())
    for name in ("host", "images that were kept"):
        assert tables[name][-1][0] == "(others)"
    hosts = sum(sum(numbers(row[2:])) for row in tables["host"][1:])
    assert hosts == sum(numbers([row[2] for row in tables["Images"] if row[0].startswith(("images", "(others)"))]))


RECORDS = st.lists(
    st.builds(sample_of, st.integers(0, 99), st.sampled_from(["a", "a dog", "one two three four"]))
    | st.builds(rejected, st.integers(0, 99), st.integers(0, 3)),
    max_size=60,
    unique_by=lambda record: record.image_id,
)


@settings(deadline=None, max_examples=20)
@given(RECORDS, st.integers(1, 4), st.randoms())
def test_shards_add_up_in_any_order(records: list[Sample | Reject], shards: int, random: Random) -> None:
    infos = [info_of(records[start::shards]) for start in range(shards)]
    parameters = PreprocessParameters()
    page = dataset_page(by_split(infos), parameters)
    assert dataset_page(by_split(random.sample(infos, shards)), parameters) == page
    assert Statistics.merged(info.statistics for info in infos).numbers == info_of(records).statistics.numbers


@settings(deadline=None, max_examples=20)
@given(RECORDS)
def test_a_sidecar_keeps_the_statistics(records: list[Sample | Reject]) -> None:
    info = info_of(records)
    assert ShardInfo.from_json(info.to_json()) == info


def test_of_a_large_split_only_the_first_shards_give_pictures() -> None:
    pool = [sample_of(i) for i in range(100)]
    given = [len(info_of(pool, ShardKey("train", index, 10_000)).statistics.exhibits) for index in range(20)]
    assert given == [2] * PICTURES + [0] * (20 - PICTURES)
    assert len(info_of(pool, ShardKey("train", 0, 1)).statistics.exhibits) == PICTURES


@pytest.mark.parametrize(("image_format", "image_size"), [("jpeg", 512), ("png", 64), ("tensor", 256)])
def test_every_stored_form_is_shown_as_a_small_jpeg(
    ingested: str, small_sample: Path, tmp_path: Path, image_format: str, image_size: int
) -> None:
    parameters = PreprocessParameters(
        allow_url_prefix=(str(small_sample),), image_size=image_size, image_format=image_format, licenses=("*",),
        split="1,0,0",
    )  # fmt: skip
    artifact = open_artifact(run(ingested, str(tmp_path / "out"), parameters, []))
    shown = pictures(page_of(artifact))
    assert len(shown) == PICTURES
    for picture in shown:
        assert len(picture) <= LARGEST
        with Image.open(io.BytesIO(picture), formats=["JPEG"]) as opened:
            opened.load()
            assert opened.size == (min(image_size, 192),) * 2


def test_what_is_no_picture_is_not_shown() -> None:
    for image_format in ("jpeg", "png", "tensor"):
        with closing(Thumbnails(PreprocessParameters(image_format=image_format, image_size=512))) as thumbnails:
            assert thumbnails.of(b"\xff\xd8\xff nonsense") is None


def test_groups_of_duplicates_stand_side_by_side() -> None:
    bright, dark = saved(Image.new("RGB", (32, 32), "white"), "JPEG"), saved(Image.new("RGB", (32, 32)), "JPEG")
    groups = [
        [ShownPicture(7, "train", True, bright), ShownPicture(9, "val", False, bright)],
        [
            ShownPicture(11, "test", True, dark),
            ShownPicture(12, "test", False, dark),
            ShownPicture(13, "train", False, dark),
        ],
    ]
    parameters, splits = PreprocessParameters(image_size=32), by_split([info_of([sample_of(1)])])
    html = dataset_page(splits, parameters, groups)
    assert pictures(html)[:5] == [bright] * 2 + [dark] * 3
    section = html.partition("<h2>Duplicates</h2>")[2].partition("<h2>")[0]
    assert [group.count("<figure") for group in section.split('<div class="group">')[1:]] == [2, 3]
    for told in ("image 7 of train: stays", "image 9 of val: dropped", "image 13 of train: dropped"):
        assert told in section
    assert "<h2>Duplicates</h2>" not in dataset_page(splits, parameters)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://user:password@Example.org:80/a.jpg", "example.org"),
        ("s3://bucket/a.jpg", "bucket"),
        ("/data/a.jpg", "(local)"),
        ("", "(local)"),
        ("http://[", "(none)"),
        ("http://a b\u2028c/", "a_b_c"),
        (f"http://{'a' * 999}/", "a" * 100),
    ],
)
def test_a_host_is_told_without_what_else_is_in_a_url(url: str, name: str) -> None:
    assert host(url) == name


def test_show_writes_the_page_to_a_file(planted: Artifact, tmp_path: Path) -> None:
    done = captionflow("show", planted.uri, "--html", str(tmp_path / "page.html"))
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{tmp_path}/page.html: open it in a browser\n", "")
    assert (tmp_path / "page.html").read_bytes() == planted.read("dataset.html")


def test_what_has_no_page_is_one_line(planted: Artifact, ingested: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"is an artifact of kind ingested, which has no page to look at$"):
        write_page(ingested, tmp_path / "page.html")
    with pytest.raises(InvalidInputError, match=rf"^--html: {tmp_path}: .*; choose another file$"):
        write_page(planted.uri, tmp_path)
    assert list(tmp_path.iterdir()) == []
