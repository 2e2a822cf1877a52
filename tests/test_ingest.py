"""Ingest: every kind of source, and every row accounted for."""

import gzip
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captionflow.core.artifact import open_artifact
from captionflow.core.errors import InvalidInputError, StepFailedError
from captionflow.core.records import ImageCaption, Reject
from captionflow.sources.ingest import ingest
from captionflow.sources.parameters import IngestParameters
from tests.servers import Site

HEADER = "image_id,id,caption,image_url,image_name,image_license\n"
IMAGES = [
    {
        "id": n,
        "file_name": f"{n}.jpg",
        "coco_url": f"http://coco/{n}.jpg",
        "flickr_url": f"http://flickr/{n}",
        "license": 4,
    }
    for n in (1, 2)
]
LICENSES = [{"id": 4, "name": "Attribution License", "url": "http://license/4"}]
ANNOTATIONS = [{"image_id": n, "id": 10 * n, "caption": f"picture {n}"} for n in (1, 2)]


def row(id_: int = 1, **changes: Any) -> dict[str, Any]:
    """A good row, with changes; None takes a field away."""
    good = {
        "image_id": 7,
        "id": id_,
        "caption": "a cat",
        "image_url": "http://images/7.jpg",
        "image_name": "7.jpg",
        "image_license": "Attribution License",
    }
    return {name: value for name, value in (good | changes).items() if value is not None}


def coco(**changes: Any) -> bytes:
    parts = {"info": {}, "licenses": LICENSES, "images": IMAGES, "annotations": ANNOTATIONS}
    return json.dumps(parts | changes).encode()


def jsonl(*rows: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def run(folder: Path, *sources: bytes | str, names: str = "source", **parameters: Any) -> tuple[list[Any], list[Any]]:
    """Ingest files with these contents, or these URIs; return captions and rejects, all accounted for."""
    uris = []
    for number, source in enumerate(sources):
        if isinstance(source, bytes):
            path = folder / f"{number}-{names}"
            path.write_bytes(source)
            source = str(path)
        uris.append(source)
    uri = ingest(str(folder / "out"), IngestParameters(sources=tuple(uris), **parameters))
    return content(uri)


def content(uri: str) -> tuple[list[ImageCaption], list[Reject]]:
    """Read an ingested artifact, checking its files and its counts."""
    artifact = open_artifact(uri, "ingested")
    artifact.verify()
    captions = [ImageCaption.from_json(line) for line in artifact.read("captions.jsonl").splitlines()]
    rejects = [Reject.from_json(line) for line in artifact.read("rejects.jsonl").splitlines()]
    counts = artifact.manifest.counts
    assert counts["captions"] == {"in": len(captions) + len(rejects), "out": len(captions), "rejected": len(rejects)}
    assert counts["images"] == len({caption.image_id for caption in captions})
    assert counts["rejected"] == {r.reason: sum(s.reason == r.reason for s in rejects) for r in rejects}
    return captions, rejects


COCO_CAPTIONS = [
    ImageCaption(n, 10 * n, f"picture {n}", f"http://coco/{n}.jpg", f"{n}.jpg", "Attribution License") for n in (1, 2)
]


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(coco(), id="plain"),
        pytest.param(b"\xef\xbb\xbf \n" + coco(), id="byte order mark and white space"),
        pytest.param(gzip.compress(coco()), id="gz"),
        pytest.param(zipped({"anything.json": coco()}), id="zip of one file"),
        pytest.param(
            zipped({"annotations/captions_val.json": coco(), "annotations/instances_val.json": b"{}"}),
            id="zip with one captions file",
        ),
    ],
)
@pytest.mark.parametrize("name", ["captions.json", "misleading.csv", "no-extension"])
def test_coco_is_known_by_its_content(tmp_path: Path, source: bytes, name: str) -> None:
    assert run(tmp_path, source, names=name) == (COCO_CAPTIONS, [])


@pytest.mark.parametrize("member", ["captions_val.json", "annotations/captions_val.json"])
def test_a_member_is_chosen_among_several(tmp_path: Path, member: str) -> None:
    other = coco(annotations=[{"image_id": 1, "id": 1, "caption": "other"}])
    archive = zipped({"annotations/captions_train.json": other, "annotations/captions_val.json": coco()})
    assert run(tmp_path, archive, member=member) == (COCO_CAPTIONS, [])
    for wrong in (None, "captions_test.json"):
        with pytest.raises(InvalidInputError, match=r"--member.*captions_train\.json, .*captions_val\.json"):
            run(tmp_path, archive, member=wrong)


def test_the_parts_of_coco_may_come_in_any_order(tmp_path: Path) -> None:
    parts = {"annotations": ANNOTATIONS, "type": "captions", "images": IMAGES, "licenses": LICENSES}
    assert run(tmp_path, json.dumps(parts).encode()) == (COCO_CAPTIONS, [])


def test_the_url_field_is_a_choice(tmp_path: Path) -> None:
    captions, _ = run(tmp_path, coco(), url_field="flickr_url")
    assert [caption.image_url for caption in captions] == ["http://flickr/1", "http://flickr/2"]


def test_an_image_root_replaces_the_urls_of_coco(tmp_path: Path) -> None:
    named = [{**IMAGES[0], "file_name": "a b.jpg"}]
    one = ANNOTATIONS[:1]
    for root, url in (
        ("http://host/images/", "http://host/images/a%20b.jpg"),
        (str(tmp_path), f"{tmp_path}/a b.jpg"),
        (f"file://{tmp_path}", f"{tmp_path}/a b.jpg"),
    ):
        captions, _ = run(tmp_path, coco(images=named, annotations=one), image_root=(root,))
        assert [caption.image_url for caption in captions] == [url]


def test_several_sources_share_an_image_root_or_have_one_each(tmp_path: Path) -> None:
    first = coco(annotations=ANNOTATIONS[:1])
    second = coco(annotations=ANNOTATIONS[1:])
    for roots, urls in (
        ((), ["http://coco/1.jpg", "http://coco/2.jpg"]),
        (("http://a",), ["http://a/1.jpg", "http://a/2.jpg"]),
        (("http://a", "http://b"), ["http://a/1.jpg", "http://b/2.jpg"]),
    ):
        captions, _ = run(tmp_path, first, second, image_root=roots)
        assert [caption.image_url for caption in captions] == urls
    with pytest.raises(InvalidInputError, match=r"^--image-root: 3 given for 2 sources"):
        run(tmp_path, first, second, image_root=("http://a", "http://b", "http://c"))


def test_sources_of_different_formats_go_together_in_their_order(tmp_path: Path) -> None:
    table = (HEADER + "8,2,a dog,u,n,l\n").encode()
    captions, _ = run(tmp_path, jsonl(row(1)), table, gzip.compress(coco()))
    assert [caption.id for caption in captions] == [1, 2, 10, 20]


def test_the_csv_of_the_beam_documentation_gives_its_two_captions(tmp_path: Path) -> None:
    table = HEADER + (
        '318556,255,"An angled view of a beautifully decorated bathroom.",'
        '"http://farm4.staticflickr.com/3133/3378902101_3c9fa16b84_z.jpg","COCO_train2014_000000318556.jpg",'
        '"Attribution-NonCommercial-ShareAlike License"\n'
        '476220,14,"An empty kitchen with white and black appliances.",'
        '"http://farm7.staticflickr.com/6173/6207941582_b69380c020_z.jpg","COCO_train2014_000000476220.jpg",'
        '"Attribution-NonCommercial License"\n'
    )
    captions, rejects = run(tmp_path, table.encode())
    assert captions[0] == ImageCaption(
        318556,
        255,
        "An angled view of a beautifully decorated bathroom.",
        "http://farm4.staticflickr.com/3133/3378902101_3c9fa16b84_z.jpg",
        "COCO_train2014_000000318556.jpg",
        "Attribution-NonCommercial-ShareAlike License",
    )
    assert [(caption.image_id, caption.id) for caption in captions] == [(318556, 255), (476220, 14)]
    assert not rejects


@pytest.mark.parametrize(
    ("text", "caption"),
    [
        pytest.param(HEADER + "7,1,a cat,u,n,l\n", "a cat", id="plain"),
        pytest.param("\ufeff" + HEADER + "7,1,a cat,u,n,l\n", "a cat", id="byte order mark"),
        pytest.param((HEADER + "7,1,a cat,u,n,l\n").replace("\n", "\r\n"), "a cat", id="CRLF"),
        pytest.param((HEADER + "7,1,a cat,u,n,l\n").replace("\n", "\r"), "a cat", id="CR"),
        pytest.param(HEADER + '7,1,"a ""fat"" cat, asleep",u,n,l\n', 'a "fat" cat, asleep', id="quotes"),
        pytest.param(HEADER + '7,1,"a cat\nasleep",u,n,l\n', "a cat\nasleep", id="newline within quotes"),
        pytest.param(HEADER + "7,1,eine süße 猫,u,n,l", "eine süße 猫", id="no newline at the end"),
        pytest.param(
            '"image_id", "id", "caption", "image_url", "image_name", "image_license"\n7, 1, "a cat", u, n, l\n',
            "a cat",
            id="spaces",
        ),
        pytest.param(
            "more,id,image_id,caption,image_license,image_name,image_url\nx,1,7,a cat,l,n,u\n", "a cat", id="order"
        ),
        pytest.param("\n" + HEADER + "7,1,a cat,u,n,l\n\n", "a cat", id="blank lines"),
    ],
)
def test_csv_as_people_write_it(tmp_path: Path, text: str, caption: str) -> None:
    assert run(tmp_path, text.encode()) == ([ImageCaption(7, 1, caption, f"{tmp_path}/u", "n", "l")], [])


def test_json_lines_as_people_write_them(tmp_path: Path) -> None:
    lines = b"\xef\xbb\xbf\n" + jsonl(row(1, width=5)).replace(b"\n", b"\r\n") + b"\n  \n" + jsonl(row(2)).strip()
    captions, rejects = run(tmp_path, lines)
    assert captions == [ImageCaption(**row(1)), ImageCaption(**row(2))]
    assert not rejects


def test_a_source_may_be_a_url(tmp_path: Path, site: Site) -> None:
    site.pages["/captions.zip"] = zipped({"captions.json": coco()})
    assert run(tmp_path, f"{site.url}/captions.zip", allow_url_prefix=(site.url,)) == (COCO_CAPTIONS, [])
    (parent,) = open_artifact(str(tmp_path / "out")).manifest.parents
    assert (parent.kind, parent.uri) == ("source", f"{site.url}/captions.zip")


@pytest.mark.parametrize("name", ["captions.json", "my captions.json"])
def test_a_source_may_be_a_file_uri(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(coco())
    assert run(tmp_path, (tmp_path / name).as_uri()) == (COCO_CAPTIONS, [])


def test_two_runs_give_the_same_bytes(tmp_path: Path) -> None:
    source = tmp_path / "captions.jsonl"
    source.write_bytes(jsonl(row(2), row(1), row(2), row(3, caption=5)))
    parameters = IngestParameters(sources=(str(source),))
    first, second = (open_artifact(ingest(str(tmp_path / name), parameters)) for name in ("first", "second"))
    assert first.manifest.sha256 == second.manifest.sha256
    for name in ("captions.jsonl", "rejects.jsonl"):
        assert first.read(name) == second.read(name)


def test_the_built_in_sample_is_ingested_whole(ingested: str) -> None:
    captions, rejects = content(ingested)
    assert (len(captions), len({caption.image_id for caption in captions}), rejects) == (300, 60, [])


TEXT = st.text(max_size=20)
FIELD = st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.lists(st.integers(), max_size=2)
GOOD = st.builds(row, st.integers(0, 50), caption=TEXT, image_id=st.integers(0, 9)).map(lambda good: jsonl(good))
BAD = st.builds(
    lambda changes: jsonl({**row(1), **changes}), st.dictionaries(st.sampled_from(sorted(row())), FIELD, min_size=1)
)
JUNK = st.binary(max_size=40).map(lambda junk: junk.replace(b"\n", b"") + b"\n")


@settings(deadline=None)
@given(lines=st.lists(GOOD | BAD | JUNK, max_size=12))
def test_every_row_of_any_mixture_is_kept_or_rejected(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]
) -> None:
    data = jsonl(row(0)) + b"".join(lines)
    try:
        captions, rejects = run(tmp_path_factory.mktemp("mixture"), data, max_reject_ratio=0.9)
    except StepFailedError:
        return
    assert len(captions) + len(rejects) == sum(
        bool(line.removeprefix(b"\xef\xbb\xbf").strip()) for line in data.split(b"\n")
    )


def test_json_lines_may_have_keys_that_coco_has_too(tmp_path: Path) -> None:
    source = tmp_path / "captions.jsonl"
    source.write_bytes(b"".join(b'{"type": "caption", "info": {}, ' + jsonl(row(i))[1:] for i in (1, 2)))
    uri = ingest(str(tmp_path / "out"), IngestParameters(sources=(str(source),)))
    assert open_artifact(uri).manifest.counts["captions"] == {"in": 2, "out": 2, "rejected": 0}
