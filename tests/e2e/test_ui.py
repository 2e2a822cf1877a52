"""What most people will meet first: Airflow's own pages, in a real browser."""

import re
from urllib.parse import quote

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.e2e.conftest import SCREENSHOTS, log_in

pytestmark = pytest.mark.slow

RUN_TIMEOUT = 15 * 60_000  # milliseconds
# Enough for a report to look at; what is learnt in so little is not judged here.
QUICK = {"width": "64", "encoder_depth": "1", "decoder_depth": "1"}
REFUSED = "Invalid input for param epochs: 3.5 is not of type 'integer'"


def run_ids(page: Page) -> set[str]:
    runs = page.request.get("/api/v2/dags/image_captioning/dagRuns?limit=100").json()["dag_runs"]
    return {run["dag_run_id"] for run in runs}


def open_form(page: Page) -> Locator:
    page.goto("/dags")
    page.get_by_role("link", name="image_captioning", exact=True).click()
    expect(page.get_by_text("Latest Dag Version")).to_be_visible()  # The page before has such buttons, too.
    page.get_by_role("button", name="Trigger Dag").click()
    return page.get_by_role("dialog")


def open_section(form: Locator, name: str) -> None:
    form.get_by_role("button", name=name).click()


def trigger_button(form: Locator) -> Locator:
    return form.get_by_role("button", name="Trigger", exact=True)


def shoot(page: Page, name: str) -> None:
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


def test_nobody_comes_in_without_the_password(stranger: Page) -> None:
    log_in(stranger, "admin")
    expect(stranger.get_by_text(re.compile("Invalid (credentials|login)")).first).to_be_visible()
    for path in ("/dags", "/captionflow/report/image_captioning/some_run/evaluate"):
        stranger.goto(path)
        expect(stranger).to_have_url(re.compile("/auth/login"))


def test_every_dag_is_there_and_imported_without_error(page: Page) -> None:
    page.goto("/dags")
    for dag in ("image_captioning", "image_captioning_tfx", "image_captioning_vertex"):
        expect(page.get_by_role("link", name=dag, exact=True)).to_be_visible()
    assert page.request.get("/api/v2/importErrors").json()["import_errors"] == []
    expect(page.get_by_text("Dag Import Error")).to_have_count(0)
    shoot(page, "home")


def test_the_form_shows_the_common_fields_and_folds_the_others_by_step(page: Page) -> None:
    form = open_form(page)
    folded = [f"Advanced: {step}" for step in ("ingest", "validate", "preprocess", "train", "evaluate")]
    sections = ["Run Parameters", *folded, "Advanced Options"]
    expect(form.locator("[data-scope=accordion][data-part=item-trigger]")).to_have_text(sections)
    expect(form.get_by_role("spinbutton", name="epochs")).to_have_attribute("aria-valuemin", "1")
    expect(form.get_by_role("spinbutton", name="warmup_share")).to_be_hidden()
    expect(form.get_by_text("Passes over the training split, at most.")).to_be_visible()
    page.set_viewport_size({"width": 1400, "height": 2600})
    shoot(page, "form-first")
    open_section(form, "Advanced: train")
    expect(form.get_by_role("spinbutton", name="warmup_share")).to_be_visible()
    expect(form.get_by_role("combobox", name="device")).to_be_visible()


def test_the_form_takes_no_wrong_value(page: Page) -> None:
    form = open_form(page)
    before = run_ids(page)
    epochs = form.get_by_label("epochs")
    epochs.fill("0")
    epochs.press("Tab")
    expect(epochs).to_have_value("1")  # the nearest that can be
    epochs.fill("many")
    expect(epochs).to_have_value("1")
    epochs.fill("")
    epochs.press("Tab")
    expect(epochs).to_have_attribute("aria-invalid", "true")
    expect(trigger_button(form)).to_be_disabled()
    assert run_ids(page) == before


def test_the_form_stays_when_airflow_refuses_a_value(page: Page) -> None:
    form = open_form(page)
    before = run_ids(page)
    form.get_by_label("epochs").fill("3.5")
    with page.expect_response("**/dagRuns") as refused:
        trigger_button(form).click()
    assert refused.value.status == 400
    assert refused.value.json()["detail"].startswith(REFUSED)
    expect(page.get_by_text("Failed to Trigger Dag")).to_be_visible()
    expect(form.get_by_label("epochs")).to_have_value("3.5")
    assert run_ids(page) == before


def test_a_run_from_the_form_to_its_report(page: Page) -> None:
    form = open_form(page)
    before = run_ids(page)
    form.get_by_label("epochs").fill("2")
    open_section(form, "Advanced: train")  # which folds the others
    for field, value in QUICK.items():
        form.get_by_label(field).fill(value)
    form.get_by_label("width").evaluate("field => field.scrollIntoView({block: 'center'})")
    shoot(page, "form")
    with page.expect_response("**/dagRuns") as triggered:
        trigger_button(form).click()
    run_id = triggered.value.json()["dag_run_id"]
    assert run_ids(page) - before == {run_id}

    run = f"/dags/image_captioning/runs/{quote(run_id)}"
    page.goto(run)
    header = page.get_by_role("heading", name=run_id).locator("..")
    expect(header).to_contain_text(re.compile("Success|Failed"), timeout=RUN_TIMEOUT)
    expect(page.get_by_test_id("table-cell-state")).to_have_text(["Success"] * 5)
    page.goto(f"{run}/tasks/evaluate/details")
    with page.expect_popup() as popup:
        page.get_by_role("link", name="MLflow run").click()
    run_page = popup.value
    for shown in (run_id, "bleu_4", "learning_rate"):
        expect(run_page.get_by_text(shown).first).to_be_visible()
    shoot(run_page, "mlflow")
    shoot(page, "grid")

    page.get_by_role("link", name="Report").click()
    expect(page.get_by_role("heading", name="Evaluation on the test split")).to_be_visible()
    expect(page.locator(".metric", has_text="BLEU-4")).to_contain_text(re.compile(r"\d\.\d{3}"))
    widths = page.locator(".card img").evaluate_all("images => images.map(image => image.naturalWidth)")
    assert widths
    assert all(widths)
    shoot(page, "report")
