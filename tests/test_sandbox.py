"""A picture that crashes, hangs or balloons its decoder costs itself its place, and nobody else anything."""

import random
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import psutil
import pytest
from PIL import Image

from beam_jobs.preprocess import run
from captionflow.core.artifact import open_artifact
from captionflow.core.draft import begin
from captionflow.core.steps import PREPROCESSED
from captionflow.images.decode import ImageError, StoredImage, process
from captionflow.images.sandbox import Sandbox
from captionflow.preprocess.captions import assign_shard
from captionflow.preprocess.filters import apply_all
from captionflow.preprocess.parameters import PreprocessParameters
from captionflow.preprocess.shards import Layout, ShardKey
from captionflow.preprocess.workers import ShardWorkers
from captionflow.preprocess.writer import ShardTask
from tests.fuzz_images import LIMITS, base_files
from tests.ingesting import CAPTION, ingest_records
from tests.processes import wait_until
from tests.servers import Site, send
from tests.test_images import saved, two_colours
from tests.test_preprocess import assert_accounted, content, rejects

SEEDS = sorted(Path(__file__).with_name("seeds").iterdir())
GOOD = saved(two_colours(), "JPEG")


def many_scans(count: int) -> bytes:
    """A small progressive JPEG whose last scan is repeated: each costs a pass over the picture, about 2 ms."""
    whole = saved(Image.new("L", (2048, 2048), 128), "JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * count + b"\xff\xd9"


def megapixels(count: int, image_format: str, **options: object) -> bytes:
    """A file of some KB that holds millions of pixels."""
    return saved(Image.new("1", (8000, count * 125), 1), image_format, **options)


def outcome(decode: Callable[[bytes], StoredImage], data: bytes) -> StoredImage | tuple[str, str]:
    try:
        return decode(data)
    except ImageError as error:
        return error.reason, str(error)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """One with the fuzzer's limits."""
    with closing(Sandbox(LIMITS)) as running:
        yield running


def test_sound_pictures_come_out_as_they_do_without_it(sandbox: Sandbox) -> None:
    for data in base_files(random.Random(0)):
        assert sandbox.process(data) == process(data, LIMITS)


@pytest.mark.faults
@pytest.mark.parametrize("path", SEEDS, ids=lambda path: path.name)
def test_broken_pictures_get_the_reason_they_get_without_it(sandbox: Sandbox, path: Path) -> None:
    """The files were found by `tests.fuzz_images`, one for each thing that Pillow says; the reason is in the name."""
    reason = path.name.partition("-")[0]
    inside = outcome(sandbox.process, path.read_bytes())
    assert reason == ("picture" if isinstance(inside, StoredImage) else inside[0])
    if not reason.startswith("decode"):
        assert inside == outcome(lambda data: process(data, LIMITS), path.read_bytes())


@pytest.mark.faults
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(many_scans(10_000), id="JPEG with thousands of scans"),
        pytest.param(megapixels(64, "PNG", transparency=1), id="PNG of 64 megapixels"),
    ],
)
def test_a_picture_that_takes_too_long_is_given_up(data: bytes) -> None:
    with closing(Sandbox(replace(LIMITS, max_image_megapixels=64, decode_megabytes=2048, decode_seconds=0.1))) as short:
        begun = time.monotonic()
        assert outcome(short.process, data)[0] == "decode_timeout"
        assert time.monotonic() - begun < 5
        assert isinstance(short.process(GOOD), StoredImage)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("data", "reasons"),
    [
        *((megapixels(16, name), {"decode_out_of_memory"}) for name in ("PNG", "GIF", "BMP", "TIFF")),
        # libwebp and libjpeg do not tell a failed allocation from a broken file; whose allocation fails varies.
        (megapixels(16, "WEBP"), {"decode_out_of_memory", "corrupt_image", "not_an_image"}),
        (megapixels(16, "JPEG", progressive=True), {"decode_out_of_memory", "corrupt_image"}),
    ],
    ids=["PNG", "GIF", "BMP", "TIFF", "WEBP", "JPEG"],
)
def test_a_picture_that_takes_too_much_memory_is_given_up(data: bytes, reasons: set[str]) -> None:
    with closing(Sandbox(replace(LIMITS, decode_megabytes=16))) as small:
        assert outcome(small.process, data)[0] in reasons
        assert isinstance(small.process(GOOD), StoredImage)


@pytest.fixture
def decoders() -> Callable[[], list[psutil.Process]]:
    """Tells which children this test has."""
    others = psutil.Process().children()
    return lambda: [child for child in psutil.Process().children() if child not in others]


def kill_at_work(decoders: Callable[[], list[psutil.Process]], number: signal.Signals) -> None:
    # Seconds that it takes about to start.
    wait_until(lambda: any(decoder.cpu_times().user > 0.3 for decoder in decoders()))
    (decoder,) = decoders()
    decoder.send_signal(number)
    wait_until(lambda: decoder not in decoders())


@pytest.mark.faults
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_picture_gets_a_second_chance_when_its_decoder_dies(
    decoders: Callable[[], list[psutil.Process]], number: signal.Signals
) -> None:
    parameters, data = replace(LIMITS, decode_seconds=60.0), many_scans(400)
    with closing(Sandbox(parameters)) as sandbox, ThreadPoolExecutor(1) as thread:
        result = thread.submit(sandbox.process, data)
        kill_at_work(decoders, number)
        assert result.result() == process(data, parameters)


@pytest.mark.faults
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_picture_over_which_two_decoders_die_is_given_up(
    decoders: Callable[[], list[psutil.Process]], number: signal.Signals
) -> None:
    with closing(Sandbox(replace(LIMITS, decode_seconds=60.0))) as sandbox, ThreadPoolExecutor(1) as thread:
        result = thread.submit(outcome, sandbox.process, many_scans(2000))
        for _ in range(2):
            kill_at_work(decoders, number)
        assert result.result() == ("decoder_crashed", f"the decoder ended with {number.name}")
        assert isinstance(sandbox.process(GOOD), StoredImage)


@pytest.mark.faults
def test_dead_decoders_leave_nothing_behind(decoders: Callable[[], list[psutil.Process]]) -> None:
    this = psutil.Process()
    open_files, children = this.num_fds(), this.children()
    with closing(Sandbox(LIMITS)) as sandbox:
        for _ in range(15):
            (decoder,) = decoders()
            decoder.kill()
            assert isinstance(sandbox.process(GOOD), StoredImage)
    assert this.num_fds() <= open_files
    assert this.children() == children  # a zombie would be among them


@pytest.mark.faults
@pytest.mark.slow
def test_bad_pictures_cost_a_job_nothing_but_themselves(small_sample: Path, tmp_path: Path) -> None:
    good = sorted((small_sample / "images").iterdir())[:30]
    hostile = {"decode_timeout": many_scans(2000), "decode_out_of_memory": megapixels(80, "PNG", transparency=1)}
    for reason, data in hostile.items():
        (tmp_path / reason).write_bytes(data)
    parameters = PreprocessParameters(
        allow_url_prefix=(str(small_sample), str(tmp_path)),
        image_size=32,
        split="1,0,0",
        max_image_megapixels=80,
        decode_seconds=1.0,
        decode_megabytes=16,
    )

    def preprocessed(name: str, paths: list[Path]) -> str:
        records = [replace(CAPTION, image_id=i, id=i, image_url=str(path)) for i, path in enumerate(paths)]
        return run(ingest_records(records, tmp_path / name), str(tmp_path / name / "out"), parameters, [])

    disturbed = preprocessed("disturbed", [*good, *(tmp_path / reason for reason in hostile)])
    artifact = open_artifact(disturbed)
    assert_accounted(artifact)
    assert artifact.manifest.counts["images"] == {"in": 32, "out": 30, "rejected": 2}
    assert all(reject.reason == Path(reject.image_url).name for reject in rejects(artifact))
    assert shards(disturbed) == shards(preprocessed("undisturbed", good))


@pytest.mark.faults
@pytest.mark.slow
def test_no_worker_ends_because_of_a_bad_picture(tmp_path: Path) -> None:
    parameters = PreprocessParameters(
        allow_url_prefix=(str(tmp_path),), image_size=32, decode_seconds=1.0, split="1,0,0"
    )
    (tmp_path / "good").write_bytes(GOOD)
    (tmp_path / "bad").write_bytes(many_scans(2000))
    draft, layout = (
        begin(str(tmp_path / "out"), PREPROCESSED, parameters.to_json(), []),
        Layout.plan({None: 1}, parameters),
    )

    def task(index: int) -> ShardTask:
        records = [
            apply_all(replace(CAPTION, image_id=i, id=i, image_url=str(tmp_path / name)), parameters)
            for i, name in enumerate(("good", "bad"))
        ]
        return ShardTask(
            draft,
            ShardKey("train", index, 1000),
            [packed for record in records for _, packed in assign_shard(record, layout)],
        )

    others = psutil.Process().children()
    with closing(ShardWorkers(parameters)) as workers:
        first = set(psutil.Process().children()) - set(others)
        done = [workers.submit(task(i)) for i in range(2 * len(first))]
        assert [future.result().rejected for future in done] == [{"decode_timeout": 1}] * len(done)
        assert set(psutil.Process().children()) - set(others) == first
        decoders = [decoder for worker in first for decoder in worker.children()]
    # They were children of the workers: nobody else would end them.
    wait_until(lambda: not any(decoder.is_running() for decoder in decoders))


@pytest.mark.faults
@pytest.mark.slow
def test_a_bad_picture_does_no_harm_to_those_behind_it() -> None:
    """Two are in the decoder at a time, and more wait."""
    bad, parameters = many_scans(2000), replace(LIMITS, decode_seconds=0.5)
    with closing(Sandbox(parameters)) as sandbox, ThreadPoolExecutor(8) as threads:
        pictures = [bad if i % 5 == 2 else GOOD for i in range(20)]
        found = list(threads.map(lambda data: outcome(sandbox.process, data), pictures))
    good = process(GOOD, parameters)
    assert [result[0] if data is bad else result for data, result in zip(pictures, found, strict=True)] == [
        "decode_timeout" if data is bad else good for data in pictures
    ]


def shards(uri: str) -> dict[str, bytes]:
    return {name: data for name, data in content(uri).items() if name.endswith(".avro")}


@pytest.mark.faults
@pytest.mark.slow
def test_workers_killed_in_the_middle_of_a_job_change_nothing(site: Site, small_sample: Path, tmp_path: Path) -> None:
    paths = sorted((small_sample / "images").iterdir())
    site.pages |= {f"/{path.name}": path.read_bytes() for path in paths}
    records = [replace(CAPTION, image_id=i, id=i, image_url=f"{site.url}/{path.name}") for i, path in enumerate(paths)]
    source = ingest_records(records, tmp_path)
    parameters = PreprocessParameters(allow_url_prefix=(site.url,), image_size=32, fetch_concurrency=1, split="1,0,0")
    undisturbed = run(source, str(tmp_path / "undisturbed"), parameters, [])

    middle = f"/{paths[30].name}"
    seen = site.hits[middle]

    def kill(handler: BaseHTTPRequestHandler) -> None:
        if site.hits[middle] == seen + 1:
            for worker in psutil.Process().children():
                if "captionflow.preprocess.workers" in worker.cmdline():
                    worker.kill()
        send(handler, paths[30].read_bytes())

    site.pages[middle] = kill
    assert content(run(source, str(tmp_path / "disturbed"), parameters, [])) == content(undisturbed)
    assert site.hits[middle] == seen + 2
