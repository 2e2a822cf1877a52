"""robots.txt: what is respected of it, and how often it is asked for."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.servers import Site, send
from tests.test_fetch import failure, fetched, fetcher

FORBIDDEN = b"User-agent: *\nDisallow: /private/\nAllow: /private/but-this.jpg\n"


@pytest.fixture
def pictures(site: Site) -> Site:
    site.pages |= {"/a.jpg": b"image", "/private/a.jpg": b"image", "/private/but-this.jpg": b"image"}
    return site


def test_by_default_nobody_asks_for_it(pictures: Site) -> None:
    pictures.pages["/robots.txt"] = FORBIDDEN
    assert fetched(fetcher(pictures.url), f"{pictures.url}/private/a.jpg") == b"image"
    assert "/robots.txt" not in pictures.hits


def test_what_it_forbids_is_not_asked_for(pictures: Site) -> None:
    pictures.pages["/robots.txt"] = FORBIDDEN
    fetch = fetcher(pictures.url, robots_txt="respect")
    error = failure(fetch, f"{pictures.url}/private/a.jpg")
    assert (error.reason, error.retryable) == ("robots_txt", False)
    for path in ("/a.jpg", "/private/but-this.jpg"):
        assert fetched(fetch, f"{pictures.url}{path}") == b"image"
    assert "/private/a.jpg" not in pictures.hits


def test_a_redirect_does_not_lead_past_it(pictures: Site) -> None:
    pictures.pages |= {
        "/robots.txt": FORBIDDEN,
        "/to": lambda handler: send(handler, b"", 302, Location="/private/a.jpg"),
    }
    assert failure(fetcher(pictures.url, robots_txt="respect"), f"{pictures.url}/to").reason == "robots_txt"
    assert "/private/a.jpg" not in pictures.hits


def test_it_is_read_once_for_all_threads(pictures: Site) -> None:
    pictures.pages["/robots.txt"] = FORBIDDEN
    fetch = fetcher(pictures.url, robots_txt="respect")
    with ThreadPoolExecutor(16) as threads:
        images = list(threads.map(lambda _: fetched(fetch, f"{pictures.url}/a.jpg"), range(64)))
    assert images == [b"image"] * 64
    assert pictures.hits["/robots.txt"] == 1


@pytest.mark.parametrize(
    ("user_agent", "is_forbidden"),
    [("CaptionFlow (image dataset)", True), ("captionflow/2.0 me@example.org", True), ("Other CaptionFlow", False)],
)
def test_rules_for_one_robot_hold_for_the_first_word_of_its_name(
    pictures: Site, user_agent: str, is_forbidden: bool
) -> None:
    pictures.pages["/robots.txt"] = b"User-agent: CaptionFlow\nDisallow: /\n\nUser-agent: *\nDisallow:\n"
    fetch = fetcher(pictures.url, robots_txt="respect", user_agent=user_agent)
    if is_forbidden:
        assert failure(fetch, f"{pictures.url}/a.jpg").reason == "robots_txt"
    else:
        assert fetched(fetch, f"{pictures.url}/a.jpg") == b"image"


@pytest.mark.parametrize("status", [403, 404, 410])
def test_where_there_is_none_all_is_allowed(pictures: Site, status: int) -> None:
    pictures.pages["/robots.txt"] = lambda handler: send(handler, b"User-agent: *\nDisallow: /", status)
    assert fetched(fetcher(pictures.url, robots_txt="respect"), f"{pictures.url}/a.jpg") == b"image"


def test_while_it_cannot_be_read_nothing_is_fetched(pictures: Site) -> None:
    pictures.pages["/robots.txt"] = lambda handler: send(handler, b"", 503)
    fetch = fetcher(pictures.url, robots_txt="respect", fetch_retries=0)
    error = failure(fetch, f"{pictures.url}/a.jpg")
    assert (error.reason, error.retryable) == ("http_503", True)
    assert str(error).startswith("robots.txt: ")
    assert "/a.jpg" not in pictures.hits
    pictures.pages["/robots.txt"] = FORBIDDEN
    assert fetched(fetch, f"{pictures.url}/a.jpg") == b"image"


@pytest.mark.security
def test_a_file_that_would_fill_the_memory_forbids_all(pictures: Site) -> None:
    robots = b"".join(b"User-agent: %d\n" % i for i in range(10_000))
    pictures.pages["/robots.txt"] = robots + b"".join(b"Allow: /%d\n" % i for i in range(10_000))
    assert failure(fetcher(pictures.url, robots_txt="respect"), f"{pictures.url}/a.jpg").reason == "robots_txt"


@pytest.mark.security
def test_a_host_inside_the_network_is_not_asked_for_it(pictures: Site) -> None:
    assert failure(fetcher(robots_txt="respect"), f"{pictures.url}/a.jpg").reason == "url_not_allowed"
    assert not pictures.hits
