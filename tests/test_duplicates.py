"""Pictures that are the same: which are found, which one stays, and where the others went."""

import random
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from hashlib import sha256
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from beam_jobs.preprocess import run
from captionflow.core.artifact import Artifact, open_artifact
from captionflow.core.draft import Draft
from captionflow.core.errors import InvalidInputError, StepFailedError
from captionflow.core.records import SPLITS
from captionflow.core.steps import PREPROCESSED
from captionflow.images.formats import HASH_BITS
from captionflow.preprocess import duplicates
from captionflow.preprocess.duplicates import Edge, Picture, Place
from captionflow.preprocess.parameters import PreprocessParameters
from tests.ingesting import CAPTION, ingest_records
from tests.servers import Site
from tests.test_images import saved
from tests.test_preprocess import TWO_WORKERS, assert_accounted, content, rejects, samples

WIDTH, HEIGHT = 320, 240
BANDS = HASH_BITS // duplicates.BAND_BITS

Job = Callable[..., Artifact]


def scene(number: int) -> Image.Image:
    """A picture of soft patches of colour, like no other."""
    patches = Image.frombytes("RGB", (8, 6), random.Random(number).randbytes(8 * 6 * 3))
    return patches.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)


SAME = {
    "smaller": lambda picture: saved(picture.resize((WIDTH // 2, HEIGHT // 2)), "JPEG"),
    "larger": lambda picture: saved(picture.resize((WIDTH * 2, HEIGHT * 2)), "JPEG"),
    "poor": lambda picture: saved(picture, "JPEG", quality=40),
    "png": lambda picture: saved(picture, "PNG"),
    "cropped": lambda picture: saved(ImageOps.crop(picture, 3), "JPEG"),
}
OTHER = {
    "flipped": lambda picture: saved(ImageOps.mirror(picture), "JPEG"),
    "turned": lambda picture: saved(picture.rotate(90), "JPEG"),
}


@pytest.fixture
def job(site: Site, tmp_path: Path) -> Job:
    """Run the job on pages of a site, each of them an image with two captions, in the order of their ids."""

    def start(
        name: str,
        pages: dict[str, str | None] | Iterable[str],
        arguments: Iterable[str] = (),
        reuse: str | None = None,
        **changes: object,
    ) -> Artifact:
        splits = pages if isinstance(pages, dict) else dict.fromkeys(pages)
        records = [
            replace(
                CAPTION, image_id=image, id=10 * image + i, image_url=f"{site.url}/{page}", split=split,
                caption=f"Caption {i} of {page}",
            )
            for image, (page, split) in enumerate(splits.items())
            for i in range(2)
        ]  # fmt: skip
        settings = PreprocessParameters(
            **{"image_size": 64, "allow_url_prefix": (site.url,), "split": "1,0,0", "duplicates": "near", **changes}
        )
        ingested = ingest_records(records, tmp_path / "-".join(splits).replace(".", "-")[:200])
        artifact = open_artifact(run(ingested, str(tmp_path / name), settings, [*arguments], reuse))
        artifact.verify()
        assert_accounted(artifact)
        return artifact

    return start


def kept(artifact: Artifact) -> dict[int, str]:
    """Image → split."""
    return {sample.image_id: split for split in SPLITS for sample in samples(artifact, split)}


def of_whom(artifact: Artifact) -> dict[int, str]:
    """Image that is left out → what its Rejects say."""
    assert {(reject.stage, reject.reason) for reject in rejects(artifact)} <= {("duplicates", "duplicate")}
    return {reject.image_id: reject.detail for reject in rejects(artifact)}


def serve_scenes(site: Site, number: int, **planted: bytes) -> list[str]:
    site.pages = {f"/{i}.jpg": saved(scene(i), "JPEG") for i in range(number)}
    site.pages |= {f"/{name}": data for name, data in planted.items()}
    return [path[1:] for path in site.pages]


def test_equal_pictures_are_found_wherever_they_lie(site: Site, job: Job) -> None:
    pages = serve_scenes(site, 4, copy=saved(scene(1), "JPEG"), again=saved(scene(1), "JPEG"))
    artifact = job("exact", pages, duplicates="exact")
    assert kept(artifact).keys() == {0, 1, 2, 3}
    assert of_whom(artifact) == {4: "of image 1 in train", 5: "of image 1 in train"}
    assert artifact.manifest.counts["images"] == {"in": 6, "out": 4, "rejected": 2}


def test_none_are_looked_for_unless_that_is_asked_for(site: Site, job: Job) -> None:
    pages = serve_scenes(site, 2, copy=saved(scene(1), "JPEG"))
    assert kept(job("none", pages, duplicates="none")).keys() == {0, 1, 2}


@pytest.mark.parametrize("change", SAME)
def test_near_duplicates_are_found(site: Site, job: Job, change: str) -> None:
    pages = serve_scenes(site, 5, **{change: SAME[change](scene(2))})
    assert of_whom(job("near", pages)) == {5: "of image 2 in train"}
    assert kept(job("exact", pages, duplicates="exact")).keys() == {*range(6)}


@pytest.mark.parametrize("change", OTHER)
def test_what_is_turned_or_flipped_is_another_picture(site: Site, job: Job, change: str) -> None:
    pages = serve_scenes(site, 3, **{change: OTHER[change](scene(2))})
    assert kept(job("near", pages)).keys() == {*range(4)}


@pytest.mark.parametrize("image_format", ["png", "tensor"])
def test_every_stored_form_is_compared(site: Site, job: Job, image_format: str) -> None:
    pages = serve_scenes(site, 3, smaller=SAME["smaller"](scene(2)))
    assert kept(job("near", pages, image_format=image_format)).keys() == {0, 1, 2}


def test_a_group_never_straddles_splits_and_test_comes_first(site: Site, job: Job) -> None:
    serve_scenes(site, 4, **{f"{split}{i}": SAME["poor"](scene(i)) for split in ("val", "test") for i in (0, 1)})
    del site.pages["/test1"]
    pages = {path[1:]: path[1:].rstrip("01") if "." not in path else "train" for path in site.pages}
    artifact = job("near", pages)
    assert kept(artifact) == {2: "train", 3: "train", 5: "val", 6: "test"}
    assert of_whom(artifact) == {0: "of image 6 in test", 4: "of image 6 in test", 1: "of image 5 in val"}


def test_captions_may_join_the_picture_that_stays_in_the_same_split(site: Site, job: Job) -> None:
    serve_scenes(site, 2, copy=saved(scene(0), "JPEG"), poor=SAME["poor"](scene(0)), other=SAME["poor"](scene(1)))
    splits = ["train", "val", "train", "train", "train"]
    artifact = job("join", dict(zip((path[1:] for path in site.pages), splits, strict=True)), duplicate_captions="join")
    assert kept(artifact) == {0: "train", 1: "val"}
    (sample,) = samples(artifact, "train")
    assert [(each.id, each.raw) for each in sample.captions] == [
        (10 * image + i, f"Caption {i} of {page}")
        for image, page in ((0, "0.jpg"), (2, "copy"), (3, "poor"))
        for i in range(2)
    ]
    assert of_whom(artifact) == {4: "of image 1 in val"}


def test_pictures_of_another_artifact_are_kept_out_of_train_and_val(site: Site, job: Job) -> None:
    serve_scenes(site, 6)
    theirs = job("theirs", ["0.jpg", "1.jpg", "2.jpg"])
    site.pages |= {f"/{i}.jpg": SAME["poor"](scene(i)) for i in range(3)}
    pages = {f"{i}.jpg": split for i, split in enumerate(("train", "val", "test", "train", "val", "test"))}
    artifact = job("ours", pages, exclude=theirs.uri)
    assert kept(artifact) == {3: "train", 4: "val", 2: "test", 5: "test"}
    assert of_whom(artifact) == {i: f"of image {i} of {theirs.uri}" for i in (0, 1)}
    assert theirs.parent in artifact.manifest.parents


def test_what_cannot_be_compared_is_told_at_once(site: Site, job: Job, tmp_path: Path) -> None:
    pages = serve_scenes(site, 3)
    theirs = job("theirs", pages, duplicates="exact").uri
    site.hits.clear()
    with pytest.raises(InvalidInputError, match=r"--exclude: .* without --duplicates near.*--reuse"):
        job("near", pages, exclude=theirs)
    with pytest.raises(InvalidInputError, match=r"--exclude: .* image_size 64, not 32.*--duplicates near"):
        job("exact", pages, exclude=theirs, duplicates="exact", image_size=32)
    with pytest.raises(InvalidInputError, match="--exclude: needs --duplicates"):
        job("none", pages, exclude=theirs, duplicates="none")
    with pytest.raises(InvalidInputError, match=r"--exclude: .* is where the new artifact goes"):
        job("theirs", pages, exclude=theirs, duplicates="exact")
    assert not site.hits


def test_a_damaged_artifact_does_not_pass_for_one_without_pictures(site: Site, job: Job) -> None:
    pages = serve_scenes(site, 3)
    theirs = job("theirs", pages)
    shard = Path(theirs.uri, theirs.files("train/")[0].path)
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.raises(Exception, match="differs from its manifest"):
        job("ours", pages, exclude=theirs.uri)


@pytest.mark.parametrize("duplicate_captions", ["drop", "join"])
def test_the_bytes_are_the_same_on_each_runner(site: Site, job: Job, duplicate_captions: str) -> None:
    pages = serve_scenes(site, 12, **{f"copy{i}": SAME["poor"](scene(i)) for i in range(6)})
    changes = {"split": "0.5,0.25,0.25", "duplicate_captions": duplicate_captions}
    one, two = job("one", pages, **changes), job("two", pages, TWO_WORKERS, **changes)
    assert len(kept(one)) == 12
    assert content(one.uri) == content(two.uri)


def test_an_attempt_that_ended_before_the_manifest_is_resumed(
    site: Site, job: Job, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pages = serve_scenes(site, 12, **{f"copy{i}": SAME["poor"](scene(i)) for i in range(6)})
    changes = {"split": "0.5,0.25,0.25", "duplicate_captions": "join"}
    undisturbed = job("undisturbed", pages, **changes)

    commit = Draft.commit

    def fail(draft: Draft, *arguments: object, **more: object) -> object:
        if draft.kind == PREPROCESSED:
            raise StepFailedError("cut off")
        return commit(draft, *arguments, **more)

    monkeypatch.setattr(Draft, "commit", fail)
    with pytest.raises(StepFailedError, match="cut off"):
        job("ours", pages, **changes)
    monkeypatch.undo()
    site.hits.clear()
    # As if the attempt had ended while it wrote this shard again.
    shard = next((tmp_path / "ours/train").iterdir())
    shard.write_bytes(shard.read_bytes()[:-1])
    ours = job("ours", pages, **changes)
    assert 0 < site.hits.total() < len(pages)
    assert content(ours.uri) == content(undisturbed.uri)


def test_pictures_that_are_taken_over_need_no_second_fetch(site: Site, job: Job) -> None:
    pages = serve_scenes(site, 3, poor=SAME["poor"](scene(1)))
    clean = job("clean", pages)
    earlier = job("earlier", pages, duplicates="none")
    site.hits.clear()
    ours = job("ours", pages, reuse=earlier.uri)
    assert not site.hits
    assert content(ours.uri) == content(clean.uri)
    without = job("without", pages[:3], duplicates="none", reuse=clean.uri)
    assert content(without.uri) == content(job("clean2", pages[:3], duplicates="none").uri)


HASHES = st.binary(min_size=HASH_BITS // 8, max_size=HASH_BITS // 8)


@st.composite
def pictures(draw: st.DrawFn) -> list[Picture]:
    """Pictures of which many have hashes that are alike."""
    centres = draw(st.lists(HASHES, min_size=1, max_size=3))
    found = []
    for image_id in range(draw(st.integers(0, 20))):
        bits = int.from_bytes(draw(st.sampled_from(centres)))
        for bit in draw(st.sets(st.integers(0, HASH_BITS - 1), max_size=BANDS)):
            bits ^= 1 << bit
        perceptual_hash = bits.to_bytes(HASH_BITS // 8).hex()
        split = draw(st.sampled_from(SPLITS))
        rank = 1 + ("test", "val", "train").index(split)
        found.append(
            Picture(Place(rank, image_id, f"{split}/0"), sha256(perceptual_hash.encode()).hexdigest(), perceptual_hash)
        )
    return found


def edges(found: list[Picture], distance: int) -> set[Edge]:
    """What the job's transforms find, without Beam."""
    buckets = defaultdict(list)
    for picture in found:
        for band, each in duplicates.bands(picture):
            buckets[band].append(each)
    pairs = [pair for bucket in buckets.items() for pair in duplicates.near_pictures(bucket, distance)]
    assert len(pairs) == len(set(pairs))
    return set(pairs)


@given(pictures(), st.integers(0, BANDS - 1))
def test_no_pair_within_the_distance_is_missed(found: list[Picture], distance: int) -> None:
    def differing(one: Picture, other: Picture) -> int:
        return (int(one.perceptual_hash, 16) ^ int(other.perceptual_hash, 16)).bit_count()

    expected = {
        (one.place, other.place) for one, other in combinations(sorted(found), 2) if differing(one, other) <= distance
    }
    assert edges(found, distance) == expected


@given(pictures(), st.integers(0, BANDS - 1), st.randoms())
def test_one_stays_of_each_group_and_that_the_first(found: list[Picture], distance: int, rng: random.Random) -> None:
    pairs = sorted(edges(found, distance))
    left_out = duplicates.duplicates(pairs, PreprocessParameters(duplicates="near"))
    stays = {each.place: each.kept for each in left_out}
    assert not {*stays} & {*stays.values()}
    for one, other in pairs:
        assert stays.get(one, one) == stays.get(other, other)
    assert all(kept < place for place, kept in stays.items())
    rng.shuffle(pairs)
    assert sorted(duplicates.duplicates(pairs, PreprocessParameters(duplicates="near"))) == sorted(left_out)
