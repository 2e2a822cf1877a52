"""Faults of every kind: what comes in = what goes out + what is rejected, each with its own reason."""

import os
import random
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from beam_jobs.preprocess import run
from captionflow.core.artifact import open_artifact
from captionflow.images.attempts import FetchError
from captionflow.images.hosts import CircuitOpenError, Hosts
from captionflow.preprocess.captions import summary
from captionflow.preprocess.download import Downloader
from captionflow.preprocess.parameters import PreprocessParameters
from tests.faults import Fault, catalogue, gzip_bomb, picture, put
from tests.ingesting import CAPTION, ingest_records
from tests.servers import Site, send, serve
from tests.test_fetch import failure, fetched, fetcher
from tests.test_preprocess import assert_accounted, rejects

pytestmark = pytest.mark.faults

# One server has all the faults, so it must not be given up as a host that is down. On a busy machine a page that
# answers at once may still take a second or two.
IMPATIENT = PreprocessParameters(
    allow_host=("127.0.0.1",),
    image_size=32,
    split="1,0,0",
    fetch_timeout=4.0,
    fetch_total_timeout=12.0,
    fetch_connect_timeout=2.0,
    fetch_retries=2,
    host_failures=0,
    max_image_megabytes=4,
    max_reject_ratio=1.0,
)


@pytest.fixture(scope="module")
def downloader() -> Downloader:
    """One for all, so that no fault spoils what the next finds."""
    return Downloader(IMPATIENT)


@pytest.fixture(scope="module")
def hasty_downloader() -> Downloader:
    """For pages that never come to an end: a time-out is what they lead to, sooner or later."""
    return Downloader(replace(IMPATIENT, fetch_timeout=0.5, fetch_total_timeout=1.5))


@pytest.fixture
def other_site() -> Iterator[Site]:
    with serve() as running:
        yield running


def preprocess(urls: Iterable[str], parameters: PreprocessParameters, folder: Path):
    """Run the job over images that have two captions each."""
    records = [
        replace(CAPTION, image_id=i, id=2 * i + k, image_url=url) for i, url in enumerate(urls) for k in range(2)
    ]
    artifact = open_artifact(run(ingest_records(records, folder), str(folder / "out"), parameters, []))
    artifact.verify()
    assert_accounted(artifact)
    return artifact


def in_parallel(function, urls: Iterable[str], threads: int = 16) -> list:
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, urls))


def outcome(fetch, url: str) -> str:
    """Reason of the failure; nothing if there is none."""
    try:
        fetched(fetch, url)
    except FetchError as error:
        return error.reason
    return ""


@pytest.mark.parametrize("name", catalogue())
def test_a_fault_alone_leads_to_its_own_reason(
    site: Site, downloader: Downloader, hasty_downloader: Downloader, name: str
) -> None:
    fault = catalogue()[name]
    (url,) = put(site, [(name, fault)])
    chosen = hasty_downloader if fault.reason == "timeout" else downloader
    for _ in range(2):
        download = chosen.submit(url, None).result(60)
        found = download.error
        assert (found.reason if found else None) == fault.reason
        assert getattr(found, "retryable", False) == fault.retryable
        assert (download.picture is None) == (fault.reason is not None)


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
def test_all_faults_at_once_are_told_apart(site: Site, tmp_path: Path, resize: str) -> None:
    faults = put(site, [*catalogue().items()] * 3)
    artifact = preprocess(faults, replace(IMPATIENT, resize=resize), tmp_path)
    expected = {url: (fault.reason, fault.retryable) for url, fault in faults.items() if fault.reason}
    found = rejects(artifact)
    assert {reject.image_url: (reject.reason, reject.retryable) for reject in found} == expected
    assert {reject.stage for reject in found} == {"images"}
    counts = artifact.manifest.counts
    assert counts["rejected"] == Counter(reason for reason, _ in [*expected.values()] * 2)
    assert counts["images"] == {"in": len(faults), "out": len(faults) - len(expected), "rejected": len(expected)}
    assert f"{2 * len(expected)} captions rejected: " in summary(artifact.manifest)[1]
    assert site.hits["/secret"] == 0


@pytest.mark.slow
def test_a_third_of_faults_costs_little_time(site: Site, tmp_path: Path) -> None:
    """The times are printed, not judged: the machine may be busy."""
    good, names = Fault(picture()), catalogue()
    mixed = [("good", good)] * 1400 + [list(names.items())[i % len(names)] for i in range(600)]
    random.Random(0).shuffle(mixed)
    seconds = {}
    for kind, faults in {"clean": [("good", good)] * 2000, "mixed": mixed}.items():
        pages = put(site, faults)
        (tmp_path / kind).mkdir()
        start = time.monotonic()
        artifact = preprocess(pages, IMPATIENT, tmp_path / kind)
        seconds[kind] = time.monotonic() - start
        expected = Counter(fault.reason for fault in pages.values() if fault.reason)
        assert artifact.manifest.counts["rejected"] == {reason: 2 * count for reason, count in expected.items()}
        assert artifact.manifest.counts["images"]["out"] == 2000 - expected.total()
    print(f"\n2,000 images: clean {seconds['clean']:.1f} s, 30 % faults {seconds['mixed']:.1f} s")


def test_a_longer_body_than_promised_does_not_spoil_the_next(site: Site) -> None:
    def late(handler: BaseHTTPRequestHandler) -> None:
        """Send the surplus when the next request is already under way."""
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nimage")
        time.sleep(0.1)
        handler.wfile.write(b" and more" * 10_000)

    site.pages |= {"/late": late, "/longer": catalogue()["length_too_small"].page, "/good": b"good"}
    fetch = fetcher(site.url, fetch_retries=1)
    for path in ("/late", "/longer") * 3:
        fetched(fetch, site.url + path)
        assert fetched(fetch, f"{site.url}/good") == b"good"


def test_an_endless_body_is_left_after_the_smallest_limit(site: Site) -> None:
    (url,) = put(site, [("endless", catalogue()["endless"])])
    assert outcome(fetcher(site.url, max_image_megabytes=1, fetch_timeout=5.0, fetch_retries=0), url) == "too_large"


def test_a_server_that_speaks_no_tls_is_retryable(site: Site) -> None:
    url = site.url.replace("http:", "https:")
    error = failure(fetcher(url, fetch_retries=0), f"{url}/a.jpg")
    assert (error.reason, error.retryable) == ("connection_failed", True)


def test_large_bodies_that_break_off_block_no_others(site: Site) -> None:
    urls = put(site, [("cut_large", catalogue()["cut_large"])] * 4)
    fetch = fetcher(site.url, fetch_retries=2)
    assert in_parallel(lambda url: outcome(fetch, url), urls) == ["body_broke_off"] * 4


def test_large_bodies_that_come_slowly_hold_up_no_others(site: Site) -> None:
    """Ten times a second a piece of a size that the network's own buffers do not swallow."""

    def slow(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 24000000\r\n\r\n")
        for _ in range(12):
            handler.wfile.write(bytes(2_000_000))
            time.sleep(0.1)

    urls = put(site, [("slow", Fault(slow))] * 8)
    fetch = fetcher(site.url, fetch_timeout=3.0, fetch_retries=0)
    assert in_parallel(lambda url: outcome(fetch, url), urls) == [""] * 8


def test_a_failure_keeps_none_of_the_bytes(site: Site, downloader: Downloader) -> None:
    """Many failures wait for their turn in a shard."""
    urls = put(site, [("no_image", Fault(bytes(3_000_000)))] * 20)
    tracemalloc.start()
    try:
        downloads = [downloader.submit(url, None).result(30) for url in urls]
        assert tracemalloc.get_traced_memory()[0] < 10_000_000
    finally:
        tracemalloc.stop()
    assert {str(download.error.reason) for download in downloads} == {"not_an_image"}


def test_bombs_in_any_number_end_nothing(site: Site, tmp_path: Path) -> None:
    """Each would unpack to 50 MB before it is given up; a worker has room for some of them."""
    bomb = lambda handler: send(handler, gzip_bomb(), Content_Encoding="gzip")  # noqa: E731
    urls = put(site, [("good", Fault(picture()))] * 10 + [("bomb", Fault(bomb))] * 50)
    parameters = PreprocessParameters(allow_host=("127.0.0.1",), image_size=32, split="1,0,0", max_reject_ratio=1.0)
    artifact = preprocess(urls, parameters, tmp_path)
    assert artifact.manifest.counts["rejected"] == {"too_large": 100}


def test_a_host_that_fails_everything_is_left_alone(site: Site, other_site: Site, tmp_path: Path) -> None:
    urls = put(site, [("bad", Fault(lambda handler: send(handler, b"", 503)))] * 300)
    urls |= put(other_site, [("good", Fault(picture()))] * 50)
    artifact = preprocess(urls, replace(IMPATIENT, host_failures=5, fetch_concurrency=8), tmp_path)
    assert artifact.manifest.counts["images"] == {"in": 350, "out": 50, "rejected": 300}
    assert artifact.manifest.counts["rejected"].keys() <= {"http_503", "host_down"}
    assert all(reject.retryable for reject in rejects(artifact))
    # Each process learns it for itself, and what is under way then goes on.
    assert site.hits.total() <= 5 * len(os.sched_getaffinity(0)) + 8
    assert set(other_site.hits.values()) == {1}


def test_images_of_a_host_that_is_down_are_given_up_at_once(site: Site) -> None:
    site.pages["/a"] = lambda handler: send(handler, b"", 503)
    fetch = fetcher(site.url, host_failures=3, fetch_retries=0)
    assert [outcome(fetch, f"{site.url}/a") for _ in range(4)] == ["http_503"] * 3 + ["host_down"]
    patient = fetcher(site.url, host_failures=3, fetch_retries=10, fetch_total_timeout=600.0)
    start = time.monotonic()
    for _ in range(50):
        assert failure(patient, f"{site.url}/a").reason == "host_down"
    assert time.monotonic() - start < 10


def test_requests_to_a_host_at_a_time_are_limited(site: Site, other_site: Site) -> None:
    lock, under_way, most = threading.Lock(), Counter(), Counter()

    def busy(handler: BaseHTTPRequestHandler) -> None:
        host = handler.headers["Host"]
        with lock:
            under_way[host] += 1
            most[host] = max(most[host], under_way[host])
        time.sleep(0.05)
        # Before the answer: the client may begin with the next as soon as it has this one.
        with lock:
            under_way[host] -= 1
        send(handler, b"image")

    fetch = fetcher(site.url, other_site.url, host_concurrency=3)
    urls = [*put(site, [("busy", Fault(busy))] * 24), *put(other_site, [("busy", Fault(busy))] * 24)]
    assert in_parallel(lambda url: outcome(fetch, url), urls, threads=48) == [""] * 48
    assert sorted(most.values()) == [3, 3]


def test_requests_to_a_host_a_second_are_limited(site: Site, other_site: Site) -> None:
    """Waiting for its turn costs an image none of its time."""
    came: list[float] = []

    def note(handler: BaseHTTPRequestHandler) -> None:
        came.append(time.monotonic())
        send(handler, b"image")

    urls = put(site, [("note", Fault(note))] * 16)
    other = put(other_site, [("unhurried", Fault(b"image"))])
    fetch = fetcher(site.url, other_site.url, host_rate=5.0, fetch_timeout=2.0, fetch_total_timeout=2.5)
    assert in_parallel(lambda url: outcome(fetch, url), [*urls, *other], threads=17) == [""] * 17
    came.sort()
    # Three seconds if the machine is quick; on a busy one they come late, and so closer to each other.
    assert came[-1] - came[0] > 2.7
    assert all(later - earlier > 0.5 for earlier, later in zip(came, came[6:], strict=False))


class Clock:
    """Seconds that pass when told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def hosts(failure_threshold: int) -> tuple[Hosts, Clock]:
    clock = Clock()
    return Hosts(concurrency=4, rate=0.0, failure_threshold=failure_threshold, clock=clock), clock


def request(limits: Hosts, *, succeeded: bool, name: str = "a") -> None:
    with limits.slot(name):
        limits.record(name, succeeded=succeeded)


def is_open(limits: Hosts, name: str = "a") -> bool:
    try:
        with limits.slot(name):
            return False
    except CircuitOpenError:
        return True


def test_so_many_failures_in_a_row_open_a_hosts_circuit() -> None:
    limits, _ = hosts(failure_threshold=3)
    for succeeded in (False, False, True, False, False):
        request(limits, succeeded=succeeded)
    assert not is_open(limits)
    request(limits, succeeded=False)
    assert is_open(limits)
    assert not is_open(limits, "b")


def test_an_open_circuit_lets_one_request_through_after_a_minute() -> None:
    limits, clock = hosts(failure_threshold=1)
    request(limits, succeeded=False)
    clock.now = 59.0
    assert is_open(limits)
    clock.now = 61.0
    with limits.slot("a"):
        assert is_open(limits)
        limits.record("a", succeeded=False)
    clock.now = 120.0
    assert is_open(limits)


def test_a_request_that_succeeds_closes_the_circuit() -> None:
    limits, clock = hosts(failure_threshold=2)
    for _ in range(2):
        request(limits, succeeded=False)
    clock.now = 61.0
    with limits.slot("a"):
        limits.record("a", succeeded=True)
        assert not is_open(limits)
    request(limits, succeeded=False)
    assert not is_open(limits)


def test_no_threshold_never_opens_a_circuit() -> None:
    limits, _ = hosts(failure_threshold=0)
    for _ in range(100):
        request(limits, succeeded=False)


def test_not_all_hosts_that_ever_failed_are_remembered() -> None:
    limits, _ = hosts(failure_threshold=1)
    names = [str(i) for i in range(10_100)]
    for name in names:
        request(limits, succeeded=False, name=name)
    assert not is_open(limits, names[0])
    assert is_open(limits, names[-1])


@pytest.mark.parametrize(
    "host",
    [
        *("10.0.0.1", "172.16.0.1", "192.168.0.1", "100.64.0.1", "169.254.169.254", "224.0.0.1", "255.255.255.255"),
        *("[::]", "[::1]", "[fe80::1]", "[fc00::1]", "[fd00:ec2::254]", "[ff02::1]"),
        *("[::ffff:10.0.0.1]", "[::ffff:a9fe:a9fe]", "[2002:7f00:1::]", "[64:ff9b::7f00:1]", "[::127.0.0.1]"),
        *("127.1", "0x7f.1", "0x7f000001", "0X7F000001", "017700000001", "0177.0.0.1", "%31%32%37.0.0.1", "LOCALHOST"),
    ],
)
def test_nothing_goes_to_an_address_that_is_not_public(host: str) -> None:
    """Not even to find out whether somebody listens there: nobody does."""
    error = failure(fetcher(), f"http://{host}:9/")
    assert (error.reason, error.retryable) == ("url_not_allowed", False)


def test_a_final_dot_opens_nothing(site: Site) -> None:
    for host in ("127.0.0.1.", "localhost."):
        url = site.url.replace("127.0.0.1", host)
        # Some resolvers know them, some do not.
        assert outcome(fetcher(fetch_retries=0), f"{url}/secret") in {"url_not_allowed", "connection_failed"}
    assert not site.hits


def test_an_opened_host_opens_no_other(site: Site) -> None:
    site.pages["/a"] = b"image"
    assert fetched(fetcher(allow_host=("127.0.0.1",)), f"{site.url}/a") == b"image"
    by_name = site.url.replace("127.0.0.1", "localhost")
    assert outcome(fetcher(allow_host=("127.0.0.1",)), f"{by_name}/a") == "url_not_allowed"
    assert outcome(fetcher(allow_host=("localhost",)), f"{site.url}/a") == "url_not_allowed"
    assert fetched(fetcher(allow_host=("LocalHost",)), f"{by_name}/a") == b"image"


@pytest.mark.parametrize("between", ["\\@", "#@", "?@", "/@", "\\", "%5c@", ":@", ";@", "@\\@"])
def test_a_url_that_only_seems_to_name_an_opened_host_is_refused(site: Site, between: str) -> None:
    opened = fetcher(allow_host=("opened.invalid",), fetch_retries=0)
    assert outcome(opened, f"{site.url}{between}opened.invalid/secret")
    assert not site.hits
