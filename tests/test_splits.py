"""Splits as a source gives them, from the caption file to the shards; and what Karpathy's files hold."""

import copy
import io
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_jobs.preprocess import run
from captionflow.core.artifact import open_artifact
from captionflow.core.errors import InvalidInputError
from captionflow.core.records import CAPTIONS, SPLITS, Caption, ImageCaption, Reject, Sample
from captionflow.core.shards import read_shard
from captionflow.preprocess.parameters import PreprocessParameters
from captionflow.preprocess.shards import Layout
from captionflow.sources.ingest import ingest
from captionflow.sources.parameters import IngestParameters
from tests.ingesting import CAPTION, ingest_records
from tests.recipes import ROOT, commands
from tests.recipes import run as run_commands
from tests.servers import Site
from tests.test_preprocess import assert_accounted, samples

# Sizes as published: Hodosh et al. 2013 (Flickr8k); Karpathy and Fei-Fei 2015 (COCO, with its restval).
FLICKR8K = {"train": 6000, "val": 1000, "test": 1000}
COCO = {"train": 82_783, "restval": 30_504, "val": 5000, "test": 5000}
COCO_2017 = {"train": 118_287, "val": 5000}

CHOICES = st.lists(st.sampled_from(SPLITS), min_size=1, max_size=3, unique=True).map("+".join)


def karpathy(sizes: dict[str, int], captions: int = 1, **fields: Any) -> dict[str, Any]:
    splits = [split for split, number in sizes.items() for _ in range(number)]
    images = []
    for i, split in enumerate(splits):
        sentences = [
            {"raw": f"Picture {i}, no. {n}!", "tokens": ["picture"], "imgid": i, "sentid": i * captions + n}
            for n in range(captions)
        ]
        images.append({"imgid": i, "filename": f"{i}.jpg", "split": split, "sentences": sentences, **fields})
    return {"images": images, "dataset": "made"}


def write(folder: Path, content: Any, name: str = "dataset.json") -> str:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(content))
    return str(folder / name)


def ingested(folder: Path, *sources: str, **parameters: Any) -> tuple[dict[str, Any], list[ImageCaption]]:
    """Ingest the sources; returns the manifest's counts and the captions."""
    artifact = open_artifact(ingest(str(folder / "ingested"), IngestParameters(sources=sources, **parameters)))
    return artifact.manifest.counts, [ImageCaption.from_json(line) for line in artifact.read(CAPTIONS).splitlines()]


def test_karpathys_flickr8k_has_its_published_sizes(tmp_path: Path) -> None:
    counts, captions = ingested(tmp_path, write(tmp_path, karpathy(FLICKR8K, captions=5)))
    assert counts["splits"] == FLICKR8K
    assert counts["images"] == sum(FLICKR8K.values())
    assert captions[0] == ImageCaption(0, 0, "Picture 0, no. 0!", f"{tmp_path}/0.jpg", "0.jpg", split="train")


def test_the_commands_of_the_docs_work(tmp_path: Path) -> None:
    write(tmp_path, karpathy(FLICKR8K, captions=5), "dataset_flickr8k.json")
    shown = run_commands(commands("Splits", ROOT / "docs" / "data.md"), tmp_path, ROOT)
    assert "splits=test 1000, train 6000, val 1000\n" in shown


def test_karpathys_coco_counts_restval_as_train(tmp_path: Path) -> None:
    counts, _ = ingested(tmp_path, write(tmp_path, karpathy(COCO)))
    assert counts["splits"] == {"train": 113_287, "val": 5000, "test": 5000}


def test_flickr8k_as_it_is_on_disk_and_in_karpathys_form(flickr8k: Path, tmp_path: Path) -> None:
    sources = [f"train={flickr8k}/train.csv", f"val={flickr8k}/dev.csv"]
    counts, captions = ingested(tmp_path, *sources)
    assert counts["splits"] == {"train": 6000, "val": 1000}
    assert counts["captions"] == {"in": 35_000, "out": 35_000, "rejected": 0}
    assert all(Path(caption.image_url).is_file() for caption in captions)
    images: dict[int, dict[str, Any]] = {}
    for caption in captions:
        image = {"imgid": caption.image_id, "filename": caption.image_name, "split": caption.split, "sentences": []}
        sentence = {"sentid": caption.id, "raw": caption.caption}
        images.setdefault(caption.image_id, image)["sentences"].append(sentence)
    source = write(tmp_path, {"images": list(images.values()), "dataset": "flickr8k"})
    again, same = ingested(tmp_path / "karpathy", source, image_root=(f"{flickr8k}/images",))
    assert again["splits"] == counts["splits"]
    assert {replace(caption, image_license="") for caption in same} == {
        replace(caption, image_license="") for caption in captions
    }


@pytest.mark.parametrize(
    ("restval", "splits", "rejected"),
    [
        ("train", {"train": 5, "val": 1, "test": 1}, {}),
        ("val", {"train": 3, "val": 3, "test": 1}, {}),
        ("reject", {"train": 3, "val": 1, "test": 1}, {"restval": 2}),
    ],
)
def test_restval_becomes_what_the_user_says(
    tmp_path: Path, restval: str, splits: dict[str, int], rejected: dict[str, int]
) -> None:
    source = write(tmp_path, karpathy({"train": 3, "restval": 2, "val": 1, "test": 1}))
    counts, _ = ingested(tmp_path, source, restval=restval)
    assert (counts["splits"], counts["rejected"]) == (splits, rejected)


def test_karpathys_images_are_found_by_name(tmp_path: Path) -> None:
    content = karpathy({"train": 1}, filepath="val2014", cocoid=391_895)
    _, (beside,) = ingested(tmp_path, write(tmp_path, content))
    assert (beside.image_id, beside.image_url) == (391_895, f"{tmp_path}/val2014/0.jpg")
    _, (elsewhere,) = ingested(tmp_path, write(tmp_path, content), image_root=("http://images.example/coco/",))
    assert elsewhere.image_url == "http://images.example/coco/val2014/0.jpg"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"sentences": "none"}, "ill_typed_field"),
        ({"sentences": ["a dog"]}, "ill_typed_field"),
        ({"sentences": [{"sentid": 1}]}, "missing_field"),
        ({"split": "holdout"}, "unknown_split"),
        ({"split": ["train"]}, "ill_typed_field"),
        ({"filename": 7}, "ill_typed_field"),
    ],
)
def test_a_wrong_image_of_karpathys_is_a_reject(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    content = karpathy({"train": 3})
    content["images"][1] |= change
    counts, captions = ingested(tmp_path, write(tmp_path, content))
    assert counts["rejected"] == {reason: 1}
    assert len(captions) == 2


def coco(images: int, first: int = 0) -> dict[str, Any]:
    ids = range(first, first + images)
    return {
        "images": [{"id": i, "file_name": f"{i}.jpg", "coco_url": f"http://images.example/{i}.jpg"} for i in ids],
        "annotations": [{"id": i, "image_id": i, "caption": "A dog."} for i in ids],
    }


def test_cocos_two_files_are_the_splits_that_they_are(tmp_path: Path) -> None:
    train = write(tmp_path, coco(COCO_2017["train"]), "train.json")
    val = write(tmp_path, coco(COCO_2017["val"], first=1_000_000), "val.json")
    counts, captions = ingested(tmp_path, f"train={train}", f"val+test={val}")
    assert counts["splits"] == {"train": COCO_2017["train"], "val+test": COCO_2017["val"]}
    assert {caption.split for caption in captions if caption.image_id >= 1_000_000} == {"val+test"}


def test_a_column_gives_the_split_and_the_command_goes_before_it(tmp_path: Path) -> None:
    header = "image_id,id,caption,image_url,split\n"
    names = ["train", "val", "validation", "dev", "test", "", "holdout"]
    rows = "".join(f"{i},{i},a dog,http://x/{i},{name}\n" for i, name in enumerate(names))
    (tmp_path / "captions.csv").write_text(header + rows)
    counts, captions = ingested(tmp_path, str(tmp_path / "captions.csv"))
    assert [caption.split for caption in captions] == ["train", "val", "val", "val", "test", None]
    assert counts["rejected"] == {"unknown_split": 1}
    counts, captions = ingested(tmp_path, f"test={tmp_path}/captions.csv")
    assert counts["splits"] == {"test": len(names)}


def test_an_image_is_in_one_split_only(tmp_path: Path) -> None:
    rows = [{"image_id": 1, "id": i, "caption": "a dog", "image_url": "http://x/1"} for i in range(2)]
    sources = [write(tmp_path, row, f"{i}.jsonl") for i, row in enumerate(rows)]
    counts, captions = ingested(tmp_path, f"train={sources[0]}", f"test={sources[1]}")
    assert [caption.split for caption in captions] == ["train"]
    assert counts["rejected"] == {"conflicting_image": 1}


def test_a_path_is_relative_to_its_source_file(tmp_path: Path, site: Site) -> None:
    row = {"image_id": 1, "id": 1, "caption": "a dog", "image_url": "../images/1.jpg"}
    source = write(tmp_path / "annotations", row, "captions.jsonl")
    _, (caption,) = ingested(tmp_path, source)
    assert caption.image_url == f"{tmp_path}/images/1.jpg"
    site.pages["/annotations/captions.jsonl"] = json.dumps(row).encode()
    url = f"{site.url}/annotations/captions.jsonl"
    _, (caption,) = ingested(tmp_path, url, allow_url_prefix=(site.url,))
    assert caption.image_url == f"{site.url}/images/1.jpg"


def test_given_splits_come_out_of_the_job_as_they_went_in(small_sample: Path, tmp_path: Path) -> None:
    pictures = sorted((small_sample / "images").iterdir())
    given = {i: SPLITS[i % 3] if i < 12 else "val+test" if i < 24 else None for i in range(36)}
    records = [
        replace(CAPTION, image_id=i, id=i, image_url=str(pictures[i]), split=split) for i, split in given.items()
    ]
    parameters = PreprocessParameters(allow_url_prefix=(str(small_sample),), image_size=32, split="0.4,0.3,0.3")
    artifact = open_artifact(run(ingest_records(records, tmp_path), str(tmp_path / "out"), parameters, []))
    assert_accounted(artifact)
    found = {sample.image_id: split for split in SPLITS for sample in samples(artifact, split)}
    assert found.keys() == given.keys()
    assert {i: split for i, split in found.items() if i < 12} == {i: given[i] for i in range(12)}
    assert {split for i, split in found.items() if 12 <= i < 24} == {"val", "test"}
    assert artifact.manifest.counts["splits"] == dict(sorted(Counter(found.values()).items()))


def test_a_caption_is_stored_as_ingested_and_as_the_model_reads_it(small_sample: Path, tmp_path: Path) -> None:
    picture, caption = str(next((small_sample / "images").iterdir())), " Two  Caf\u00e9s, at http://a.example/! "
    records = [replace(CAPTION, image_url=picture, caption=caption, split="test")]
    source = ingest_records(records, tmp_path)
    for choice, text in (("plain", "two caf\u00e9s at"), ("raw", caption)):
        parameters = PreprocessParameters(allow_url_prefix=(str(small_sample),), image_size=32, caption_text=choice)
        artifact = open_artifact(run(source, str(tmp_path / choice), parameters, []))
        (sample,) = samples(artifact, "test")
        assert sample.captions == (Caption(1, text, caption),)


def test_shards_from_before_there_were_raw_captions_can_be_read_and_new_ones_by_their_readers() -> None:
    old = copy.deepcopy(Sample.AVRO_SCHEMA)
    caption = next(field for field in old["fields"] if field["name"] == "captions")["type"]["items"]
    caption["fields"] = [field for field in caption["fields"] if field["name"] != "raw"]
    sample = Sample(1, (Caption(7, "a dog", "A dog."),), b"", 4, 4, "http://x/1", "Attribution License")
    file = io.BytesIO()
    fastavro.writer(file, old, [{**sample.to_avro(), "captions": [{"id": 7, "text": "a dog"}]}])
    file.seek(0)
    assert list(read_shard(file, "train/00000-of-00001.avro")) == [replace(sample, captions=(Caption(7, "a dog", ""),))]
    file = io.BytesIO()
    fastavro.writer(file, Sample.AVRO_SCHEMA, [sample.to_avro()])
    file.seek(0)
    (read,) = fastavro.reader(file, old)
    assert read["captions"] == [{"id": 7, "text": "a dog"}]


def test_a_rejected_caption_is_counted_with_its_image(small_sample: Path, tmp_path: Path) -> None:
    picture = str(next((small_sample / "images").iterdir()))
    records = [
        replace(CAPTION, id=id_, image_url=picture, caption=caption, split="test")
        for id_, caption in enumerate(["A dog.", "!!!"])
    ]
    parameters = PreprocessParameters(allow_url_prefix=(str(small_sample),), image_size=32)
    artifact = open_artifact(run(ingest_records(records, tmp_path), str(tmp_path / "out"), parameters, []))
    assert artifact.manifest.counts["images"] == {"in": 1, "out": 1, "rejected": 0}
    (reject,) = map(Reject.from_json, artifact.read("rejects/test/00000-of-00001.jsonl").splitlines())
    assert (reject.reason, reject.split) == ("empty_caption", "test")


def test_pictures_are_reused_across_splits(site: Site, small_sample: Path, tmp_path: Path) -> None:
    pictures = sorted((small_sample / "images").iterdir())[:12]
    site.pages = {f"/{i}.jpg": path.read_bytes() for i, path in enumerate(pictures)}
    parameters = PreprocessParameters(allow_url_prefix=(site.url,), image_size=32)

    def job(name: str, splits: list[str | None], reuse: str | None = None) -> str:
        records = [
            replace(CAPTION, image_id=i, id=i, image_url=f"{site.url}/{i}.jpg", split=splits[i % len(splits)])
            for i in range(len(pictures))
        ]
        return run(ingest_records(records, tmp_path / f"of-{name}"), str(tmp_path / name), parameters, [], reuse)

    earlier = job("earlier", ["train"])
    site.hits.clear()
    again = open_artifact(job("again", ["val", "test", "train"], earlier))
    assert not site.hits
    assert again.manifest.counts["splits"] == {"test": 4, "train": 4, "val": 4}


def test_a_split_whose_images_are_all_filtered_out_is_told_before_a_fetch(small_sample: Path, tmp_path: Path) -> None:
    records = [
        replace(CAPTION, image_id=i, id=i, split=split, image_license="none" if split == "val" else "attribution")
        for i, split in enumerate(["train", "val"])
    ]
    with pytest.raises(InvalidInputError, match="no image falls into val"):
        run(ingest_records(records, tmp_path), str(tmp_path / "out"), PreprocessParameters(), [])


@given(st.integers(), CHOICES | st.none(), st.sampled_from(["0.9,0.05,0.05", "1,0,0", "0,0.5,0.5", "0.1,0.2,0.7"]))
def test_an_image_falls_into_a_split_that_its_source_gives(image_id: int, choice: str | None, split: str) -> None:
    layout = Layout.plan({choice: 1000, "test": 10}, PreprocessParameters(split=split))
    key = layout.assign(image_id, choice)
    assert key.split in (choice.split("+") if choice else SPLITS)
    assert key in layout.places(image_id)
    assert key.split in layout.expected


@pytest.mark.parametrize(("split", "share"), [("0.9,0.05,0.05", 0.5), ("0.6,0.3,0.1", 0.75), ("1,0,0", 0.5)])
def test_a_file_is_divided_by_the_shares_of_its_splits(split: str, share: float) -> None:
    layout = Layout.plan({"val+test": 20_000}, PreprocessParameters(split=split))
    places = Counter(layout.assign(image_id, "val+test").split for image_id in range(20_000))
    assert places["val"] / 20_000 == pytest.approx(share, abs=0.02)
    assert layout.expected == {"val": pytest.approx(20_000 * share), "test": pytest.approx(20_000 * (1 - share))}
