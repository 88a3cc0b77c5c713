"""The pictures of docs/tour.md, from a population in an MLflow UI that is running.

    PYTHONPATH=. python docs/pictures/make.py RUN_ID [http://127.0.0.1:5000]
    PYTHONPATH=. python docs/pictures/make.py report    # that of docs/reading.md; trains it first

It needs playwright, chromium and pillow.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from io import BytesIO
from pathlib import Path

import mlflow
from mlflow.tracking import MlflowClient
from PIL import Image
from playwright.sync_api import Browser, Page, Playwright, sync_playwright

HERE = Path(__file__).parent
PATIENCE = 120_000
"""Milliseconds: MLflow's UI and a report of 5 MB take seconds on a busy machine."""


def keep(picture: Image.Image, name: str) -> None:
    """Write a picture in few colours, which makes it small."""
    few = picture.convert("RGB").quantize(128, dither=Image.Dither.NONE)
    few.save(HERE / name, optimize=True)


def shoot(page: Page) -> Image.Image:
    """The page as it is shown, without what is MLflow's own business."""
    close = page.locator("[data-component-id='mlflow.assistant.chat_panel.close']")
    if close.count():
        close.first.click()
    page.wait_for_timeout(3000)  # until the charts have found their new widths
    return Image.open(BytesIO(page.screenshot()))


def browser(started: Playwright) -> Browser:
    """Chromium; in a container there is no room for its own sandbox."""
    return started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])


def shoot_report() -> None:
    """The report of a population on the noisy quadratic, as it opens in a browser."""
    import pbt_flow
    from pbt_flow import report

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as started:
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        made = pbt_flow.run("quadratic", population=8, turns=30, interval=20)
        report(made.run_id, out=folder)
        chromium = browser(started)
        page = chromium.new_page(viewport={"width": 1100, "height": 1950})
        page.goto(Path(folder, "report", "index.html").as_uri())
        page.wait_for_selector("body[data-drawn]", timeout=PATIENCE)
        keep(shoot(page), "report.png")
        chromium.close()


def main(run_id: str, ui: str = "http://127.0.0.1:5000") -> None:
    """Take those of the tour."""
    client = MlflowClient(ui)
    mlflow.set_tracking_uri(ui)
    summary = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="report/summary.png")
    keep(Image.open(summary), "gan.png")
    there = f"{ui}/#/experiments/{client.get_run(run_id).info.experiment_id}/runs"
    with sync_playwright() as started:
        chromium = browser(started)
        page = chromium.new_page(viewport={"width": 1500, "height": 1200})
        page.set_default_timeout(PATIENCE)
        page.goto(
            f"{there}?compareRunsMode=CHART&viewStateShareKey=pbt-{run_id}"
            "&workflowType=machine_learning"
        )
        page.get_by_text("member-07").first.wait_for()
        page.wait_for_function(
            "document.querySelectorAll('.js-plotly-plot .scatterlayer .trace').length >= 24"
        )
        keep(shoot(page), "view.png")

        page.goto(f"{there}/{run_id}/artifacts/report/index.html")
        page.frame_locator("iframe").locator("body[data-drawn]").wait_for()
        page.get_by_text("Path:", exact=False).first.evaluate("e => e.style.visibility = 'hidden'")
        keep(shoot(page), "artifact.png")
        chromium.close()


if __name__ == "__main__":
    if sys.argv[1:] == ["report"]:
        shoot_report()
    else:
        main(*sys.argv[1:])
