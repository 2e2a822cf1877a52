"""What most people will meet first: Airflow's own pages, in a real browser."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import SCREENSHOTS, log_in

pytestmark = pytest.mark.slow

RUN_SECONDS = 900
FORM = "/dags/image_captioning/trigger"
# Enough for a report to look at; what is learnt in so little is not judged here.
QUICK = {"epochs": "2", "width": "64", "encoder_depth": "1", "decoder_depth": "1"}


def run_ids(page: Page) -> set[str]:
    runs = page.request.get("/object/grid_data?dag_id=image_captioning&num_runs=365").json()["dag_runs"]
    return {run["run_id"] for run in runs}


def open_form(page: Page) -> None:
    page.goto(FORM)
    page.get_by_role("link", name="Train", exact=True).click()
    expect(page.locator("#element_epochs")).to_be_visible()


def shoot(page: Page, name: str) -> None:
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


def test_nobody_comes_in_without_the_password(stranger: Page) -> None:
    log_in(stranger, "admin")
    expect(stranger.get_by_text("Invalid login")).to_be_visible()
    for path in ("/home", "/captionflow/report/image_captioning/some_run/evaluate"):
        stranger.goto(path)
        expect(stranger).to_have_url(re.compile("/login/"))


def test_both_dags_are_there_and_imported_without_error(page: Page) -> None:
    page.goto("/home")
    for dag in ("image_captioning", "image_captioning_tfx"):
        expect(page.get_by_role("link", name=dag, exact=True)).to_be_visible()
    expect(page.get_by_text("DAG Import Error")).to_have_count(0)


@pytest.mark.parametrize(("field", "value"), [("epochs", "0"), ("epochs", ""), ("max_reject_ratio", "7")])
def test_the_form_refuses_a_wrong_value(page: Page, field: str, value: str) -> None:
    page.goto(FORM)
    before = run_ids(page)
    page.locator(f"#element_{field}").evaluate("(input, value) => { input.value = value }", value)
    page.locator(f"#element_{field}").dispatch_event("blur")
    page.get_by_role("button", name="Trigger", exact=True).click()
    expect(page).to_have_url(re.compile(FORM))
    assert run_ids(page) == before


def test_a_run_from_the_form_to_its_report(page: Page) -> None:
    open_form(page)
    before = run_ids(page)
    for field, value in QUICK.items():
        page.locator(f"#element_{field}").fill(value)
    shoot(page, "form")
    page.get_by_role("button", name="Trigger", exact=True).click()
    expect(page).to_have_url(re.compile("/dags/image_captioning/grid"))
    (run_id,) = run_ids(page) - before
    ...
