"""The preprocess job on Beam's DirectRunner: what comes out, byte for byte, and where the rest went."""

import contextlib
import io
import json
import os
import pty
import random
import shutil
import subprocess
import sys
import termios
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import apache_beam as beam
import fastavro
import psutil
import pytest
from apache_beam.utils.shared import Shared
from hypothesis import given
from hypothesis import strategies as st

from beam_jobs import transforms
from beam_jobs.preprocess import run
from captionflow.captioner.dataset import to_tensor
from captionflow.core.artifact import Artifact, open_artifact
from captionflow.core.draft import begin
from captionflow.core.errors import InvalidInputError, StepFailedError
from captionflow.core.licenses import COCO_LICENSES
from captionflow.core.records import SPLITS, ImageCaption, Reject, Sample
from captionflow.core.shards import read_shard
from captionflow.preprocess.captions import parse
from captionflow.preprocess.filters import apply_all, filter_license
from captionflow.preprocess.parameters import PreprocessParameters
from captionflow.preprocess.shards import Layout, ShardInfo
from captionflow.preprocess.workers import ShardWorkers
from captionflow.sources.ingest import ingest
from captionflow.sources.parameters import IngestParameters
from tests.ingesting import CAPTION, ingest_records
from tests.processes import kill_after, wait_until
from tests.servers import Site, send

TWO_WORKERS = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]


def parameters(small_sample: Path, **changes: object) -> PreprocessParameters:
    return PreprocessParameters(**{"allow_url_prefix": (str(small_sample),), "image_size": 32, **changes})


def content(uri: str) -> dict[str, bytes]:
    """Every file but the manifest."""
    root = Path(uri)
    files = (path for path in root.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def samples(artifact: Artifact, split: str) -> Iterator[Sample]:
    for file in artifact.files(f"{split}/"):
        with artifact.open(file.path) as shard:
            yield from read_shard(shard, file.path)


def rejects(artifact: Artifact) -> list[Reject]:
    lines = (line for file in artifact.files("rejects/") for line in artifact.read(file.path).splitlines())
    return [Reject.from_json(line) for line in lines]


def assert_accounted(artifact: Artifact) -> None:
    """Recount from the files themselves that in = out + rejected."""
    counts = artifact.manifest.counts
    kept = [sample for split in SPLITS for sample in samples(artifact, split)]
    captions_out = sum(len(sample.captions) for sample in kept)
    dropped = rejects(artifact)
    assert counts["captions"] == {"in": captions_out + len(dropped), "out": captions_out, "rejected": len(dropped)}
    assert counts["rejected"] == dict(sorted(Counter(reject.reason for reject in dropped).items()))
    assert counts["images"]["out"] == len(kept) == len({sample.image_id for sample in kept})
    assert counts["images"]["in"] == counts["images"]["out"] + counts["images"]["rejected"]


@pytest.fixture(scope="module")
def preprocessed(ingested: str, small_sample: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return run(ingested, str(tmp_path_factory.mktemp("pre") / "preprocessed"), parameters(small_sample), [])


def test_every_caption_is_accounted_for(preprocessed: str, ingested: str) -> None:
    artifact = open_artifact(preprocessed, "preprocessed")
    artifact.verify()
    assert_accounted(artifact)
    assert artifact.manifest.counts["captions"]["in"] == 300
    assert artifact.manifest.counts["rejected"].keys() == {"license_not_allowed"}
    assert artifact.manifest.parents[0].uri == ingested


def test_one_record_holds_an_image_with_all_its_captions(preprocessed: str, small_sample: Path) -> None:
    coco = json.loads((small_sample / "captions.json").read_text())
    artifact = open_artifact(preprocessed)
    for split in SPLITS:
        for sample in samples(artifact, split):
            ids = [row["id"] for row in coco["annotations"] if row["image_id"] == sample.image_id]
            assert [caption.id for caption in sample.captions] == ids
            assert (sample.height, sample.width) == (32, 32)
            assert to_tensor(sample.image, "jpeg", 32, 32).shape == (3, 32, 32)


def test_records_are_in_the_order_of_image_id_and_in_one_split_only(preprocessed: str) -> None:
    artifact = open_artifact(preprocessed)
    ids = {split: [sample.image_id for sample in samples(artifact, split)] for split in SPLITS}
    assert all(ids[split] == sorted(ids[split]) for split in SPLITS)
    assert len(set().union(*ids.values())) == sum(map(len, ids.values()))


def test_avro_files_are_plain_avro(preprocessed: str) -> None:
    shard = next(Path(preprocessed, "train").glob("*.avro"))
    with shard.open("rb") as file:
        record = next(iter(fastavro.reader(file)))
    assert record.keys() == {
        "image_id", "captions", "image", "height", "width", "image_url", "image_license", "original_height",
        "original_width", "perceptual_hash", "scores",
    }  # fmt: skip


@pytest.mark.parametrize("beam_arguments", [[], TWO_WORKERS], ids=["again", "two processes"])
def test_the_same_input_gives_the_same_bytes(
    preprocessed: str, ingested: str, small_sample: Path, tmp_path: Path, beam_arguments: list[str]
) -> None:
    again = run(ingested, str(tmp_path / "again"), parameters(small_sample), beam_arguments)
    assert content(again) == content(preprocessed)
    assert open_artifact(again).manifest.sha256 == open_artifact(preprocessed).manifest.sha256


@pytest.mark.parametrize(
    "changes",
    [{"image_format": "png"}, {"image_format": "tensor", "avro_codec": "deflate"}, {"resize": "pad"}],
    ids=["png", "tensor", "pad"],
)
def test_every_stored_form_can_be_read(
    ingested: str, small_sample: Path, tmp_path: Path, changes: dict[str, str]
) -> None:
    artifact = open_artifact(run(ingested, str(tmp_path / "out"), parameters(small_sample, **changes), []))
    sample = next(samples(artifact, "train"))
    image_format = artifact.manifest.parameters["image_format"]
    assert to_tensor(sample.image, image_format, sample.height, sample.width).shape == (3, 32, 32)


def test_an_artifact_may_have_a_name_that_looks_like_a_pattern(
    ingested: str, small_sample: Path, preprocessed: str, tmp_path: Path
) -> None:
    source = str(tmp_path / "run[1]*?" / "ingested")
    shutil.copytree(ingested, source)
    assert content(run(source, f"{source}/../out", parameters(small_sample), [])) == content(preprocessed)


@pytest.mark.slow
def test_a_job_ends_with_the_process_that_started_it(site: Site, small_sample: Path, tmp_path: Path) -> None:
    """As after a task's timeout: the operator gives up, its process ends, the job must not go on alone."""
    hold = threading.Event()
    site.pages = {f"/{i}.jpg": lambda handler: hold.wait(60) for i in range(9)}
    records = [replace(CAPTION, image_id=i, id=i, image_url=f"{site.url}/{i}.jpg") for i in range(9)]
    job = [sys.executable, "-m", "captionflow", "preprocess", f"--ingested={ingest_records(records, tmp_path)}"]
    job += [f"--output={tmp_path}/out", f"--allow-url-prefix={site.url}", "--split=1,0,0", "--exit-with-parent"]
    job += ["--", *TWO_WORKERS]
    code = "import subprocess, sys, time; print(subprocess.Popen(sys.argv[1:]).pid, flush=True); time.sleep(600)"
    parent = subprocess.Popen([sys.executable, "-c", code, *job], stdout=subprocess.PIPE, text=True)
    child = psutil.Process(int(parent.stdout.readline()))
    wait_until(lambda: bool(site.hits))
    family = [child, *child.children(recursive=True)]
    assert len(family) >= 3
    parent.kill()
    parent.wait()
    hold.set()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert alive == []
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_an_image_is_fetched_once_however_many_captions_it_has(
    site: Site, ingested: str, small_sample: Path, tmp_path: Path
) -> None:
    for path in (small_sample / "images").iterdir():
        site.pages[f"/{path.name}"] = path.read_bytes()
    source = ingest(
        str(tmp_path / "ingested"),
        IngestParameters(sources=(str(small_sample / "captions.json"),), image_root=(site.url,)),
    )
    artifact = open_artifact(
        run(source, str(tmp_path / "out"), parameters(small_sample, licenses=("*",), allow_url_prefix=(site.url,)), [])
    )
    assert artifact.manifest.counts["images"]["out"] == 60
    assert set(site.hits.values()) == {1}
    assert len(site.hits) == 60


def test_each_fault_is_a_counted_reject(site: Site, small_sample: Path, tmp_path: Path) -> None:
    good = next((small_sample / "images").iterdir()).read_bytes()
    site.pages |= {f"/good{i}.jpg": good for i in range(8)} | {"/html.jpg": b"<html>", "/cut.jpg": good[:200]}
    urls = [*(f"{site.url}/good{i}.jpg" for i in range(8)), f"{site.url}/gone.jpg", f"{site.url}/html.jpg"]
    urls += [f"{site.url}/cut.jpg", "/etc/passwd", "nonsense"]
    records = [replace(CAPTION, image_id=i, id=i, image_url=url) for i, url in enumerate(urls)]
    records += [
        replace(CAPTION, image_id=0, id=100, caption="!!!", image_url=urls[0]),
        replace(CAPTION, image_id=200, id=200, image_license="Attribution-NonCommercial License"),
    ]
    settings = parameters(small_sample, allow_url_prefix=(site.url,), split="1,0,0")
    artifact = open_artifact(run(ingest_records(records, tmp_path), str(tmp_path / "out"), settings, []))
    assert_accounted(artifact)
    assert artifact.manifest.counts["rejected"] == {
        "empty_caption": 1,
        "http_404": 1,
        "license_not_allowed": 1,
        "markup": 1,
        "truncated_image": 1,
        "url_not_allowed": 2,
    }
    gone = next(reject for reject in rejects(artifact) if reject.reason == "http_404")
    assert (gone.image_id, gone.stage, gone.retryable) == (8, "images", False)


@pytest.mark.parametrize("beam_arguments", [[], TWO_WORKERS], ids=["one process", "two processes"])
def test_when_nothing_is_left_the_step_fails_in_one_line(tmp_path: Path, beam_arguments: list[str]) -> None:
    records = [replace(CAPTION, image_id=i, id=i, image_url=f"{tmp_path}/{i}.jpg") for i in range(3)]
    settings = parameters(tmp_path, split="1,0,0", max_reject_ratio=1.0)
    with pytest.raises(StepFailedError, match="no image is left; captions rejected: not_found 3"):
        run(ingest_records(records, tmp_path), str(tmp_path / "out"), settings, beam_arguments)
    with pytest.raises(InvalidInputError, match="has not finished"):
        open_artifact(str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--image-sise=3", "--image-sise: neither"),
        ("--direct_num_workers=many", "invalid int value: 'many'"),
        ("attribution", "attribution: belongs to no option; write --name=value"),
    ],
)
def test_a_wrong_beam_option_is_one_line(
    ingested: str, small_sample: Path, tmp_path: Path, option: str, message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message) as caught:
        run(ingested, str(tmp_path / "out"), parameters(small_sample), [option])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_terminal_shows_a_bar_and_the_end_a_summary(ingested: str, small_sample: Path, tmp_path: Path) -> None:
    terminal, seen_by_job = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    job = [sys.executable, "-m", "captionflow", "preprocess", f"--ingested={ingested}", f"--output={tmp_path}/out"]
    job += [f"--allow-url-prefix={small_sample}", "--image-size=32", "--licenses=*"]
    subprocess.run(job, stderr=seen_by_job, stdout=subprocess.DEVNULL, check=True)
    os.close(seen_by_job)
    shown = b""
    with contextlib.suppress(OSError):  # which is how a terminal says that nobody is left at the other end
        while part := os.read(terminal, 4096):
            shown += part
    os.close(terminal)
    assert b"60/60" in shown
    assert b"60 images seen, 60 kept" in shown


def test_beam_counts_what_is_kept_and_rejected(small_sample: Path, tmp_path: Path) -> None:
    good = str(next((small_sample / "images").iterdir()))
    settings = parameters(small_sample)
    captions = [replace(CAPTION, image_id=i, id=i, image_url=url) for i, url in enumerate([good, good, "/gone.jpg"])]
    records = [apply_all(caption, settings) for caption in captions]
    draft = begin(str(tmp_path / "out"), "preprocessed", settings.to_json(), [])
    with beam.Pipeline("FnApiRunner") as pipeline:
        shards = pipeline | beam.Create(records) | transforms.GroupByShard(Layout.plan({None: 3}, settings))
        _ = shards | transforms.WriteShards(draft, partial(ShardWorkers, settings), Shared())
    counters = pipeline.result.metrics().query()["counters"]
    counted = {counter.key.metric.name: counter.committed for counter in counters}
    assert counted["images_in"] == 3
    assert counted["images_out"] == 2
    assert counted["rejected_url_not_allowed"] == 1


@pytest.mark.slow
def test_a_job_killed_ten_times_ends_with_the_same_bytes(site: Site, small_sample: Path, tmp_path: Path) -> None:
    rng = random.Random(0)
    delay = 0.2

    def slow(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(delay)
        send(handler, (small_sample / "images" / handler.path[1:]).read_bytes())

    site.pages |= {f"/{path.name}": slow for path in (small_sample / "images").iterdir()}
    source = ingest(
        str(tmp_path / "ingested"),
        IngestParameters(sources=(str(small_sample / "captions.json"),), image_root=(site.url,)),
    )
    output = tmp_path / "out"
    job = [sys.executable, "-m", "captionflow", "preprocess", f"--ingested={source}", f"--output={output}"]
    job += [
        f"--allow-url-prefix={site.url}",
        "--image-size=32",
        "--licenses=*",
        "--fetch-concurrency=1",
        "--split=0.4,0.3,0.3",
    ]

    def finished() -> set[str]:
        """The pages of the images in shards that are done."""
        infos = [ShardInfo.from_json(path.read_bytes()) for path in output.glob("progress/*/*.json")]
        shards = [output / file.path for info in infos for file in info.files if file.path.endswith(".avro")]
        opened = (read_shard(io.BytesIO(shard.read_bytes()), shard.name) for shard in shards)
        return {f"/{Path(sample.image_url).name}" for samples in opened for sample in samples}

    for attempt in range(10):
        done, before = finished(), site.hits.copy()
        # Some while it starts, the others while it works. Only the job itself: its workers are to notice.
        seconds = rng.uniform(0, 3) if attempt % 3 == 0 else None
        enough = before.total() + rng.randint(1, 60 - len(done) - 1)
        kill_after(job, seconds, lambda enough=enough: site.hits.total() >= enough)
        assert not (output / "manifest.json").exists()
        assert not {page for page in done if site.hits[page] > before[page]}
    done, before, delay = finished(), site.hits.copy(), 0.0
    assert done
    subprocess.run(job, check=True, capture_output=True)
    open_artifact(str(output)).verify()
    assert not {page for page in done if site.hits[page] > before[page]}
    settings = parameters(
        small_sample, allow_url_prefix=(site.url,), licenses=("*",), fetch_concurrency=1, split="0.4,0.3,0.3"
    )
    assert content(str(output)) == content(run(source, str(tmp_path / "undisturbed"), settings, []))


@pytest.mark.slow
def test_the_wheel_alone_is_enough_for_a_worker(
    preprocessed: str, ingested: str, small_sample: Path, tmp_path: Path
) -> None:
    """Run the job from the built wheel, far from the checkout, in two worker processes."""
    root = Path(__file__).parents[1]
    build = ["pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", f"--wheel-dir={tmp_path}", str(root)]
    subprocess.run([sys.executable, "-m", *build], check=True)
    (wheel,) = tmp_path.glob("captionflow-*.whl")
    code = "import captionflow.cli.main as c, sys; assert '.whl' in c.__file__, c.__file__; c.main(sys.argv[1:])"
    arguments = [
        "preprocess",
        f"--ingested={ingested}",
        f"--output={tmp_path}/out",
        f"--allow-url-prefix={small_sample}",
    ]
    subprocess.run(
        [sys.executable, "-c", code, *arguments, "--image-size=32", "--", *TWO_WORKERS],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(wheel)},
        check=True,
        capture_output=True,
    )
    assert content(f"{tmp_path}/out") == content(preprocessed)


def test_licences_match_with_or_without_the_word() -> None:
    for name in COCO_LICENSES:
        alone = PreprocessParameters(licenses=(name,))
        assert isinstance(filter_license(replace(CAPTION, image_license=name), alone), ImageCaption)
    allowed = PreprocessParameters(licenses=("attribution",))
    assert isinstance(filter_license(CAPTION, allowed), ImageCaption)
    for name in ("Attribution-NonCommercial License", "", "Attribution License 2"):
        assert isinstance(filter_license(replace(CAPTION, image_license=name), allowed), Reject)
    assert isinstance(filter_license(CAPTION, PreprocessParameters(licenses=("*",))), ImageCaption)


def test_rejects_pass_through_the_later_stages() -> None:
    reject = parse(b"not json")
    assert isinstance(reject, Reject)
    assert apply_all(reject, PreprocessParameters()) is reject


@given(st.integers(1, 10**6), st.sampled_from(["0.9,0.05,0.05", "0.5,0.25,0.25", "1,0,0"]))
def test_a_layout_puts_every_image_into_an_existing_shard(images: int, split: str) -> None:
    layout = Layout.plan({None: images}, PreprocessParameters(split=split))
    for image_id in range(50):
        key = layout.assign(image_id)
        assert 0 <= key.index < key.count == layout.counts[key.split]
    assert layout.assign(7) == layout.assign(7)


def test_splits_have_their_shares() -> None:
    layout = Layout.plan({None: 20_000}, PreprocessParameters())
    counts = Counter(layout.assign(image_id).split for image_id in range(20_000))
    assert counts["train"] == pytest.approx(18_000, rel=0.02)
    assert counts["val"] == pytest.approx(1_000, rel=0.1)


def test_nothing_is_written_over_another_artifact(ingested: str, small_sample: Path) -> None:
    with pytest.raises(InvalidInputError, match="choose an empty folder"):
        run(ingested, ingested, parameters(small_sample), [])
    open_artifact(ingested).verify()
    with pytest.raises(InvalidInputError, match="expected ingested"):
        run(str(small_sample), "unused", PreprocessParameters(), [])
