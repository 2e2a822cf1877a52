"""Sources as others publish them: Parquet by the file, the folder or the pattern, token files, folders of pictures."""

import gzip
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captionflow.core.artifact import open_artifact
from captionflow.core.errors import InvalidInputError, StepFailedError
from captionflow.core.records import ImageCaption
from captionflow.sources.ingest import ingest
from captionflow.sources.parameters import IngestParameters
from tests.gcs import serve_gcs
from tests.s3 import serve_s3
from tests.tables import parquet
from tests.test_ingest import COCO_CAPTIONS, coco, content, jsonl, run

CAT, DOG = "http://images/cat.jpg", "http://images/dog.jpg"
LAION = {
    "SAMPLE_ID": [1.5e12, 2.0], "URL": [CAT, DOG], "TEXT": ["a cat", "a dog"], "LICENSE": ["?", "cc-by 2.0"],
    "NSFW": ["UNLIKELY", None], "similarity": [0.3, 0.4], "WIDTH": [640, 480],
}  # fmt: skip
DATACOMP = {
    "uid": ["0" * 31 + "1", "0" * 31 + "2"], "url": [CAT, DOG], "text": ["a cat", "a dog"], "original_width": [64, 48],
    "face_bboxes": [[[0.1, 0.2, 0.3, 0.4]], []],
}  # fmt: skip
CC12M = {"image_url": [CAT, DOG], "caption": ["a cat", "a dog"]}


def stable_id(*parts: str | int) -> int:
    """The hash that docs/artifacts.md promises, written anew."""
    data = b"".join(p.encode() if isinstance(p, str) else p.to_bytes(8, "big", signed=True) for p in parts)
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big", signed=True)


def caption(url: str, text: str, **changes: Any) -> ImageCaption:
    """The record of a row without ids."""
    image_id = stable_id(url)
    return ImageCaption(**{
        "image_id": image_id, "id": stable_id(image_id, text), "caption": text, "image_url": url, **changes
    })  # fmt: skip


@pytest.mark.parametrize("table", [LAION, DATACOMP, CC12M], ids=["LAION", "DataComp", "CC12M"])
def test_published_parquet_is_read_as_it_comes(tmp_path: Path, table: dict[str, Any]) -> None:
    assert run(tmp_path, parquet(table)) == ([caption(CAT, "a cat"), caption(DOG, "a dog")], [])


def test_columns_are_named_as_img2dataset_names_them(tmp_path: Path) -> None:
    table = {"picture": [CAT], "alt": ["a cat"], "key": ["x1"], "terms": ["MIT"], "part": ["dev"], "url": [DOG]}
    columns = {"url_col": "picture", "caption_col": "alt", "id_col": "key", "license_col": "terms", "split_col": "part"}
    expected = caption(CAT, "a cat", id=stable_id("x1"), image_license="MIT", split="val")
    lines = jsonl({name: values[0] for name, values in table.items()})
    text = f"{','.join(table)}\n{','.join(values[0] for values in table.values())}\n".encode()
    for source in (parquet(table), lines, text):
        assert run(tmp_path, source, **columns) == ([expected], [])


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([7, -(2**63)], [7, -(2**63)]),
        (["7", "é"], [stable_id("7"), stable_id("é")]),
        ([1.5e12, 2.0], [1_500_000_000_000, 2]),
        (pa.array([7, 2**64 - 1], pa.uint64()), [7, stable_id(str(2**64 - 1))]),
        (pa.array([b"x", b"y"], pa.binary(1)).cast(pa.binary()), [stable_id("x"), stable_id("y")]),
    ],
    ids=["integers", "texts", "floats", "unsigned", "bytes"],
)
def test_ids_are_integers_or_become_such(tmp_path: Path, ids: Any, expected: list[int]) -> None:
    captions, rejects = run(tmp_path, parquet({**CC12M, "key": ids}), id_col="key")
    assert ([c.id for c in captions], rejects) == (expected, [])
    captions, _ = run(tmp_path, parquet({**CC12M, "image_id": ids}))
    assert [c.image_id for c in captions] == expected
    assert [c.id for c in captions] == [stable_id(id_, c.caption) for id_, c in zip(expected, captions, strict=True)]


def test_an_image_with_two_texts_is_one_image_and_the_same_text_again_a_reject(tmp_path: Path) -> None:
    table = {"url": [CAT, CAT, CAT], "text": ["a cat", "a pet", "a cat"]}
    captions, rejects = run(tmp_path, parquet(table))
    assert captions == [caption(CAT, "a cat"), caption(CAT, "a pet")]
    assert [reject.reason for reject in rejects] == ["duplicate_id"]


@pytest.mark.parametrize(
    "type_",
    [
        pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(),
        pa.dictionary(pa.int8(), pa.string()), pa.dictionary(pa.int32(), pa.large_string()),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("options", [{}, {"use_dictionary": False}, {"store_schema": False}], ids=str)
def test_a_text_may_have_any_of_arrows_types(tmp_path: Path, type_: pa.DataType, options: dict[str, Any]) -> None:
    texts = {name: pa.array(values, pa.string()).cast(type_) for name, values in CC12M.items()}
    assert run(tmp_path, parquet(texts, **options))[0] == [caption(CAT, "a cat"), caption(DOG, "a dog")]


def test_many_groups_of_rows_are_read_in_their_order(tmp_path: Path) -> None:
    count = 10_000
    table = {
        "url": [f"http://images/{n}.jpg" for n in range(count)],
        "text": [f"picture {n % 7}" for n in range(count)],
    }
    captions, _ = run(tmp_path, parquet(table, row_group_size=999, dictionary_pagesize_limit=1000))
    assert [(c.image_url, c.caption) for c in captions] == list(zip(*table.values(), strict=True))


TEXT = st.none() | st.text(max_size=5)


@settings(deadline=None)
@given(rows=st.lists(st.tuples(TEXT, TEXT, st.none() | st.integers(0, 3)), min_size=1, max_size=20))
def test_rows_give_the_same_captions_as_parquet_and_as_json_lines(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[Any, ...]]
) -> None:
    columns = dict(zip(("url", "text", "id"), zip(*rows, strict=True), strict=True))
    types = {"url": pa.string(), "text": pa.string(), "id": pa.int64()}
    table = parquet({name: pa.array(values, types[name]) for name, values in columns.items()})
    lines = jsonl(*(dict(zip(types, row, strict=True)) for row in rows))
    folder = tmp_path_factory.mktemp("same")
    try:
        read = [run(folder, source, max_reject_ratio=1.0) for source in (table, lines)]
    except StepFailedError:
        return
    assert read[0] == read[1]
    assert sum(map(len, read[0])) == len(rows)


def folder_of_parquet(folder: Path) -> Path:
    """Two tables, a caption each, and what Spark and file managers leave beside them."""
    folder.mkdir(parents=True)
    for number, (url, text) in enumerate(((DOG, "a dog"), (CAT, "a cat"))):
        (folder / f"part-{1 - number}.parquet").write_bytes(parquet({"url": [url], "text": [text]}))
    for name in ("_SUCCESS", "._part-0.parquet", "_metadata.parquet", "notes.txt"):
        (folder / name).write_bytes(b"something else")
    return folder


@pytest.mark.parametrize("given", ["{}", "{}/", "{}/part-*.parquet", "{}/../*/part-[01].parquet", "file://{}/part-?.*"])
def test_a_folder_or_a_pattern_stands_for_its_files(tmp_path: Path, given: str) -> None:
    folder = folder_of_parquet(tmp_path / "laion")
    assert run(tmp_path, given.format(folder)) == ([caption(CAT, "a cat"), caption(DOG, "a dog")], [])
    files = sorted(folder.glob("part-*"))
    parents = open_artifact(str(tmp_path / "out")).manifest.parents
    assert [(parent.uri, parent.sha256) for parent in parents] == [
        (str(file), hashlib.sha256(file.read_bytes()).hexdigest()) for file in files
    ]


def test_folders_at_any_depth_match_two_stars(tmp_path: Path) -> None:
    folder_of_parquet(tmp_path / "data" / "a" / "b")
    assert len(run(tmp_path, f"{tmp_path}/data/**/part-*.parquet")[0]) == 2


def test_a_pattern_may_have_a_split_and_an_image_root_before_and_beside_it(tmp_path: Path) -> None:
    folder = folder_of_parquet(tmp_path / "laion")
    (tmp_path / "coco.json").write_bytes(coco())
    sources = (f"train={folder}/*.parquet", f"val={tmp_path}/coco.json")
    (folder / "_metadata.parquet").unlink()
    (folder / "._part-0.parquet").unlink()
    captions, _ = run(tmp_path, *sources, image_root=("http://none", "http://coco"))
    assert [(c.split, c.image_url) for c in captions] == [
        ("train", CAT), ("train", DOG), *(("val", c.image_url) for c in COCO_CAPTIONS)
    ]  # fmt: skip


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "[1].parquet").write_bytes(parquet(CC12M))
    (tmp_path / "1.parquet").write_bytes(parquet(LAION))
    run(tmp_path, f"{tmp_path}/[1].parquet")
    (parent,) = open_artifact(str(tmp_path / "out")).manifest.parents
    assert parent.uri == f"{tmp_path}/[1].parquet"


@pytest.mark.parametrize("given", ["{}/none-*.parquet", "{}/empty", "train={}/empty", "{}/*/[]"])
def test_what_matches_no_file_is_one_line(tmp_path: Path, given: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInputError, match=r"^[^\n]*: no file matches; give files, a pattern, or a folder[^\n]*$"):
        run(tmp_path, given.format(tmp_path))


PNG = b"\x89PNG"


@pytest.mark.parametrize("key", ["text", "caption"])
def test_a_folder_of_pictures_with_metadata(tmp_path: Path, key: str) -> None:
    for split in ("train", "validation"):
        folder = tmp_path / "data" / split
        folder.mkdir(parents=True)
        (folder / "1.png").write_bytes(PNG)
        (folder / "metadata.jsonl").write_bytes(
            jsonl({"file_name": "1.png", key: f"a picture to {split}", "more": [1]})
        )
    captions, rejects = run(tmp_path, f"train={tmp_path}/data/train", f"val={tmp_path}/data/validation/metadata.jsonl")
    assert not rejects
    assert captions == [
        caption(f"{tmp_path}/data/{folder}/1.png", f"a picture to {folder}", image_name="1.png", split=split)
        for folder, split in (("train", "train"), ("validation", "val"))
    ]


TOKENS = b"cat.jpg#0\ta cat\ncat.jpg#1\ta pet \r\n\ndog.jpg.1#0\teine s\xc3\xbc\xc3\x9fe 'dog'\n"


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("root", [None, "http://images", "/images"])
def test_flickrs_tokens(tmp_path: Path, pack: Any, root: str | None) -> None:
    captions, rejects = run(tmp_path, pack(TOKENS), image_root=(root,) if root else ())
    assert not rejects
    assert captions == [
        ImageCaption(stable_id(name), stable_id(f"{name}#{n}"), text, f"{root or tmp_path}/{name}", name)
        for name, n, text in (("cat.jpg", 0, "a cat"), ("cat.jpg", 1, "a pet"), ("dog.jpg.1", 0, "eine süße 'dog'"))
    ]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"no tab\n", "no_token_line"), (b"cat.jpg#9\t\n", "no_token_line"), (b"#9\ta cat\n", "no_token_line"),
        (b"cat.jpg\ta cat\n", "no_token_line"), (b"cat.jpg#0\tagain\n", "duplicate_id"),
        (b"cat.jpg#9\t\xff\n", "ill_typed_field"), (b"\xff.jpg#9\ta cat\n", "ill_typed_field"),
        (b"cat.jpg#9\t" + b"x" * (3 << 20) + b"\n", "line_too_long"),
    ],
)  # fmt: skip
def test_a_bad_line_of_tokens_is_a_reject(tmp_path: Path, bad: bytes, reason: str) -> None:
    captions, rejects = run(tmp_path, TOKENS + bad)
    assert (len(captions), [reject.reason for reject in rejects]) == (3, [reason])


def test_csv_needs_no_ids(tmp_path: Path) -> None:
    assert run(tmp_path, f"url,caption\n{CAT},a cat\n{DOG},a dog\n".encode())[0] == [
        caption(CAT, "a cat"), caption(DOG, "a dog")
    ]  # fmt: skip


def test_a_column_that_was_named_must_be_there(tmp_path: Path) -> None:
    captions, rejects = run(
        tmp_path, jsonl({"url": CAT, "text": "a", "key": 1}, {"url": CAT, "text": "b"}), id_col="key"
    )
    assert ([c.id for c in captions], [(r.reason, r.detail) for r in rejects]) == ([1], [("missing_field", "id")])


def test_pyarrow_is_imported_for_parquet_alone(tmp_path: Path) -> None:
    (tmp_path / "captions.csv").write_text(f"url,caption\n{CAT},a cat\n")
    code = (
        "import sys; from captionflow.cli.main import main\n"
        "try: main()\n"
        "finally: print('pyarrow' in sys.modules)"
    )  # fmt: skip
    for arguments in (["--help"], ["--sources", f"{tmp_path}/captions.csv", "--output", f"{tmp_path}/out"]):
        done = subprocess.run(
            [sys.executable, "-c", code, "ingest", *arguments], capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines()[-1] == "False", done


FROM_BUCKET = """
import sys, fsspec
scheme, folder = sys.argv[1:]
from captionflow.core.artifact import open_artifact
from captionflow.sources.ingest import ingest
from captionflow.sources.parameters import IngestParameters

def parents(given):
    uri = ingest(f"{scheme}://bucket/out", IngestParameters(sources=(given,)))
    print(*(parent.uri for parent in open_artifact(uri).manifest.parents))

fs = fsspec.filesystem(scheme)
fs.mkdir("bucket")
fs.put(folder, "bucket/laion", recursive=True)
for given in ("bucket/laion", "bucket/laion/", "bucket/l*/part-*.parquet"):
    parents(f"val={scheme}://{given}")
for given in ("bucket/laion/none-*", "bucket/none", "none/*"):
    try:
        parents(f"{scheme}://{given}")
    except Exception as error:
        print(type(error).__name__, error)
elsewhere = fsspec.filesystem(scheme, skip_instance_cache=True)
elsewhere.pipe("bucket/laion/part-2.parquet", elsewhere.cat("bucket/laion/part-0.parquet"))
parents(f"{scheme}://bucket/laion")
"""


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "serve"), [("s3", serve_s3), ("gs", serve_gcs)])
def test_a_folder_or_a_pattern_may_lie_in_a_bucket(tmp_path: Path, scheme: str, serve: Any) -> None:
    folder = folder_of_parquet(tmp_path / "laion")
    with serve() as environment:
        done = subprocess.run(
            [sys.executable, "-c", FROM_BUCKET, scheme, str(folder)], env=os.environ | environment,
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    *lines, after = done.stdout.splitlines()
    files = [f"{scheme}://bucket/laion/part-{n}.parquet" for n in range(3)]
    assert lines[:3] == [" ".join(files[:2])] * 3
    assert [line.split(":")[0] for line in lines[3:]] == [f"InvalidInputError {scheme}"] * 3
    assert after == " ".join(files)


def test_two_runs_over_parquet_give_the_same_bytes(tmp_path: Path) -> None:
    folder = folder_of_parquet(tmp_path / "laion")
    parameters = IngestParameters(sources=(str(folder),))
    uris = [ingest(str(tmp_path / name), parameters) for name in ("first", "second")]
    assert content(uris[0]) == content(uris[1])
    assert len({open_artifact(uri).manifest.sha256 for uri in uris}) == 1
