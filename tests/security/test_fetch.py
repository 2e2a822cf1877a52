"""Images: addresses that only seem public, URLs that make no sense, stores that answer oddly, files that are none."""

import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from urllib3.exceptions import NewConnectionError

from beam_jobs.preprocess import run
from captionflow.core.artifact import open_artifact
from captionflow.images.attempts import Attempts
from captionflow.preprocess.download import Downloader
from captionflow.preprocess.parameters import PreprocessParameters
from captionflow.preprocess.reuse import Earlier, EarlierPictures
from captionflow.web.access import Prefix, PublicOnly, is_public
from tests.ingesting import CAPTION, ingest_records
from tests.s3 import KEYS, serve_s3
from tests.servers import Site, send
from tests.test_fetch import failure, fetcher
from tests.test_preprocess import assert_accounted, rejects

pytestmark = pytest.mark.security

INNER_V4 = [
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "168.63.129.16/32", "169.254.0.0/16", "172.16.0.0/12"),
    *("192.0.0.192/32", "192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4"),
]
INNER_V6 = [
    *("::/127", "::ffff:0:0:0/96", "64:ff9b:1::/48", "100::/64", "2001::/32", "2001:db8::/32", "3fff::/20"),
    *("5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8"),
]
PUBLIC = [
    *(
        "1.1.1.1",
        "8.8.8.8",
        "151.101.1.140",
        "168.63.129.15",
        "192.0.0.9",
        "192.0.1.1",
        "198.17.0.1",
        "223.255.255.254",
    ),
    *("2606:4700::1111", "2a00:1450:4001::200e", "2400:cb00::1", "2001:4860:4860::8888", "3ffe:ffff::1", "5eff::1"),
]


def addresses(networks: list[str]) -> st.SearchStrategy[Any]:
    return st.one_of([st.ip_addresses(network=ip_network(network)) for network in networks])


def embeddings(address: IPv4Address) -> dict[str, IPv6Address]:
    """The IPv6 addresses that lead to an IPv4 address, or say so."""
    number = int(address)
    return {
        "mapped": IPv6Address((0xFFFF << 32) + number),
        "compatible": IPv6Address(number),
        "6to4": IPv6Address((0x2002 << 112) + (number << 80) + 1),
        "NAT64": IPv6Address((0x64FF9B << 96) + number),
        "NAT64 of a network": IPv6Address((0x64FF9B0001 << 80) + number),
        "SIIT": IPv6Address((0xFFFF << 48) + number),
        "Teredo": IPv6Address((0x20010000 << 96) + (number ^ 0xFFFFFFFF)),
        "Teredo server": IPv6Address((0x20010000 << 96) + (number << 64)),
    }


@given(addresses([*INNER_V4, *INNER_V6]))
def test_no_address_inside_a_network_is_public(address: Any) -> None:
    assert not is_public(str(address))


@given(addresses(INNER_V4), st.sampled_from(sorted(embeddings(IPv4Address(0)))))
def test_no_embedding_makes_an_inner_address_public(address: IPv4Address, how: str) -> None:
    assert not is_public(str(embeddings(address)[how]))


@given(st.sampled_from([text for text in PUBLIC if ":" not in text]).map(IPv4Address))
def test_embeddings_of_public_addresses_stay_public(address: IPv4Address) -> None:
    found = {how: is_public(str(carrier)) for how, carrier in embeddings(address).items()}
    assert {how for how, public in found.items() if public} == {"mapped", "compatible", "6to4", "NAT64"}


@pytest.mark.parametrize("address", PUBLIC)
def test_ordinary_addresses_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "host",
    [
        *("168.63.129.16", "192.0.0.192", "2822734096", "0xa83f8110", "[64:ff9b::a83f:8110]", "[2002:a83f:8110::1]"),
        *("[::ffff:168.63.129.16]", "[64:ff9b:1::7f00:1]", "[::ffff:0:7f00:1]", "[fec0::1]", "[5f00::1]", "[3fff::1]"),
        "[2001:0:7f00:1::]",
    ],
)
def test_nothing_is_sent_to_them(host: str) -> None:
    error = failure(fetcher(), f"http://{host}:9/")
    assert (error.reason, error.retryable) == ("url_not_allowed", False)


LABEL, NAME = "a" * 64, "a." * 130

BAD_URLS = [
    *(
        "http:///x",
        "http://",
        "https://:80/",
        "http:x",
        "http:/x",
        "http://?x",
        "http://#x",
        "http://@/",
        "http://u:p@/",
    ),
    *(
        "http://[::1/x",
        "http://[]/",
        "http://[::1]x/",
        "http://[v1.a]/",
        "http://[fe80::1%25eth0]/",
        "http://[::1%lo]/",
    ),
    *(
        "http://a b/",
        "http://a\x01b/",
        "http://a\nb/",
        "http://\x00/",
        "http://%00/",
        "http://\ud800/",
        "http://\u2100.com",
    ),
    *("http://h:0/", "http://h:99999/", "http://h:-1/", "http://h:x/", "http://h:80:80/", "http://h:9" + "9" * 5000),
    *(f"http://{LABEL}.com/", f"http://{NAME}com/", "http://.com/", "http://a..b/"),
]


@pytest.mark.parametrize("url", BAD_URLS)
def test_a_url_without_sense_is_invalid(url: str) -> None:
    error = failure(fetcher(allow_host=("h",)), url)
    assert (error.reason, error.retryable) == ("invalid_url", False)


@pytest.mark.parametrize("url", ["http:///x", "http://h:0/", "http://[fe80::1%25eth0]/"])
def test_a_redirect_without_sense_is_invalid(site: Site, url: str) -> None:
    site.pages["/a"] = lambda handler: send(handler, b"", 302, Location=url)
    error = failure(fetcher(site.url), f"{site.url}/a")
    # A redirect without a host stays at the host that it came from.
    assert error.reason == ("http_404" if url == "http:///x" else "invalid_url")


def test_a_password_in_a_url_goes_to_nobody(site: Site) -> None:
    site.pages["/a"] = lambda handler: send(handler, (handler.headers["Authorization"] or "none").encode())
    with fetcher(allow_host=("127.0.0.1",)).fetch(Attempts(site.url.replace("//", "//user:word@") + "/a")) as data:
        assert data == b"none"


def test_a_reason_without_end_is_cut(site: Site) -> None:
    def talk(handler: Any) -> None:
        handler.wfile.write(b"HTTP/1.1 404 " + b"x" * 60_000 + b"\r\nContent-Length: 0\r\n\r\n")

    site.pages["/a"] = talk
    error = failure(fetcher(site.url), f"{site.url}/a")
    assert (error.reason, len(str(error))) == ("http_404", 500)


def outcome(url: str, prefix: str) -> tuple[str, bool]:
    """What becomes of an image: the reason and whether it may be tried again."""
    parameters = PreprocessParameters(allow_url_prefix=(prefix,), image_size=32, fetch_retries=0, fetch_concurrency=1)
    error = Downloader(parameters).submit(url, None).result(60).error
    return error.reason, getattr(error, "retryable", False)


@pytest.fixture
def store(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A site that both object stores' clients take for theirs."""
    for name, value in {"STORAGE_EMULATOR_HOST": site.url, "AWS_ENDPOINT_URL": site.url, **KEYS}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    classes = [fsspec.get_filesystem_class(scheme) for scheme in ("s3", "gs")]
    for cls in classes:
        cls.clear_instance_cache()
    yield site
    for cls in classes:
        cls.clear_instance_cache()


class Answering(dict[str, Any]):
    """Pages of which every one is the same."""

    def get(self, path: str, default: Any = None) -> Any:
        return self["answer"]


def hang_up(handler: Any) -> None:
    handler.close_connection = True


ANSWERS = {
    "nonsense": lambda handler: send(handler, b"<html>nonsense", 200),
    "nothing": lambda handler: send(handler, b"", 200),
    "a list": lambda handler: send(handler, b"[1, 2]", 200, Content_Type="application/json"),
    "null": lambda handler: send(handler, b"null", 200, Content_Type="application/json"),
    "bad request": lambda handler: send(handler, b"{}", 400),
    "forbidden": lambda handler: send(handler, b"{}", 403),
    "conflict": lambda handler: send(handler, b"<html>" * 100_000, 409),
    "not HTTP": lambda handler: handler.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n"),
}


# Until gcsfs has made its own attempts at what it does not understand, half a minute passes.
SLOW = {"not HTTP": pytest.mark.slow}


@pytest.mark.parametrize("answer", [pytest.param(name, marks=SLOW.get(name, ())) for name in ANSWERS])
@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_an_object_store_that_answers_oddly_costs_one_image(store: Site, scheme: str, answer: str) -> None:
    store.pages = Answering(answer=ANSWERS[answer])
    reason, retryable = outcome(f"{scheme}://bucket/a.jpg", f"{scheme}://bucket")
    assert (reason, retryable) in {("unreadable", True), ("not_an_image", False), ("empty", False), ("markup", False)}
    if answer in ("bad request", "forbidden", "conflict"):
        assert (reason, retryable) == ("unreadable", True)


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_the_job_goes_on_without_it(store: Site, small_sample: Path, tmp_path: Path, scheme: str) -> None:
    store.pages = Answering(answer=ANSWERS["bad request"])
    urls = [f"{scheme}://bucket/a.jpg", f"{small_sample}/images/000000000001.jpg"]
    records = [replace(CAPTION, image_id=n, id=n, image_url=url) for n, url in enumerate(urls)]
    parameters = PreprocessParameters(
        allow_url_prefix=(f"{scheme}://bucket", str(small_sample)), image_size=32, fetch_retries=0, split="1,0,0"
    )
    artifact = open_artifact(run(ingest_records(records, tmp_path), str(tmp_path / "out"), parameters, []))
    assert_accounted(artifact)
    assert artifact.manifest.counts["images"] == {"in": 2, "out": 1, "rejected": 1}
    assert [(reject.reason, reject.retryable) for reject in rejects(artifact)] == [("unreadable", True)]


@pytest.mark.slow
def test_an_object_store_that_is_down_costs_one_image(store: Site) -> None:
    store.pages = Answering(answer=lambda handler: send(handler, b"", 500))
    assert outcome("s3://bucket/a.jpg", "s3://bucket") == ("unreadable", True)


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_an_earlier_picture_that_cannot_be_had_is_fetched(store: Site, scheme: str) -> None:
    store.pages = Answering(answer=ANSWERS["bad request"])
    earlier = Earlier(1, "http://x/1.jpg", "train/00000-of-00001.avro", 100, 100)
    assert EarlierPictures(f"{scheme}://bucket/preprocessed").read(earlier) is None


def test_an_object_that_is_not_there_is_not_found(monkeypatch: pytest.MonkeyPatch, store: Site) -> None:
    with serve_s3() as environment:
        monkeypatch.setenv("AWS_ENDPOINT_URL", environment["AWS_ENDPOINT_URL"])
        fsspec.filesystem("s3").mkdir("bucket")
        assert outcome("s3://bucket/a.jpg", "s3://bucket") == ("not_found", False)
        assert outcome("s3://nowhere/a.jpg", "s3://nowhere") == ("not_found", False)


def test_no_credentials_cost_one_image(monkeypatch: pytest.MonkeyPatch, store: Site) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert outcome("s3://bucket/a.jpg", "s3://bucket") == ("unreadable", True)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket.jpg"))
        (tmp_path / "folder.jpg").mkdir()
        (tmp_path / "zero.jpg").symlink_to("/dev/zero")
        for name in ("pipe", "socket", "folder"):
            assert outcome(f"{tmp_path}/{name}.jpg", str(tmp_path)) == ("not_found", False)
        assert outcome(f"{tmp_path}/zero.jpg", "/") == ("not_found", False)


def test_many_addresses_do_not_multiply_the_time() -> None:
    """Of a name with ever so many, a few are tried: each may take the time that one attempt has to connect."""
    tried: list[str] = []

    class Recording:
        _dns_host, port = "host.example", 80

        def _new_conn(self) -> None:
            tried.append(self._dns_host)
            raise NewConnectionError(self, "no answer")  # type: ignore[arg-type]

    class Connection(PublicOnly, Recording):
        def _resolve(self, name: str) -> list[str]:
            return [f"93.184.216.{i}" for i in range(1, 200)]

    with pytest.raises(NewConnectionError):
        Connection()._new_conn()
    assert len(tried) == 3


@pytest.mark.parametrize(
    "path",
    ["/admin/..%2fpictures/x", "/pictures/..%5cadmin", "/pictures/..;/admin", "/pictures/%252e%252e/admin",
     "/pictures/%25252e%25252e%252fadmin", "/pictures/..\\admin", "/pictures/%" + "25" * 1000 + "2e"],
)  # fmt: skip
def test_a_path_that_some_servers_read_otherwise_is_not_below_a_prefix(path: str) -> None:
    assert not Prefix("http://host/pictures").covers(f"http://host{path}")
    assert Prefix("http://host").covers(f"http://host{path}")


@pytest.mark.parametrize(
    "path", ["/pictures/a%20b.jpg", "/pictures/a;v=1/b.jpg", "/pictures/a..b/..c.jpg", "/pictures/%41"]
)
def test_a_path_that_is_only_escaped_is_below_its_prefix(path: str) -> None:
    assert Prefix("http://host/pictures").covers(f"http://host{path}")


def test_a_control_character_in_a_url_of_an_object_store_is_refused() -> None:
    """Those who parse URLs drop it, and see another path than the one that was judged."""
    assert outcome("s3://bucket/ours/.\t./theirs", "s3://bucket/ours") == ("invalid_url", False)
