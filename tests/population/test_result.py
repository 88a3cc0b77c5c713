"""What a result says of itself: the headline names steps, and more than a budget is a warning."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
from report_subjects import Rich, subject, text
from sample_tasks import Regression

import pbt_flow
from pbt_flow.commands.summary import summary
from pbt_flow.exceptions import TaskError
from pbt_flow.population.fresh_score import FreshScore
from pbt_flow.population.history import History
from pbt_flow.population.records import Checkpoint, Donor, Member, Plan, Turn
from pbt_flow.population.result import Result
from pbt_flow.reporting.page import page
from pbt_flow.reporting.report_data import ReportData
from pbt_flow.settings import Settings
from pbt_flow.tracking.outcome import _description
from pbt_flow.tracking.store import Store

INTERVAL = 100
ROOT = Path(__file__).resolve().parents[2]


def turn(
    member: int,
    number: int,
    score: float,
    *,
    start: int | None = None,
    donor: tuple[int, int] | None = None,
) -> Turn:
    """A turn that went well; it begins at its own effort, or where the donor's record stood."""
    begun = (number - 1) * INTERVAL if start is None else start
    before = donor or (member, number - 1)
    return Turn(
        plan=Plan(
            member=member,
            turn=number,
            seed=0,
            hparams={"lr": 0.1, "share": 0.0, "layers": 1, "kind": "&"},
            steps=INTERVAL,
            start=Checkpoint(member=before[0], turn=before[1], digest="", size=0)
            if before[1]
            else None,
            start_step=begun,
            trained=number * INTERVAL,
            donor=Donor(member=donor[0], turn=donor[1], copies="both") if donor else None,
        ),
        status="ok",
        score=score,
        checkpoint=Checkpoint(member=member, turn=number, digest=f"{member}-{number}", size=1),
        started=1.0,
        seconds={"train": 1.0},
    )


def history(*turns: Turn, direction="maximize") -> History:
    made = History(direction=direction)
    hparams = turns[0].plan.hparams
    made.begin(Member(index=index, hparams=hparams) for index in {t.member: None for t in turns})
    for one in turns:
        made.add(one)
    return made


def result(made: History, reports=None, **more) -> Result:
    """Its reports are given by member and turn."""
    return Result.of(
        made,
        run_id="0123abcd",
        tracking_uri="sqlite:///x.db",
        member_runs=[f"run-{m}" for m in made.members],
        reports={made.turn(*place).checkpoint: told for place, told in (reports or {}).items()},
        **{"max_failures": 3, "status": "finished", "budget": 4 * INTERVAL, **more},
    )


def replaced() -> History:
    """Member 1 is at its best after turn 2, gets worse, and copies member 0 before turn 4."""
    first = [turn(0, n, score) for n, score in ((1, 1.0), (2, 2.0), (3, 5.0), (4, 9.0))]
    second = [turn(1, n, score) for n, score in ((1, 3.0), (2, 7.0), (3, 1.5))]
    # The winner copied as well, or it would be an initial setting itself.
    first[2] = turn(0, 3, 5.0, start=2 * INTERVAL, donor=(1, 2))
    return history(*first, *second, turn(1, 4, 2.5, start=3 * INTERVAL, donor=(0, 3)))


def test_the_headline_names_the_steps_of_both_and_that_the_setting_was_replaced():
    assert result(replaced()).headline == (
        "The winner reaches score 9 after 400 steps; the best initial setting came to 7 after 200, "
        "before it was replaced"
    )


def test_an_initial_setting_that_nobody_replaced_is_called_so():
    rows = [turn(0, n, float(n)) for n in (1, 2, 3)]
    kept = [turn(1, n, score) for n, score in ((1, 3.0), (2, 6.0), (3, 2.0))]
    made = result(history(*rows, *kept, turn(0, 4, 9.0, start=200, donor=(1, 2)), turn(1, 4, 1.0)))
    assert made.headline.endswith("came to 6 after 200, never replaced")


def test_the_headline_of_reports_names_steps_too():
    made = result(replaced(), {(0, 4): {"return": 238.0}, (1, 2): {"return": 112.7}})
    assert made.headline == (
        "The winner reaches return 238 after 400 steps; the best initial setting came to 112.7 "
        "after 200, before it was replaced"
    )


def test_where_nobody_copied_nothing_is_compared_with_itself():
    rows = [turn(0, 1, 8.0), turn(0, 2, 1.0), turn(1, 1, 2.0), turn(1, 2, 3.0)]
    made = result(history(*rows), budget=2 * INTERVAL)
    assert made.best_initial.score == 8.0
    assert made.headline == "The winner reaches score 3"
    assert "initial" not in summary(made) + _description(made)


def test_a_control_goes_before_the_best_initial_setting():
    ours = result(replaced(), {(0, 4): {"return": 238.0}, (1, 2): {"return": 112.7}})
    rows = [turn(m, n, float(m + n)) for m in (0, 1) for n in (1, 2, 3, 4)]
    control = result(history(*rows), {(1, 4): {"return": 154.4}})
    told = dataclasses.replace(ours, control=control)
    assert told.headline == (
        "The winner reaches return 238, the winner of the control 154.4 with the same budget"
    )
    # One that trained for less is quoted with its steps.
    short = result(history(*rows[:3], *rows[4:7]), {(1, 3): {"return": 100.0}})
    assert dataclasses.replace(ours, control=short).headline == (
        "The winner reaches return 238 after 400 steps, the winner of the control 100 after 300"
    )
    # One that has no report leaves the scores, and one that has not ended leaves the other.
    bare = dataclasses.replace(ours, control=result(history(*rows)))
    assert bare.headline.startswith("The winner reaches score 9, the winner of the control 5 with")
    half = dataclasses.replace(ours, control=result(history(*rows), status="interrupted"))
    assert half.headline == ours.headline


def test_how_many_scores_the_best_initial_one_was_chosen_from_stands_beside_it():
    made = result(replaced())
    # Two of member 0 before its copy, three of member 1.
    assert made.initial_scores == 5
    told = summary(made)
    assert "best initial setting, before it was replaced: member 01 after turn 2 (step 200)" in told
    assert "score 7, the best of 5 on the way" in told
    assert "member-01, turn 2 (step 200)" in _description(made)


def over() -> History:
    """As the first version could do it: at its turn 2, member 1 copies turn 4 of member 0."""
    rows = [turn(0, n, float(n)) for n in (1, 2, 3, 4)]
    copy = turn(1, 2, 6.0, start=400, donor=(0, 4))
    rest = [turn(1, 3, 7.0, start=500), turn(1, 4, 8.0, start=600)]
    return history(*rows, turn(1, 1, 0.5), copy, *rest)


def on_a_page(one: Result) -> str:
    settings, _ = Settings.for_task(Rich, population=2, turns=4, interval=INTERVAL)
    whole = page(ReportData(result=one, settings=settings, space=Rich.space))
    return whole.split("</style>")[1].split("<script>")[0]


def test_a_winner_that_trained_beyond_its_budget_is_a_warning_wherever_it_is_named():
    made = result(over())
    sentence = "700 steps along their lineage, 1.75 times the 400 that a member was given"
    assert made.to_json()["winner_step_over_budget"] == 1.75
    assert made.to_json()["budget"] == 400
    assert re.search(f"warning: the winner's weights have trained {sentence}", summary(made))
    assert sentence in _description(made)
    shown = on_a_page(made)
    (warning,) = re.findall(r'<div class="warnings" role="alert">(.*?)</div>', shown, re.DOTALL)
    assert sentence in warning
    assert "turn 4, step 700, 1.75 times the 400 that a member was given" in shown


def test_a_winner_below_its_budget_is_said_and_one_at_it_is_not():
    short = [turn(m, n, float(m + n)) for m in (0, 1) for n in (1, 2, 3)]
    made = result(history(*short))
    assert made.to_json()["winner_step_over_budget"] == 0.75
    sentence = "  the winner's weights have trained 300 of the 400 steps that a member was given"
    assert sentence in summary(made)
    assert "step 300, 0.75 times the 400" in on_a_page(made)
    assert 'role="alert"' not in on_a_page(made)
    whole = result(replaced())
    assert whole.budget_note == ""
    assert "a member was given" not in summary(whole) + on_a_page(whole) + _description(whole)


def test_a_single_direction_is_that_of_the_first_metric_alone():
    told = {"loss": 0.5, "accuracy": 0.9}
    made = result(replaced(), {(0, 4): told}, report_direction="minimize")
    assert made.report_better("loss") == "minimize"
    assert made.report_better("accuracy") is None


def test_the_page_says_which_way_the_report_is_better_if_the_task_does():
    one = subject()
    told = dataclasses.replace(one.result, report_direction={"loss": "maximize"})
    assert "a smaller score is better, and a greater loss of the report" in text(
        dataclasses.replace(one, result=told)
    )
    assert "loss of the report" not in text(one)


# --- in MLflow ------------------------------------------------------------------------------------


class Accurate(Regression):
    """A loss as the score, and what is to grow in the report."""

    report_direction = {"accuracy": "maximize", "error": "minimize"}

    def report(self):
        error = super().report()["error"]
        return {"accuracy": 1.0 / (1.0 + error), "error": error}


def run(task=Accurate, **settings) -> Result:
    settings = {"population": 2, "turns": 2, "interval": 4, **settings}
    return pbt_flow.run(task, engine="inline", quiet=True, **settings)


@pytest.mark.slow
def test_the_store_alone_knows_which_way_a_report_is_better(database):
    made = run()
    told = json.loads(json.dumps(Store.open(made.run_id).manifest.to_json()))
    assert told["report_direction"] == {"accuracy": "maximize", "error": "minimize"}
    again, longer = pbt_flow.load(made.run_id), pbt_flow.resume(made.run_id, turns=3, quiet=True)
    for one in (made, again, longer):
        assert one.report_better("accuracy") == "maximize"
        assert one.report_better("error") == "minimize"
        assert one.report_better("other") is None
    assert pbt_flow.load(made.run_id).report_direction == told["report_direction"]


def test_a_population_of_the_first_version_says_nothing_and_can_be_read(database):
    made = run()
    store = Store.open(made.run_id)
    plain = store.manifest.to_json()
    del plain["report_direction"], plain["settings"]["stages"]
    store.client.log_dict(made.run_id, plain, "population.json")
    for one in (pbt_flow.load(made.run_id), pbt_flow.resume(made.run_id, turns=3, quiet=True)):
        assert one.report_better("accuracy") is None
    # A setting that it did not know is none that the resume has changed.
    assert json.loads(Store.open(made.run_id).tags()["pbt.settings"]) == {"turns": 3}
    assert pbt_flow.load(made.run_id).left == 0


def test_each_task_that_comes_along_says_which_way_its_report_is_better():
    # Read and not imported: the libraries of all tasks in one process are none of this test's.
    sources = [path.read_text() for path in (ROOT / "tasks").glob("*.py")]
    tasks = [source for source in sources if "(Task):" in source]
    assert len(tasks) >= 5
    for source in tasks:
        assert re.search(r'^    report_direction = "(maximize|minimize)"$', source, re.MULTILINE)


def test_the_budget_of_a_population_follows_a_resume(database):
    made = run()
    assert (made.budget, made.winner_share) == (8, made.winner.step / 8)
    assert pbt_flow.resume(made.run_id, turns=3, quiet=True).budget == 12
    assert pbt_flow.load(made.run_id).budget == 12


# --- in a notebook --------------------------------------------------------------------------------


def test_a_notebook_shows_a_small_table_without_scripts_or_colours_of_its_own():
    one = subject(control=True)
    hostile = dataclasses.replace(
        one.result, reason="<script>alert(1)</script> & co", control=one.control
    )
    shown = hostile._repr_html_()
    assert hostile.headline in shown
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; co" in shown
    assert not re.search("<script|<style|<img|http|color|background|on[a-z]+=", shown)
    assert len(shown) < 3000
    for text_of in ("winner", "score", "hyperparameters", "control", "loss=0.125"):
        assert text_of in shown


def test_a_notebook_shows_a_population_without_a_winner_too():
    shown = result(History(direction="maximize"), status="running")._repr_html_()
    assert "No turn is done yet" in shown
    assert "hyperparameters" not in shown


def test_an_average_is_shown_with_its_parents_and_what_it_is_worth():
    made = result(replaced())
    average = dataclasses.replace(
        made.winner,
        score=9.5,
        parents=((0, 4), (1, 4)),
        fresh=FreshScore(mean=9.25, readings=2, error=0.1),
    )
    shown = dataclasses.replace(made, average=average)._repr_html_()
    assert "the average of member 00 turn 4, member 01 turn 4" in shown
    assert "9.25" in shown


def test_the_text_of_a_result_is_its_outcome_in_one_line():
    assert repr(result(replaced(), status="interrupted", reason="stopped")) == (
        "<Result of population 0123abcd: interrupted (stopped); The winner reaches score 9 after "
        "400 steps; the best initial setting came to 7 after 200, before it was replaced>"
    )


def test_a_result_without_a_store_says_how_one_with_a_picture_is_had():
    with pytest.raises(ValueError, match="pbt_flow.load returns one that has it"):
        result(replaced()).plot()


@pytest.mark.paints
def test_a_result_draws_the_picture_of_its_report_and_gives_its_table_and_its_model(trained):
    (made,) = trained({"turns": 3})
    figure = made.plot()
    assert figure._repr_png_().startswith(b"\x89PNG")
    titles = [axes.get_title() for axes in figure.axes]
    assert {"lr", "batch", "loss"} < set(titles)
    assert made.headline.split(",")[0] in figure.get_suptitle().replace("\n", " ")
    assert len(made.turns_dataframe()) == made.turns == 6
    model = made.winner.model()
    assert not model.training
    task = made.winner.task()
    for name, weights in model.state_dict().items():
        assert torch.equal(weights, task.net.state_dict()[name])


def test_a_winner_whose_task_keeps_no_model_says_so(trained):
    (made,) = trained({}, task="toy")
    with pytest.raises(TaskError, match=r"task Toy keeps no model: it has no model\(\)"):
        made.winner.model()


@pytest.mark.parametrize(
    ("direction", "alone", "together", "is_worse"),
    [
        ("maximize", 238.0, 230.0, True),
        ("maximize", 238.0, 240.0, False),
        ("minimize", 238.0, 240.0, True),
        ("minimize", 238.0, 230.0, False),
        (None, 238.0, 230.0, False),
    ],
)
def test_an_average_whose_report_is_worse_than_the_winners_says_so_everywhere(
    direction, alone, together, is_worse
):
    reports = {(0, 4): {"return": alone}, (1, 2): {"return": 1.0}}
    made = result(replaced(), reports, report_direction=direction)
    average = dataclasses.replace(
        made.winner, score=9.5, report={"return": together}, parents=((0, 4), (1, 4))
    )
    told = dataclasses.replace(made, average=average)
    expected = f"The average of 2 finalists reaches return {together:.4g}"
    if is_worse:
        expected += f" (the winner alone {alone:.4g}, which is better)"
    for shown in (told, dataclasses.replace(told, control=told)):
        assert shown.headline.startswith(f"{expected}")
        assert ("alone" in shown.headline) == is_worse
    assert ("its return is worse than the winner's own" in summary(told)) == is_worse
    drawn = text(dataclasses.replace(subject(), result=told, control=None))
    assert ("whose return is worse than the winner" in drawn) == is_worse


def test_of_a_population_that_trains_it_is_said_how_to_follow_it_and_of_none_that_it_took_0_s():
    running = summary(result(replaced(), status="running"))
    assert "running: 2 members, 8 turns\n" in running
    assert "python -m pbt_flow watch 0123abcd" in running
    assert "resume" not in running
    killed = summary(result(replaced(), status="interrupted"))
    assert "interrupted: 2 members, 8 turns\n" in killed
    assert "python -m pbt_flow resume 0123abcd" in killed
    assert " turns in 12 s\n" in summary(result(replaced(), seconds=12.0))
