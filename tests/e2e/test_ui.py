"""What most people will meet first: Airflow's own pages, in a real browser."""

import re
import subprocess
from collections import defaultdict
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import SCREENSHOTS, log_in
from tests.e2e.local_stack import Stack

pytestmark = pytest.mark.slow

RUN_TIMEOUT = 15 * 60_000  # milliseconds
# Enough for a report to look at; what is learnt in so little is not judged here.
QUICK = {"epochs": "2", "width": "64", "encoder_depth": "1", "decoder_depth": "1"}


def run_ids(page: Page) -> set[str]:
    runs = page.request.get("/object/grid_data?dag_id=image_captioning&num_runs=365").json()["dag_runs"]
    return {run["run_id"] for run in runs}


def open_form(page: Page, section: str) -> None:
    page.goto("/home")
    page.get_by_role("link", name="image_captioning", exact=True).click()
    page.get_by_label("Trigger DAG").first.click()
    page.wait_for_url(re.compile("/trigger"))  # loaded whole: a section opens by script
    page.get_by_role("link", name=section).click()


def trigger(page: Page) -> None:
    page.get_by_role("button", name="Trigger", exact=True).click()


def shoot(page: Page, name: str) -> None:
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


def test_nobody_comes_in_without_the_password(stranger: Page) -> None:
    log_in(stranger, "admin")
    expect(stranger.get_by_text("Invalid login")).to_be_visible()
    for path in ("/home", "/captionflow/report/image_captioning/some_run/evaluate"):
        stranger.goto(path)
        expect(stranger).to_have_url(re.compile("/login/"))


def test_webserver_processes_share_no_database_connection(stack: Stack) -> None:
    """One of two that ask at the same moment would get both answers, the other none: its pages hang."""
    if stack.process_group is None:
        pytest.skip("the stack was not started here")
    rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    connected = {f"socket:[{row[6]}]" for row in rows if row[5] == "03"}
    owners: dict[str, set[str]] = defaultdict(set)
    found = ["pgrep", "--pgroup", str(stack.process_group), "--full", "airflow-webserver"]
    pids = subprocess.run(found, check=True, capture_output=True, text=True).stdout.split()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            owners[str(descriptor.readlink())].add(pid)
    assert len(pids) > 1
    assert [owners[socket] for socket in connected if len(owners[socket]) > 1] == []


def test_every_dag_is_there_and_imported_without_error(page: Page) -> None:
    page.goto("/home")
    for dag in ("image_captioning", "image_captioning_tfx", "image_captioning_vertex"):
        expect(page.get_by_role("link", name=dag, exact=True)).to_be_visible()
    expect(page.get_by_text("DAG Import Error")).to_have_count(0)
    shoot(page, "home")


def test_the_form_refuses_a_wrong_value_before_it_is_sent(page: Page) -> None:
    open_form(page, "3 Train")
    before = run_ids(page)
    page.locator("#element_epochs").fill("0")
    trigger(page)
    expect(page.locator("#element_epochs:invalid")).to_be_focused()
    assert run_ids(page) == before


def test_the_form_comes_back_with_what_was_wrong(page: Page) -> None:
    open_form(page, "1 Ingest")
    before = run_ids(page)
    page.locator("#element_max_reject_ratio").fill("7")
    trigger(page)
    expect(page.get_by_text("max_reject_ratio: 7 is greater than the maximum of 1")).to_be_visible()
    assert run_ids(page) == before


def test_a_run_from_the_form_to_its_report(page: Page) -> None:
    open_form(page, "3 Train")
    before = run_ids(page)
    for field, value in QUICK.items():
        page.locator(f"#element_{field}").fill(value)
    page.locator("#element_patience").evaluate("field => field.scrollIntoView({block: 'center'})")
    shoot(page, "form")
    trigger(page)
    page.wait_for_url(re.compile("/dags/image_captioning/grid"))
    (run_id,) = run_ids(page) - before

    page.goto(f"/dags/image_captioning/grid?dag_run_id={quote(run_id, safe='')}")
    expect(page.get_by_role("row", name="Status success")).to_be_visible(timeout=RUN_TIMEOUT)
    page.goto(f"{page.url}&task_id=evaluate")
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
