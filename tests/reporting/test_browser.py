"""What a person sees: the report and MLflow's own UI, in a real browser."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from patience import PATIENCE, until
from stored_populations import copy_empty, working_in

import pbt_flow
from pbt_flow.commands.publish import write

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: pip install playwright"
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: apt-get install chromium"),
    # Chromium and playwright leave their pipes to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
MILLISECONDS = PATIENCE * 1000
"""MLflow's UI and a report of 5 MB take seconds on a busy machine."""


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        # In a container there is no room for chromium's own sandbox.
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def result(migrated_database, tmp_path_factory):
    """A population that the tests look at and leave as it is."""
    folder = tmp_path_factory.mktemp("looked-at")
    copy_empty(migrated_database, folder)
    with working_in(folder):
        return pbt_flow.run(
            "sample_tasks:Regression", population=12, turns=4, engine="inline", quiet=True
        )


@pytest.fixture(scope="module")
def ui(result, tmp_path_factory):
    """The address of an MLflow UI on the store."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    log = tmp_path_factory.mktemp("ui") / "server.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [*command, "--backend-store-uri", result.tracking_uri],
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"

    def answers():
        assert process.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(f"{address}/health", timeout=5).close()
        except OSError:
            return False
        return True

    until(answers, "the UI does not start")
    yield address
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_draws_every_chart_without_a_network(browser, tmp_path, scheme):
    from report_subjects import subject

    page_path = write(subject(population=8, control=True), tmp_path)[0]
    page = browser.new_page(color_scheme=scheme, viewport={"width": 1200, "height": 2500})
    wrong: list[str] = []
    asked: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    page.on("request", lambda request: asked.append(request.url))
    page.goto(page_path.as_uri())
    page.wait_for_selector("body[data-drawn]", timeout=MILLISECONDS)
    charts = page.locator(".chart")
    assert charts.count() == 8
    for index in range(8):
        assert charts.nth(index).locator("svg.main-svg").count() > 0
        width = charts.nth(index).bounding_box()["width"]
        assert charts.nth(index).locator("svg.main-svg").first.bounding_box()["width"] <= width + 1
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert wrong == []
    # The page goes dark with the system, and so do its charts.
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
    # A metric whose name is wider than its card goes on in the next line.
    page.evaluate("document.querySelector('.card').append('a_metric_of_a_long_name='.repeat(9))")
    assert page.evaluate(
        "[...document.querySelectorAll('.card')].every(c => c.scrollWidth <= c.clientWidth)"
    )
    # A click sorts the table.
    first = "document.querySelector('#members tbody tr td').textContent"
    page.click("#members th:first-child")
    page.click("#members th:first-child")
    assert page.evaluate(first) == "00"
    page.click("#members th:first-child")
    assert page.evaluate(first) == "07"
    # So does the keyboard, and a screen reader is told.
    page.focus("#members th:nth-child(1) button")
    page.keyboard.press("Enter")
    assert page.evaluate(first) == "00"
    assert page.get_attribute("#members th:first-child", "aria-sort") == "ascending"
    assert page.locator("[aria-sort]").count() == 1
    with page.expect_download() as saved:
        page.click("#csv")
    lines = Path(saved.value.path()).read_text().splitlines()
    assert lines[0].startswith("member,score,turns,step,founder")
    assert [line.split(",")[0] for line in lines[1:]] == [f"{n:02d}" for n in range(8)]
    page.hover("#scores")
    assert page.locator("#scores .modebar-btn").count() == 2
    # The numbers of a chart unfold without a mouse.
    page.focus(".words summary")
    page.keyboard.press("Enter")
    assert page.locator(".words[open] table").count() == 1
    # One switch leaves the winner's line alone in all charts that it concerns.
    opacities = "(id) => document.getElementById(id).data.map((trace) => trace.opacity ?? 1)"
    assert set(page.evaluate(opacities, "tree")) == {1}
    page.focus(".fade")
    page.keyboard.press("Space")
    assert page.locator(".fade:checked").count() == 3
    for chart in ("scores", "hparam-0", "tree"):
        assert {value < 1 for value in page.evaluate(opacities, chart)} == {True, False}
    # On paper the page is light, and no chart is wider than it.
    page.set_viewport_size({"width": 700, "height": 900})
    page.emulate_media(media="print", color_scheme=scheme)
    fits = (
        "[...document.querySelectorAll('.chart')].every("
        "c => c.querySelector('svg').clientWidth <= c.clientWidth + 1 && "
        "c.querySelector('svg').clientHeight <= c.clientHeight + 1)"
    )
    deadline = time.monotonic() + PATIENCE
    while not page.evaluate(fits):
        assert time.monotonic() < deadline, "a chart is wider or higher than its place on paper"
        page.wait_for_timeout(50)
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == "rgb(255, 255, 255)"
    grid = page.evaluate("getComputedStyle(document.querySelector('#scores .xtick text')).fill")
    assert grid == "rgb(93, 104, 117)"
    # What is folded on the screen, and what the mouse is for, would be nothing on paper.
    settings = "section > details:not(.words)"
    assert page.locator(f"{settings}[open] dl").is_visible()
    assert not page.locator(".sorts").is_visible()
    page.emulate_media(media="screen", color_scheme=scheme)
    page.locator(f"{settings}:not([open])").wait_for(timeout=MILLISECONDS)
    # A phone has room for the colours of the scores between their ends.
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.locator(".scale").first.bounding_box()["height"] < 30


def test_the_report_draws_inside_mlflows_artifact_view(browser, ui, result):
    experiment = result.charts.split("/")[2]
    page = browser.new_page(viewport={"width": 1500, "height": 1100})
    page.goto(f"{ui}/#/experiments/{experiment}/runs/{result.run_id}/artifacts/report/index.html")
    frame = page.frame_locator("iframe")
    frame.locator("body[data-drawn]").wait_for(timeout=MILLISECONDS)
    assert frame.locator(".chart svg.main-svg").count() >= 8
    assert frame.locator("h1").inner_text() == result.headline


def test_the_saved_view_opens_with_all_members_and_its_sections(browser, ui, result):
    page = browser.new_page(viewport={"width": 1700, "height": 2600})
    page.goto(f"{ui}/{result.charts}")
    page.get_by_text("member-11").first.wait_for(timeout=MILLISECONDS)
    for section in ("Score", "Hyperparameters", "Lineage"):
        page.locator(f":text('{section}') >> visible=true").first.wait_for(timeout=MILLISECONDS)
    chart = page.locator(".js-plotly-plot").first
    chart.wait_for(timeout=MILLISECONDS)
    page.wait_for_function(
        "document.querySelectorAll('.js-plotly-plot .scatterlayer .trace').length >= 12",
        timeout=MILLISECONDS,
    )
    folder = os.environ.get("PBT_FLOW_SCREENSHOTS")
    if folder:
        page.screenshot(path=Path(folder, "view.png"))


def test_the_row_of_the_population_unfolds_its_members(browser, ui, result):
    page = browser.new_page(viewport={"width": 1500, "height": 1000})
    experiment = result.charts.split("/")[2]
    page.goto(f"{ui}/#/experiments/{experiment}/runs?workflowType=machine_learning")
    row = page.get_by_role("gridcell").filter(has_text="sample_tasks pbt")
    row.wait_for(timeout=MILLISECONDS)
    members = page.get_by_role("link", name="member-")
    assert members.count() == 0
    row.get_by_role("button").click()
    members.last.wait_for(timeout=MILLISECONDS)
    assert sorted(members.all_inner_texts()) == [f"member-{index:02d}" for index in range(12)]
    folder = os.environ.get("PBT_FLOW_SCREENSHOTS")
    if folder:
        page.screenshot(path=Path(folder, "runs.png"))
