"""A stack to use and a browser to use it with.

CAPTIONFLOW_E2E_URL and CAPTIONFLOW_E2E_PASSWORD name a running one; without them one is started here.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, StorageState, expect, sync_playwright

from tests.e2e.local_stack import Stack, local_stack, postgres_programs

SCREENSHOTS = Path(os.environ.get("CAPTIONFLOW_SCREENSHOTS", Path(__file__).parents[2] / "build" / "screenshots"))
CHROMIUM = shutil.which("chromium")
# Chromium asks its maker's hosts for this and that; and it has no sandbox for root.
ARGUMENTS = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"]

TIMEOUT = 180_000  # milliseconds, for a machine that does other things as well


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A Chromium without a window."""
    if CHROMIUM is None:
        pytest.skip("Debian's chromium is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def stack(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The Airflow to use."""
    if url := os.environ.get("CAPTIONFLOW_E2E_URL"):
        yield Stack(url, os.environ["CAPTIONFLOW_E2E_PASSWORD"])
        return
    programs = postgres_programs()
    if programs is None:
        pytest.skip("Debian's postgresql is not installed")
    with local_stack(tmp_path_factory.mktemp("stack"), programs) as running:
        yield running


@contextmanager
def new_page(browser: Browser, stack: Stack, state: StorageState | None = None) -> Iterator[Page]:
    """Open a page with cookies of its own."""
    context = browser.new_context(base_url=stack.url, viewport={"width": 1400, "height": 900}, storage_state=state)
    context.set_default_timeout(TIMEOUT)
    expect.set_options(timeout=TIMEOUT)
    yield context.new_page()
    context.close()


@pytest.fixture
def stranger(browser: Browser, stack: Stack) -> Iterator[Page]:
    """A page of somebody who has not logged in."""
    with new_page(browser, stack) as page:
        yield page


@pytest.fixture(scope="session")
def logged_in(browser: Browser, stack: Stack) -> StorageState:
    """The cookies of the admin: FAB refuses more than five logins in 40 seconds."""
    with new_page(browser, stack) as page:
        log_in(page, stack.password)
        page.wait_for_url(lambda url: "/auth/login" not in url)
        return page.context.storage_state()


@pytest.fixture
def page(browser: Browser, stack: Stack, logged_in: StorageState, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page of the admin; a picture of how it stood at the end is kept."""
    with new_page(browser, stack, logged_in) as page:
        yield page
        page.screenshot(path=SCREENSHOTS / f"{request.node.name}.png")


def log_in(page: Page, password: str) -> None:
    """Fill the login form, of whichever auth manager it is, and send it."""
    page.goto("/dags")
    page.get_by_label("Username").fill("admin")
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()
