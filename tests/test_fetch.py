"""Fetching over real HTTP and from files: what is fetched, what is refused, what is tried again."""

import contextlib
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from captionflow.images.attempts import Attempts, FetchError, TransientError
from captionflow.images.fetch import Fetcher
from captionflow.preprocess.parameters import PreprocessParameters
from captionflow.web.access import Prefix
from tests.servers import Site, send


def fetcher(*prefixes: str, **parameters: object) -> Fetcher:
    return Fetcher(PreprocessParameters(allow_url_prefix=prefixes, **parameters))


def fetched(fetch: Fetcher, url: str) -> bytes:
    attempts = Attempts(url)
    while True:
        try:
            with fetch.fetch(attempts) as data:
                return data
        except TransientError as transient:
            time.sleep(transient.backoff)


def failure(fetch: Fetcher, url: str) -> FetchError:
    with pytest.raises(FetchError) as caught:
        fetched(fetch, url)
    return caught.value


def redirect_to(location: str):
    return lambda handler: send(handler, b"", 302, Location=location)


def break_off(handler: BaseHTTPRequestHandler) -> None:
    """Promise a thousand bytes, send nine, hang up."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b"only this")
    handler.close_connection = True


def test_an_image_is_fetched_once(site: Site) -> None:
    site.pages["/a.jpg"] = b"bytes"
    assert fetched(fetcher(site.url), f"{site.url}/a.jpg") == b"bytes"
    assert site.hits["/a.jpg"] == 1


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "0"]
)
def test_no_spelling_of_an_inner_address_gets_through(site: Site, host: str) -> None:
    site.pages["/secret"] = b"secret"
    port = site.url.rpartition(":")[2]
    error = failure(fetcher(fetch_retries=0, fetch_timeout=2.0), f"http://{host}:{port}/secret")
    assert error.reason in {"url_not_allowed", "connection_failed", "invalid_url"}
    assert site.hits["/secret"] == 0


def test_a_redirect_inwards_is_refused(site: Site) -> None:
    # The prefix opens one path of the server; the rest of it is as closed as any inner address.
    site.pages["/open/a.jpg"] = redirect_to("/inner/secret")
    site.pages["/inner/secret"] = b"secret"
    assert failure(fetcher(f"{site.url}/open/"), f"{site.url}/open/a.jpg").reason == "url_not_allowed"
    assert site.hits["/inner/secret"] == 0


def test_redirects_are_followed_five_times(site: Site) -> None:
    for i in range(6):
        site.pages[f"/{i}"] = redirect_to(f"/{i + 1}")
    site.pages["/6"] = b"image"
    assert fetched(fetcher(site.url), f"{site.url}/1") == b"image"
    assert failure(fetcher(site.url), f"{site.url}/0").reason == "too_many_redirects"


@pytest.mark.parametrize("target", ["file:///etc/passwd", "gopher://x/", "ftp://x/"])
def test_a_redirect_away_from_http_is_refused(site: Site, target: str) -> None:
    site.pages["/a"] = redirect_to(target)
    assert failure(fetcher(site.url, "/etc"), f"{site.url}/a").reason == "url_not_allowed"


def test_a_passing_failure_is_tried_again(site: Site) -> None:
    def flapping(handler: BaseHTTPRequestHandler) -> None:
        first = site.hits["/a.jpg"] == 1
        send(handler, b"busy" if first else b"image", 503 if first else 200, Retry_After="0")

    site.pages["/a.jpg"] = flapping
    assert fetched(fetcher(site.url), f"{site.url}/a.jpg") == b"image"


@pytest.mark.parametrize(("status", "retryable"), [(404, False), (403, False), (410, False), (429, True), (503, True)])
def test_a_lasting_failure_says_whether_later_may_help(site: Site, status: int, retryable: bool) -> None:
    site.pages["/a.jpg"] = lambda handler: send(handler, b"no", status, Retry_After="0")
    error = failure(fetcher(site.url, fetch_retries=1), f"{site.url}/a.jpg")
    assert (error.reason, error.retryable) == (f"http_{status}", retryable)
    assert site.hits["/a.jpg"] == (2 if retryable else 1)


def test_a_slow_server_times_out(site: Site) -> None:
    site.pages["/slow"] = lambda handler: time.sleep(1.0)
    error = failure(fetcher(site.url, fetch_timeout=0.2, fetch_retries=0), f"{site.url}/slow")
    assert (error.reason, error.retryable) == ("timeout", True)


def test_a_body_that_trickles_times_out(site: Site) -> None:
    def trickle(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000000")
        handler.end_headers()
        with contextlib.suppress(OSError):
            for _ in range(40):
                handler.wfile.write(b"x")
                time.sleep(0.1)

    site.pages["/trickle"] = trickle
    assert failure(fetcher(site.url, fetch_timeout=0.4, fetch_retries=0), f"{site.url}/trickle").reason == "timeout"


def test_a_body_cut_short_is_noticed(site: Site) -> None:
    site.pages["/cut"] = break_off
    error = failure(fetcher(site.url), f"{site.url}/cut")
    assert (error.reason, error.retryable) == ("body_broke_off", True)


def test_too_large_and_empty_are_refused(site: Site) -> None:
    site.pages["/large"] = b"x" * 1_000_001
    site.pages["/empty"] = b""
    assert failure(fetcher(site.url, max_image_megabytes=1), f"{site.url}/large").reason == "too_large"
    assert failure(fetcher(site.url), f"{site.url}/empty").reason == "empty"


def test_a_dead_host_is_retryable() -> None:
    error = failure(fetcher("http://127.0.0.1:9", fetch_retries=0), "http://127.0.0.1:9/a.jpg")
    assert (error.reason, error.retryable) == ("connection_failed", True)


@pytest.mark.parametrize("url", ["http://", "http://[", "http://a b/", "nonsense://x", "", "://", "http://\x00/"])
def test_a_url_that_makes_no_sense_is_a_plain_failure(url: str) -> None:
    assert failure(fetcher(fetch_retries=0), url).reason in {"invalid_url", "url_not_allowed", "connection_failed"}


def test_local_files_are_open_only_under_a_prefix(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(b"image")
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "images" / "link.jpg").symlink_to(tmp_path / "secret")
    allowed = fetcher(f"{tmp_path}/images")
    assert fetched(allowed, f"{tmp_path}/images/a.jpg") == b"image"
    assert fetched(allowed, f"file://{tmp_path}/images/a.jpg") == b"image"
    for url in ("secret", "images/../secret", "images/link.jpg", "images-of-others/a.jpg"):
        assert failure(allowed, f"{tmp_path}/{url}").reason == "url_not_allowed"
        assert failure(allowed, f"file://{tmp_path}/{url}").reason == "url_not_allowed"
    assert failure(fetcher(), f"{tmp_path}/images/a.jpg").reason == "url_not_allowed"
    assert failure(allowed, f"{tmp_path}/images/missing.jpg").reason == "not_found"


@pytest.mark.parametrize(
    ("prefix", "url"),
    [
        ("http://h/my%20pics", "http://h/my%20pics/a.jpg"),
        ("http://h/my pics/", "http://h/my%20pics/a.jpg"),
        ("http://h:80/p", "http://h/p/a.jpg"),
        ("https://H/p", "https://h:443/p"),
    ],
)
def test_a_prefix_may_be_spelt_otherwise(prefix: str, url: str) -> None:
    assert Prefix(prefix).covers(url)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:80800/a", "http://127.0.0.1.evil.example/a", "http://127.0.0.1:8080@evil.example/a"]
)
def test_a_prefix_does_not_open_what_only_begins_alike(url: str) -> None:
    assert not Prefix("http://127.0.0.1:8080").covers(url)


@pytest.mark.parametrize("first", ["/gone", "/large", "/moved"])
def test_an_unread_answer_does_not_spoil_the_next(site: Site, first: str) -> None:
    site.pages["/gone"] = lambda handler: send(handler, b"x" * 3_000_000, 404)
    site.pages["/large"] = b"x" * 3_000_000
    site.pages["/moved"] = lambda handler: send(handler, b"x" * 3_000_000, 302, Location="/gone")
    site.pages["/good"] = b"image"
    fetch = fetcher(site.url, fetch_concurrency=1, fetch_retries=0, max_image_megabytes=1)
    for _ in range(3):
        assert failure(fetch, site.url + first).reason in {"http_404", "too_large"}
        assert fetched(fetch, f"{site.url}/good") == b"image"


def test_a_body_that_broke_off_is_fetched_again(site: Site) -> None:
    def cut_once(handler: BaseHTTPRequestHandler) -> None:
        if site.hits["/a.jpg"] > 1:
            send(handler, b"image")
        else:
            break_off(handler)

    site.pages["/a.jpg"] = cut_once
    assert fetched(fetcher(site.url), f"{site.url}/a.jpg") == b"image"


@pytest.mark.parametrize(("tag", "refused"), [("noai", True), ("bot: NoImageAI, noindex", True), ("noindex", False)])
def test_robots_tags_are_respected_unless_told_otherwise(site: Site, tag: str, refused: bool) -> None:
    site.pages["/a.jpg"] = lambda handler: send(handler, b"image", X_Robots_Tag=tag)
    if refused:
        assert failure(fetcher(site.url), f"{site.url}/a.jpg").reason == "robots_tag"
    else:
        assert fetched(fetcher(site.url), f"{site.url}/a.jpg") == b"image"
    assert fetched(fetcher(site.url, x_robots_tag="ignore"), f"{site.url}/a.jpg") == b"image"
    assert failure(fetcher(site.url, x_robots_tag="strict"), f"{site.url}/a.jpg").reason == "robots_tag"


def test_the_user_agent_can_be_set(site: Site) -> None:
    site.pages["/a.jpg"] = lambda handler: send(handler, handler.headers["User-Agent"].encode())
    assert fetched(fetcher(site.url, user_agent="me@example.org"), f"{site.url}/a.jpg") == b"me@example.org"
    assert fetched(fetcher(site.url), f"{site.url}/a.jpg").startswith(b"CaptionFlow")
