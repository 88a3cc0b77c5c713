"""The pictures of docs/tour.md, from a population in an MLflow UI that is running.

    PYTHONPATH=. python docs/pictures/make.py RUN_ID [http://127.0.0.1:5000]
    PYTHONPATH=. python docs/pictures/make.py report    # that of docs/reading.md; trains it first
    python docs/pictures/make.py choosing  # that of docs/choosing.md, from the documents' tables

It needs playwright, chromium and pillow; that of docs/choosing.md needs matplotlib and pillow.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image
    from playwright.sync_api import Browser, Page, Playwright

HERE = Path(__file__).parent
PATIENCE = 120_000
"""Milliseconds: MLflow's UI and a report of 5 MB take seconds on a busy machine."""


def keep(picture: Image.Image, name: str) -> None:
    """Write a picture in few colours, which makes it small."""
    from PIL import Image

    few = picture.convert("RGB").quantize(128, dither=Image.Dither.NONE)
    few.save(HERE / name, optimize=True)


def shoot(page: Page) -> Image.Image:
    """The page as it is shown, without what is MLflow's own business."""
    from PIL import Image

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
    import mlflow
    from playwright.sync_api import sync_playwright

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
    import mlflow
    from mlflow.tracking import MlflowClient
    from PIL import Image
    from playwright.sync_api import sync_playwright

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


def table(document: str, heading: str, first: str) -> list[list[str]]:
    """The cells of a table of a document, its head first.

    Args:
        document: Its name in the folder of the documents.
        heading: The heading that it stands under.
        first: What its first cell says.
    """
    text = (HERE.parent / document).read_text("utf-8")
    below = text.split(f"# {heading}\n", 1)[1]
    lines = iter(below.splitlines())
    for line in lines:
        if line.startswith(f"| {first} |"):
            rows = [line]
            break
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append(line)
    cells = [[cell.strip() for cell in row.strip().strip("|").split("|")] for row in rows]
    return [cells[0], *cells[2:]]


def numbers(cell: str) -> list[float]:
    """The numbers in a cell, such as a mean, and the ends of its interval or its deviation."""
    return [float(found) for found in re.findall(r"[+-]?\d+\.?\d*", cell)]


def draw_choices() -> Any:
    """The figure of docs/choosing.md: every number is read from a table of the documents."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.4), layout="constrained")
    places = figure.subplot_mosaic([["interval", "members", "copying"], ["tasks"] * 3])
    interval, members, copying, tasks = places.values()
    blue, orange, grey = "#0072b2", "#d55e00", "#5d6875"

    head, _, losses = table("choices.md", "Interval", "interval")
    lengths = [float(cell) for cell in head[1:-1]]
    interval.plot(lengths, [float(cell) for cell in losses[1:-1]], "o-", color=blue)
    interval.axhline(float(losses[-1]), color=grey, ls="--")
    interval.text(lengths[0], float(losses[-1]), "random search", color=grey, va="top")
    interval.set(
        xscale="log", ylim=0, xlabel="interval, of 2,000 steps", ylabel="loss of the winner"
    )
    interval.set_xticks(lengths, [f"{length:g}" for length in lengths])
    interval.minorticks_off()
    interval.set_title("TOY: how long a turn is", loc="left", weight="bold")

    rows = table("choices.md", "Population", "members")[1:]
    sizes = range(len(rows))
    for column, colour, label in (
        (1, blue, "each 2,000 steps"),
        (3, orange, "40,000 steps in all"),
    ):
        found = [numbers(row[column]) for row in rows]
        members.errorbar(
            [size + 0.06 * (column - 2) for size in sizes],
            [mean for mean, _ in found],
            [spread for _, spread in found],
            fmt="o-", capsize=3, color=colour, label=label,
        )  # fmt: skip
    members.set_xticks(list(sizes), [row[0] for row in rows])
    members.set(ylim=0, xlabel="members")
    members.legend(frameon=False)
    members.set_title("TOY: how many members", loc="left", weight="bold")

    rows = table("choices.md", "Exploit: whom to copy", "fraction, of 20 members")[1:]
    for column, colour, label in (
        (2, blue, "nothing resampled"),
        (4, orange, "a quarter resampled"),
    ):
        found = [numbers(row[column]) for row in rows]
        copying.errorbar(
            [numbers(row[1])[0] for row in rows],
            [mean for mean, _ in found],
            [spread for _, spread in found],
            fmt="o-", capsize=3, color=colour, label=label,
        )  # fmt: skip
    copying.set(ylim=(0, 0.27), xlabel="copies of a member in 100 turns")
    copying.set_xticks([int(numbers(row[1])[0]) for row in rows])
    copying.legend(frameon=False, loc="upper left")
    copying.set_title("TOY: how much is copied", loc="left", weight="bold")

    ticks = list[str]()
    for heading, unit in (
        ("GAN on digits", "inception score"),
        ("Translation", "BLEU"),
        ("LunarLander-v3", "return"),
    ):
        (title,) = re.findall(
            rf"^### ({re.escape(heading)}.*)$",
            (HERE.parent / "results.md").read_text("utf-8"),
            re.MULTILINE,
        )
        rows = table("results.md", title, "method")[1:]
        own = {row[0]: numbers(row[2]) for row in rows if row[2] and "decay" not in row[0]}
        widest = max(high for _, _, high in own.values())
        for method, (mean, low, high) in own.items():
            place = -len(ticks)
            tasks.plot([low / widest, high / widest], [place, place], color=blue, lw=2)
            tasks.plot(mean / widest, place, "o", color=blue)
            tasks.text(1.04, place, f"{mean:+.3g} {unit}", va="center", color=grey, fontsize=8)
            ticks.append(f"{heading.split('-')[0]}: {method}")
    tasks.axvline(0, color=grey, ls="--")
    tasks.set_yticks([-place for place in range(len(ticks))], ticks)
    tasks.set(xlim=(-0.25, 1.5), xticks=[0], xticklabels=["as random search"])
    tasks.set_title("REAL TASKS: better than random search by", loc="left", weight="bold")
    for axes in (interval, members, copying, tasks):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    if sys.argv[1:] == ["report"]:
        shoot_report()
    elif sys.argv[1:] == ["choosing"]:
        from PIL import Image

        painted = BytesIO()
        draw_choices().savefig(painted, dpi=110)
        keep(Image.open(painted), "choosing.png")
    else:
        main(*sys.argv[1:])
