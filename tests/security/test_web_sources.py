"""Sources over the network: no way into it, no end of bytes or time, nothing left on the disk."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import fsspec
import pytest
from urllib3.exceptions import ReadTimeoutError

from captionflow.core.artifact import open_artifact
from captionflow.web.access import Access
from captionflow.web.client import Web, parse
from tests.s3 import serve_s3
from tests.servers import Site, send
from tests.test_ingest import COCO_CAPTIONS, coco, run
from tests.test_ingest_bad_input import refused

pytestmark = pytest.mark.security

INGEST = [sys.executable, "-m", "captionflow", "ingest"]


def redirect(location: str) -> Callable[[BaseHTTPRequestHandler], None]:
    return lambda handler: send(handler, b"", 302, Location=location)


def endless(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    with suppress(OSError):
        while True:
            handler.wfile.write(b"x" * 1_000_000)


def trickling(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    with suppress(OSError):
        for _ in range(200):
            handler.wfile.write(b"x")
            time.sleep(0.05)


def slow_to_begin(handler: BaseHTTPRequestHandler) -> None:
    with suppress(OSError):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        for _ in range(200):
            handler.wfile.write(b"x")
            time.sleep(0.05)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1"])
def test_a_source_inside_the_network_is_refused_unread(tmp_path: Path, site: Site, host: str) -> None:
    site.pages["/secret.json"] = coco()
    url = site.url.replace("127.0.0.1", host) + "/secret.json"
    assert "--allow-url-prefix or --allow-host" in refused(tmp_path, url)
    assert not site.hits


@pytest.mark.parametrize("opened", [{"allow_host": ("127.0.0.1",)}, {"allow_url_prefix": ("{url}/open",)}])
def test_a_source_inside_the_network_may_be_opened(tmp_path: Path, site: Site, opened: dict[str, Any]) -> None:
    site.pages["/open/captions.json"] = coco()
    opened = {name: tuple(value.format(url=site.url) for value in values) for name, values in opened.items()}
    assert run(tmp_path, f"{site.url}/open/captions.json", **opened) == (COCO_CAPTIONS, [])


def test_a_redirect_is_judged_anew(tmp_path: Path, site: Site) -> None:
    by_name = site.url.replace("127.0.0.1", "localhost")
    site.pages |= {"/secret": coco(), "/in": redirect(f"{by_name}/secret"), "/out": redirect("/secret")}
    opened = {"allow_url_prefix": (f"{site.url}/in", f"{site.url}/out")}
    assert "no public address" in refused(tmp_path, f"{site.url}/in", **opened)
    assert "no public address" in refused(tmp_path, f"{site.url}/out", **opened)
    assert site.hits["/secret"] == 0
    assert run(tmp_path, f"{site.url}/in", allow_host=("127.0.0.1", "localhost")) == (COCO_CAPTIONS, [])


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "ftp://127.0.0.1/x", "s3://bucket/x", "http:///x", "http://[/"]
)
def test_a_redirect_leads_nowhere_but_to_the_web(tmp_path: Path, site: Site, location: str) -> None:
    site.pages["/a"] = redirect(location)
    refused(tmp_path, f"{site.url}/a", allow_host=("127.0.0.1",))


def test_redirects_without_end_are_left(tmp_path: Path, site: Site) -> None:
    site.pages["/a"] = redirect("/a")
    assert "redirects" in refused(tmp_path, f"{site.url}/a", allow_host=("127.0.0.1",))
    assert site.hits["/a"] == 6


@pytest.mark.parametrize("url", ["http:///x", "https://:80/", "http://[::1/x", "http://h:0/x", "http://a b/x"])
def test_a_url_that_makes_no_sense_is_one_line(tmp_path: Path, url: str) -> None:
    refused(tmp_path, url)


@contextmanager
def ingesting(url: str, folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Ingest in a process of its own, whose temporary files are all in `folder`/tmp."""
    (folder / "tmp").mkdir()
    with subprocess.Popen(
        [*INGEST, "--sources", url, "--output", str(folder / "out"), "--allow-host", "127.0.0.1", *options],
        env=os.environ | {"TMPDIR": str(folder / "tmp")}, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("page", "option"),
    [
        (endless, "--max-source-megabytes=20"),
        (trickling, "--max-source-seconds=0.5"),
        (slow_to_begin, "--max-source-seconds=0.5"),
    ],
)
def test_a_source_without_end_is_left_at_the_limit(tmp_path: Path, site: Site, page: Any, option: str) -> None:
    site.pages["/a"] = page
    with ingesting(f"{site.url}/a", tmp_path, option) as process:
        error = process.communicate(timeout=60)[1]
    assert process.returncode == 2
    assert f"{option.partition('=')[0]}: {site.url}/a " in error.splitlines()[-1]
    assert "Traceback" not in error
    assert not any((tmp_path / "tmp").iterdir())


def test_a_server_that_falls_silent_is_given_up_before_its_time_is_over(site: Site) -> None:
    def fall_silent(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
        time.sleep(2)

    site.pages["/a"] = fall_silent
    web = Web(Access((), frozenset({"127.0.0.1"})), {}, idle_timeout=0.3)
    response = web.get(parse(f"{site.url}/a"), time.monotonic() + 600)
    with pytest.raises(ReadTimeoutError):
        response.read(9)


def test_redirects_do_not_give_more_time(tmp_path: Path, site: Site) -> None:
    def slowly_on(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(0.3)
        send(handler, b"", 302, Location=f"{handler.path}a")

    site.pages |= {"/" + "a" * n: slowly_on for n in range(1, 9)}
    message = f"--max-source-seconds: {site.url}/a "
    with ingesting(f"{site.url}/a", tmp_path, "--max-source-seconds=0.5") as process:
        assert message in process.communicate(timeout=60)[1]
    assert site.hits.total() < 6


def test_a_kill_leaves_nothing_on_the_disk(tmp_path: Path, site: Site) -> None:
    site.pages["/a"] = endless
    with ingesting(f"{site.url}/a", tmp_path) as process:
        written = 0
        while written < 20_000_000:
            time.sleep(0.05)
            with suppress(OSError):
                written = int(Path(f"/proc/{process.pid}/io").read_text().split("wchar: ")[1].split()[0])
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not any((tmp_path / "tmp").iterdir())


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with serve_s3() as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        fs = fsspec.filesystem("s3", skip_instance_cache=True)
        fs.mkdir("sources")
        yield fs


def test_a_bound_on_the_size_holds_for_object_stores(tmp_path: Path, s3: Any) -> None:
    s3.pipe({"sources/large.json": bytes(3_000_000), "sources/captions.json": coco()})
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with ingesting("s3://sources/large.json", tmp_path, "--max-source-megabytes=2") as process:
        error = process.communicate(timeout=60)[1]
    assert (process.returncode, error.count("\n")) == (2, 1)
    assert "--max-source-megabytes: s3://sources/large.json is larger than 2 MB" in error
    assert run(tmp_path, "s3://sources/captions.json", max_source_megabytes=2) == (COCO_CAPTIONS, [])
    assert open_artifact(str(tmp_path / "out")).manifest.parents[0].uri == "s3://sources/captions.json"


def test_a_pipe_or_a_device_is_no_source(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        assert "is not a file" in refused(tmp_path, str(path))
