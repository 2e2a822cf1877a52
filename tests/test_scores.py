"""Scorers of a user's own package: what they are given, what becomes of their numbers, and how they may fail."""

import copy
import io
import os
import re
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path

import fastavro
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from beam_jobs.preprocess import run
from captionflow.captioner.dataset import to_tensor
from captionflow.core.artifact import Artifact, open_artifact
from captionflow.core.errors import InvalidInputError, StepFailedError
from captionflow.core.records import Caption, ImageCaption, Sample
from captionflow.core.shards import read_shard
from captionflow.images.decode import ImageError, StoredImage, encode, load_stored
from captionflow.images.formats import IMAGE_FORMATS
from captionflow.preprocess.parameters import PreprocessParameters
from captionflow.preprocess.score_bounds import ScoreBound
from captionflow.preprocess.scoring import BATCH, Scoring, check_installed
from tests.ingesting import CAPTION, ingest_records
from tests.recipes import ROOT, commands, new_files, recipe
from tests.recipes import run as run_commands
from tests.scorers import add_to_path, write_package, write_scorers
from tests.servers import Site
from tests.test_filters import noise
from tests.test_images import saved
from tests.test_preprocess import TWO_WORKERS, assert_accounted, content, rejects, samples

PAGE = ROOT / "docs" / "data.md"
NAME = st.from_regex("[a-z][a-z0-9_]{0,39}", fullmatch=True)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scorers(tmp_path_factory.mktemp("site-packages"))


@pytest.fixture
def installed(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_to_path(monkeypatch, package)


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> list[ImageCaption]:
    """Forty pictures with two captions each, of which every one is brighter than the one before."""
    folder = tmp_path_factory.mktemp("grey")
    records = []
    for i in range(40):
        Image.new("RGB", (40, 40), (6 * i,) * 3).save(folder / f"{i}.png")
        records += [
            replace(CAPTION, image_id=i, id=2 * i + n, image_url=f"{folder}/{i}.png", caption="Very grey! " * (n + 1))
            for n in range(2)
        ]
    return records


def job(records: list[ImageCaption], folder: Path, name: str = "out", *beam: str, **parameters: object) -> Artifact:
    settings = PreprocessParameters(
        **{"image_size": 32, "split": "1,0,0", "allow_url_prefix": ("/",), "image_format": "png", **parameters}
    )
    ingested = folder / "ingested"
    source = str(ingested) if ingested.exists() else ingest_records(records, folder)
    return open_artifact(run(source, str(folder / name), settings, list(beam)))


def scores(artifact: Artifact) -> dict[int, dict[str, float]]:
    return {sample.image_id: dict(sample.scores) for sample in samples(artifact, "train")}


@given(NAME, st.sampled_from([">=", "<="]), NUMBER, NUMBER)
def test_a_bound_is_what_its_user_writes(name: str, sign: str, number: float, score: float) -> None:
    bound = ScoreBound.parse(f"{name}{sign}{number!r}")
    assert bound == ScoreBound(name, sign, number)
    assert (bound.refusal(score) is None) == (score >= number if sign == ">=" else score <= number)
    assert bound.refusal(number) is None


@given(st.text() | st.from_regex(r"[a-z]+[<>=]{0,3} ?[-+0-9.e]*", fullmatch=True))
def test_any_text_is_a_bound_or_refused_in_one_line(text: str) -> None:
    try:
        bound = ScoreBound.parse(text)
    except InvalidInputError as error:
        assert re.match("--score-bounds: .* is no bound; give ", str(error))  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert ScoreBound.parse(f"{bound.scorer}{bound.sign}{bound.number!r}") == bound


@pytest.mark.parametrize(
    "text", ["clip", "clip>0.3", "clip=0.3", "clip >= 0.3", "clip>=", "clip>=nan", "clip>=1e999", "clip>=0.3\n",
             "Clip>=1", "os:system>=1", "clip>=1_0", "clip>=٣", ">=1", "clip>=1,nsfw<=1"],
)  # fmt: skip
def test_what_is_no_bound_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match=r"^--score-bounds: "):
        PreprocessParameters(score_bounds=(text,))


@pytest.mark.parametrize("name", ["os:system", "../clip", "Clip", "", "clip\n", "a" * 41])
def test_a_scorer_is_chosen_by_a_name_and_by_nothing_else(name: str) -> None:
    with pytest.raises(InvalidInputError, match=r"^--scorers: "):
        PreprocessParameters(scorers=(name,))


def test_a_bound_implies_its_scorer() -> None:
    parameters = PreprocessParameters(scorers=("nsfw", "clip"), score_bounds=("clip>=0.2", "faces<=3", "clip<=0.9"))
    assert parameters.scorer_names == ("clip", "faces", "nsfw")
    assert PreprocessParameters.from_mapping(parameters.to_json()) == parameters


@pytest.mark.usefixtures("installed")
def test_every_picture_has_its_scores_whatever_the_number_of_workers(grey: list[ImageCaption], tmp_path: Path) -> None:
    names = ("words", "brightness", "batch")
    own = [replace(record, caption=f"{record.caption} {record.id}") for record in grey]
    more = [replace(record, id=100 + record.id, caption="No picture.") for record in grey[:8]]
    more.append(replace(grey[0], id=200, caption="Zwei Kinder spielen mit einem Ball auf der Wiese."))
    settings = {"scorers": names, "languages": ("en",), "max_same_caption": 3}
    artifact = job([*own, *more], tmp_path, **settings)
    assert_accounted(artifact)
    assert artifact.manifest.counts["rejected"] == {"boilerplate_caption": 8, "other_language": 1}
    expected = {
        i: {"batch": BATCH if i < BATCH else 40 - BATCH, "brightness": 6 * i / 255, "words": 8} for i in range(40)
    }
    found = scores(artifact)
    assert found.keys() == expected.keys()
    assert all(found[i] == pytest.approx(expected[i]) and list(found[i]) == sorted(names) for i in found)
    again = job(own, tmp_path, "again", *TWO_WORKERS, **settings)
    assert content(again.uri) == content(artifact.uri)


@pytest.mark.usefixtures("installed")
def test_what_a_bound_refuses_is_accounted_for_and_no_failure(grey: list[ImageCaption], tmp_path: Path) -> None:
    bounds = ("brightness>=0.5", "brightness<=0.8", "words<=5.5e1")
    artifact = job(grey, tmp_path, score_bounds=bounds, max_reject_ratio=0.0)
    assert_accounted(artifact)
    kept = [i for i in range(40) if 0.5 <= 6 * i / 255 <= 0.8]
    assert list(scores(artifact)) == kept
    assert artifact.manifest.counts["rejected"] == {"score_brightness": 2 * (40 - len(kept))}
    for reject in rejects(artifact):
        assert (reject.stage, reject.retryable) == ("filters", False)
    assert rejects(artifact)[0].detail == "0 is below 0.5"


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("too_few", "returned 39 numbers for 40 pictures"),
        ("not_finite", "returned nan, which is no finite number"),
        ("text", "ValueError: could not convert string to float: 'bright'"),
        ("nothing", "TypeError: 'NoneType' object is not iterable"),
        ("fails", r"RuntimeError: no such weights:\u000a/models/clip"),
        ("constant", "test_scorers:constant is no function"),
        ("missing", "cannot be imported from no_such_module:f: ModuleNotFoundError: No module named 'no_such_module'"),
    ],
)
def test_a_scorer_that_fails_ends_the_step_in_one_line(name: str, problem: str) -> None:
    stored = Sample(1, (Caption(1, "", ""),), encode(Image.new("RGB", (32, 32)), "png", 95), 32, 32, "", "")
    scoring = Scoring(PreprocessParameters(scorers=(name,), image_format="png"))
    with pytest.raises(StepFailedError) as raised:
        scoring.score([stored] * 40)
    assert str(raised.value) == f"scorer {name}: {problem}"


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("beam_arguments", [[], TWO_WORKERS], ids=["one process", "two processes"])
def test_a_failure_names_the_scorer_on_every_runner_and_leaves_no_artifact(
    grey: list[ImageCaption], tmp_path: Path, beam_arguments: list[str]
) -> None:
    problem = "train/00000-of-00001: scorer fails: RuntimeError: no such weights"
    with pytest.raises(StepFailedError, match=problem) as raised:
        job(grey, tmp_path, "out", *beam_arguments, scorers=("brightness", "fails"))
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert not [*(tmp_path / "out").rglob("*.avro")]


@pytest.mark.usefixtures("installed")
def test_a_scorer_that_is_not_installed_is_told_before_anything_starts(
    grey: list[ImageCaption], tmp_path: Path
) -> None:
    problem = r"^--scorers: clip is not installed here \(batch, brightness, .* is\); install a package .*"
    with pytest.raises(InvalidInputError, match=problem):
        job(grey, tmp_path, score_bounds=("clip>=0.28",))
    assert not (tmp_path / "out").exists()
    # Workers elsewhere have packages of their own.
    with pytest.raises(InvalidInputError, match=problem):
        Scoring(PreprocessParameters(scorers=("clip",))).score([])


def test_a_name_that_two_packages_have_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("one", "two"):
        monkeypatch.syspath_prepend(write_package(tmp_path / name, name, {"clip": f"{name}:clip"}))
    with pytest.raises(InvalidInputError, match="--scorers: clip is both one:clip and two:clip"):
        check_installed(["clip"])


@pytest.mark.usefixtures("installed")
def test_a_scorer_has_what_it_is_given_to_itself(grey: list[ImageCaption], tmp_path: Path) -> None:
    artifact = job(grey, tmp_path, scorers=("batch", "greedy", "words"))
    assert scores(artifact)[39] == {"batch": 8, "greedy": 1, "words": 6}


@pytest.mark.usefixtures("installed")
def test_a_picture_that_is_reused_is_scored_again(site: Site, tmp_path: Path) -> None:
    records = [replace(CAPTION, image_id=i, id=i, image_url=f"{site.url}/{i}.png") for i in range(4)]
    site.pages = {f"/{i}.png": saved(Image.new("RGB", (40, 40), (60 * i,) * 3), "PNG") for i in range(4)}
    source = ingest_records(records, tmp_path)
    settings = PreprocessParameters(image_size=32, allow_url_prefix=(site.url,), split="1,0,0", scorers=("words",))
    earlier = run(source, str(tmp_path / "earlier"), settings, [])
    site.hits.clear()
    bounded = replace(settings, scorers=(), score_bounds=("brightness>=0.2",))
    bright = run(source, str(tmp_path / "bright"), bounded, [], earlier)
    assert not site.hits
    assert content(bright) == content(run(source, str(tmp_path / "clean"), bounded, []))
    assert [(i, *numbers) for i, numbers in scores(open_artifact(bright)).items()] == [
        (i, "brightness") for i in (1, 2, 3)
    ]
    site.hits.clear()
    # A Reject by a score says nothing of the picture: another version of the scorer may keep it.
    assert len(scores(open_artifact(run(source, str(tmp_path / "all"), settings, [], bright)))) == 4
    assert set(site.hits) == {"/0.png"}


@pytest.mark.parametrize("image_format", IMAGE_FORMATS)
def test_a_scorer_is_given_the_stored_picture(image_format: str) -> None:
    picture = noise((48, 32))
    stored = StoredImage(encode(picture, image_format, 95), 32, 48)
    loaded = load_stored(stored, image_format)
    assert (loaded.mode, loaded.size) == ("RGB", (48, 32))
    assert (np.moveaxis(np.asarray(loaded), -1, 0) == to_tensor(stored.data, image_format, 32, 48).numpy()).all()
    for broken in (b"", stored.data[: len(stored.data) // 2], saved(picture, "BMP")):
        with pytest.raises(ImageError):
            load_stored(replace(stored, data=broken), image_format)
    with pytest.raises(ImageError):
        load_stored(replace(stored, width=32), image_format)
    if image_format != "tensor":  # whose bytes tell no size
        with pytest.raises(ImageError, match="48×32 pixels in place of 32×48"):
            load_stored(replace(stored, width=32, height=48), image_format)


@pytest.mark.usefixtures("installed")
def test_a_stored_picture_that_cannot_be_read_costs_that_picture_alone() -> None:
    good = Sample(1, (Caption(1, "", "A dog."),), encode(noise((32, 32)), "jpeg", 95), 32, 32, "", "")
    scoring = Scoring(PreprocessParameters(scorers=("words", "batch")))
    outcomes = scoring.score([good, replace(good, image=b"GIF89a"), good])
    assert isinstance(outcomes[1], ImageError)
    assert outcomes[0] == outcomes[2] == {"batch": 2, "words": 2}


def test_shards_from_before_there_were_scores_can_be_read_and_new_ones_by_their_readers() -> None:
    old = copy.deepcopy(Sample.AVRO_SCHEMA)
    old["fields"] = [field for field in old["fields"] if field["name"] != "scores"]
    sample = Sample(
        1, (Caption(7, "a dog", "A dog."),), b"", 4, 4, "http://x/1", "Attribution License", scores={"clip": 0.25}
    )
    record = sample.to_avro()
    file = io.BytesIO()
    fastavro.writer(file, old, [record])
    file.seek(0)
    assert list(read_shard(file, "train/0.avro")) == [replace(sample, scores={})]
    file = io.BytesIO()
    fastavro.writer(file, Sample.AVRO_SCHEMA, [record])
    file.seek(0)
    assert list(read_shard(file, "train/0.avro")) == [sample]
    file.seek(0)
    (read,) = fastavro.reader(file, old)
    assert read == {name: value for name, value in record.items() if name != "scores"}


@pytest.mark.slow
def test_the_scorer_of_the_docs_is_installed_and_used(
    ingested: str, small_sample: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, text in new_files("Scores", PAGE).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    site_packages = tmp_path / "site-packages"
    install = ["pip", "install", "--quiet", "--no-deps", "--no-build-isolation", f"--target={site_packages}"]
    subprocess.run([sys.executable, "-m", *install, str(tmp_path / "colours")], check=True)
    (tmp_path / "artifacts" / "hand").mkdir(parents=True)
    (tmp_path / "artifacts" / "hand" / "ingested").symlink_to(ingested)
    (tmp_path / "artifacts" / "sample").symlink_to(small_sample)
    shown = run_commands(commands("Scores", PAGE), tmp_path, Path(f"{ROOT}{os.pathsep}{site_packages}"))
    artifact = open_artifact(str(tmp_path / "artifacts" / "hand" / "colourful"))
    assert_accounted(artifact)
    assert artifact.manifest.counts["rejected"]["score_colourfulness"] > 0
    assert "score_colourfulness" in shown
    monkeypatch.syspath_prepend(site_packages)
    from colours import colourfulness

    half = Image.new("RGB", (2, 1), "red")
    half.putpixel((1, 0), (0, 0, 0))
    # Of red less green and of yellow less blue: deviations 127.5 and 63.75, means the same.
    expected = 1.3 * (127.5**2 + 63.75**2) ** 0.5
    assert colourfulness([Image.new("RGB", (9, 9), (7, 7, 7)), half], [["a"], ["b"]]) == pytest.approx([0, expected])


def test_the_clip_scorer_of_the_docs_fits_the_interface(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    class Model(torch.nn.Module):
        """CLIP's methods; a picture is like a text whose length is its mean."""

        def encode_image(self, images: torch.Tensor, normalize: bool) -> torch.Tensor:
            return torch.stack([images.mean(1), 1 - images.mean(1)], 1)

        def encode_text(self, tokens: torch.Tensor, normalize: bool) -> torch.Tensor:
            return torch.stack([tokens, 1 - tokens], 1)

    stand_in = types.ModuleType("open_clip")
    stand_in.create_model_and_transforms = lambda *_, **__: (Model(), None, lambda _: torch.full((3,), 0.5))
    stand_in.get_tokenizer = lambda _: lambda texts: torch.tensor([float(len(text)) for text in texts])
    monkeypatch.setitem(sys.modules, "open_clip", stand_in)
    (source,) = (block for block in re.findall(r"```python\n(.*?)```", recipe("Scores", PAGE), re.S) if "clip" in block)
    scope: dict[str, object] = {}
    exec(compile(source, "docs/data.md", "exec"), scope)
    found = scope["clip"]([Image.new("RGB", (1, 1))] * 2, [["a"], ["a", "bb"]])
    assert len(found) == 2
    assert all(isinstance(number, float) for number in found)
