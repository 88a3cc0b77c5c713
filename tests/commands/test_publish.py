"""What a population leaves on its run: files that say what its turns say, at the end and before."""

from __future__ import annotations

import dataclasses
import html
import json
import re
import shutil
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from report_subjects import subject

import pbt_flow
from pbt_flow import report
from pbt_flow.cli.main import main
from pbt_flow.commands.publish import LiveReport, publish, write
from pbt_flow.commands.summary import ui
from pbt_flow.population.lineage import ancestors
from pbt_flow.population.schedule import Schedule
from pbt_flow.reporting.chart_words import chart_words
from pbt_flow.reporting.html_text import prose
from pbt_flow.reporting.page import page
from pbt_flow.tracking.saved_view import view_tag
from pbt_flow.tracking.store import Store
from pbt_flow.tracking.views import address_of


class Kept:
    """A place on the disk for what is published."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.times = 0

    def keep(self, folder: Path) -> None:
        self.times += 1
        shutil.copytree(folder, self.folder, dirs_exist_ok=True)


class Full(Kept):
    """A place that takes nothing."""

    def keep(self, folder: Path) -> None:
        raise OSError("no space left on device")


class Heard:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.ticks = self.turns = 0

    def turn(self, turn, history) -> None:
        self.turns += 1

    def tick(self) -> None:
        self.ticks += 1

    def say(self, text: str) -> None:
        self.said.append(text)


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


WHOLE = {"report/index.html", "report/summary.png", "schedule.json", "schedule.csv"}


@pytest.mark.paints
def test_a_report_a_picture_and_the_winners_schedule_are_left(tmp_path):
    plateau = {"plateau": "nothing has become better for 5 turns"}
    one, place = subject(warnings=plateau), Kept(tmp_path / "kept")
    publish(lambda: one, place.keep, pytest.fail)
    assert files(place.folder) == WHOLE
    assert "nothing has become better" in (place.folder / "report/index.html").read_text()
    schedule = Schedule.from_json(json.loads((place.folder / "schedule.json").read_text()))
    assert (schedule.source, schedule.options) == (
        "0123abcd",
        {"dimensions": 3, "decay": "none"},
    )
    for turn in ancestors(one.history, one.history.winner()):
        assert schedule.at(turn.plan.start_step) == turn.plan.hparams
    assert len((place.folder / "schedule.csv").read_text().splitlines()) == len(one.path) + 1


def test_a_population_without_a_winner_leaves_no_schedule(tmp_path):
    one = subject(population=2, turns=1)
    for index, turns in one.history.turns.items():
        failed = dataclasses.replace(turns[-1], status="failed", score=None, checkpoint=None)
        turns[-1] = failed
        member = dataclasses.replace(one.history.members[index], checkpoint=None)
        one.history.members[index] = member
    paths = write(one, tmp_path)
    assert {path.name for path in paths} == {"index.html", "summary.png"}


def test_what_cannot_be_published_is_said_and_fails_nothing(tmp_path):
    one, heard = subject(), Heard()
    publish(lambda: one, Full(tmp_path).keep, heard.say)
    assert heard.said == ["no report: OSError: no space left on device"]


def live(place, clock, heard, later=lambda call: call()):
    one = subject()
    turn = one.path[0]
    watch = LiveReport(
        heard, lambda: one.result, lambda result: one, place.keep, later, lambda: clock[0]
    )
    return watch, lambda: watch.turn(turn, one.history)


def test_while_it_runs_the_report_is_made_anew_at_most_once_a_minute(tmp_path):
    clock, heard, place = [0.0], Heard(), Kept(tmp_path / "kept")
    watch, turn = live(place, clock, heard)
    made = []
    for second in range(0, 300, 10):
        clock[0] = float(second)
        if second != 130:
            turn()
        watch.tick()
        made.append(place.times)
    assert made[5] == 0
    assert made[6] == 1
    assert made[-1] == 4
    assert (heard.turns, heard.ticks) == (29, 30)
    assert files(place.folder) == {"report/index.html"}


@pytest.mark.paints
def test_a_report_on_the_way_is_small_and_says_what_the_last_one_does(tmp_path):
    clock, place = [100.0], Kept(tmp_path / "kept")
    watch, turn = live(place, clock, Heard())
    clock[0] += 100
    turn()
    watch.tick()
    made = (place.folder / "report/index.html").read_text()
    assert len(made) < 1_000_000
    one = subject()
    assert prose(one.headline) in made
    assert 'src="data:image/png;base64,iVBOR' in made
    assert made.count("<tr") == 1 + len(one.history.members)
    assert chart_words(one, 7)["scores"].sentence in html.unescape(made)


def test_without_news_there_is_no_new_report(tmp_path):
    clock, place = [0.0], Kept(tmp_path)
    watch, turn = live(place, clock, Heard())
    clock[0] = 100.0
    watch.tick()
    assert place.times == 0
    turn()
    watch.tick()
    assert place.times == 1


def test_a_report_that_takes_long_is_made_the_more_seldom(tmp_path):
    clock = [0.0]

    class Slow(Kept):
        def keep(self, folder):
            super().keep(folder)
            clock[0] += 3

    place = Slow(tmp_path / "kept")
    watch, turn = live(place, clock, Heard())
    made = []
    for _ in range(40):
        clock[0] += 20
        turn()
        before = place.times
        watch.tick()
        if place.times > before:
            made.append(clock[0])
    assert made[1] - made[0] >= 300


def test_the_controller_makes_no_report_itself_and_asks_for_one_at_a_time(tmp_path):
    clock, place, calls = [100.0], Kept(tmp_path / "kept"), []
    watch, turn = live(place, clock, Heard(), calls.append)
    for _ in range(3):
        turn()
        watch.tick()
        clock[0] += 100
    assert (place.times, len(calls)) == (0, 1)
    calls.pop()()
    assert place.times == 1
    watch.tick()
    assert calls == []  # a minute has not passed since that one
    clock[0] += 100
    watch.tick()
    assert len(calls) == 1


def test_a_report_that_fails_on_the_way_is_said_and_tried_again_later(tmp_path):
    clock, heard = [100.0], Heard()
    watch, turn = live(Full(tmp_path), clock, heard)
    for _ in range(5):
        clock[0] += 50
        turn()
        watch.tick()
    assert heard.said == ["no report for now: OSError: no space left on device"] * 2


# --- on a run in MLflow ---------------------------------------------------------------------------


SMALL = {"turns": 4, "population": 4, "interval": 5}


@pytest.fixture
def result(trained):
    return trained({**SMALL, "name": "mine"}, task="sample_tasks:Regression")[0]


def shown(text: str) -> str:
    """The numbers that a page draws."""
    return re.findall(r'id="charts">(.*?)</script>', text, re.DOTALL)[0]


def test_a_fresh_process_makes_the_same_report_from_mlflow_alone(result, tmp_path):
    client = MlflowClient()
    kept = Path(client.download_artifacts(result.run_id, "report/index.html")).read_text()
    names = report(result.run_id, out=str(tmp_path / "out"))
    assert set(names) == {str(tmp_path / "out" / name) for name in WHOLE}
    made = (tmp_path / "out/report/index.html").read_text()
    assert shown(made) == shown(kept)
    assert result.headline in kept
    schedule = client.download_artifacts(result.run_id, "schedule.json")
    assert Path(schedule).read_text() == (tmp_path / "out/schedule.json").read_text()


def test_the_command_puts_the_report_on_the_run_with_a_control_beside_it(result, capsys):
    control = pbt_flow.run(
        "sample_tasks:Regression", engine="inline", quiet=True, exploit="none", **SMALL
    )
    capsys.readouterr()
    assert main(["report", result.run_id, "--control", control.run_id]) == 0
    head, *names = capsys.readouterr().out.splitlines()
    assert head == f"among the artifacts of run {result.run_id}:"
    assert set(names) == WHOLE
    client = MlflowClient()
    made = Path(client.download_artifacts(result.run_id, "report/index.html")).read_text()
    assert "control, best" in shown(made)


def test_a_report_on_what_is_no_population_is_refused(database, capsys):
    assert main(["report", "0" * 32]) == 2
    assert "no run" in capsys.readouterr().err


def test_the_charts_of_the_population_are_saved_in_mlflow(result):
    client = MlflowClient()
    run = client.get_run(result.run_id)
    tags = client.get_experiment(run.info.experiment_id).tags
    assert json.loads(tags[view_tag(result.run_id)])["name"].startswith("mine (")
    assert ui(result)[-1] == f"  python -m pbt_flow ui {result.run_id}"
    assert address_of(result.run_id[:12])[1] == result.charts


def test_warnings_are_read_off_the_run(result):
    MlflowClient().set_tag(result.run_id, "pbt.warning/plateau", "nothing becomes better")
    assert Store.open(result.run_id).warnings() == {"plateau": "nothing becomes better"}
    report(result.run_id)
    made = MlflowClient().download_artifacts(result.run_id, "report/index.html")
    assert "nothing becomes better" in Path(made).read_text()


def test_the_winner_comes_back_to_life_from_its_run_id(result):
    winner = pbt_flow.load(result.run_id).winner
    task = winner.task()
    newest = result.history.turn(winner.member, winner.turn)
    assert task.optimizer.param_groups[0]["lr"] == newest.metrics["live/lr"]
    assert task.report() == winner.report
    again = result.best_initial.task().model().weight
    assert again.equal(pbt_flow.load(result.run_id).best_initial.task().model().weight)


def test_a_name_that_looks_like_a_mark_of_the_template_stays_a_name():
    one = subject(name="@PLOTLY@ @CHARTS@")
    assert "<p>@PLOTLY@ @CHARTS@</p>" in page(one)


def test_a_report_that_draws_its_data_says_the_same_of_the_winner_that_came_back():
    small = {"population": 2, "turns": 1, "interval": 2, "engine": "inline"}
    made = pbt_flow.run("sample_tasks:DrawsItsReport", **small)
    for result in (made, pbt_flow.load(made.run_id)):
        assert result.winner.task().report() == made.winner.report
