"""A population in stages in MLflow: its runs, and what every command on it makes of them."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from mlflow.tracking import MlflowClient
from optuna.distributions import IntDistribution
from sample_tasks import Regression

import pbt_flow
from pbt_flow.cli.main import main
from pbt_flow.commands.dry_run import dry_run
from pbt_flow.commands.stored_population import StoredPopulation
from pbt_flow.commands.summary import summary

pytestmark = pytest.mark.usefixtures("database")
PLAN = "4x1:none,2x2:both"


def run(**settings):
    return pbt_flow.run(
        Regression,
        engine="inline",
        quiet=True,
        population=4,
        turns=2,
        stages=PLAN,
        **settings,
    )


def runs_of(result):
    client = MlflowClient()
    return [client.get_run(run_id) for run_id in StoredPopulation.open(result.run_id).store.members]


@pytest.mark.slow
def test_all_that_is_made_of_a_population_in_stages_knows_who_left(capsys):
    result = run(control=True, finalists="none")
    history = result.history
    assert sorted(map(len, history.turns.values())) == [1, 1, 3, 3]
    assert (result.members, result.left, result.retired, result.turns) == (4, 2, 0, 8)
    # Its winner has trained for longer than a member without stages, within what it was given.
    assert result.winner.step == 3 * 5
    assert result.winner_share == 1
    assert result.control.turns == result.turns
    assert result.headline.endswith("with the same budget in all")
    left = [run.data.tags.get("pbt.left") for run in runs_of(result)]
    expected = ["stage 1 of 2, after 1 turn" if m in history.left else None for m in range(4)]
    assert left == expected
    assert {run.info.status for run in runs_of(result)} == {"FINISHED"}
    # From the records alone the same follows.
    again = pbt_flow.load(result.run_id)
    assert (again.history.left, again.winner, again.headline) == (
        history.left,
        result.winner,
        result.headline,
    )
    assert len(pbt_flow.to_study(result.run_id).trials) == 8
    assert "2 members left at the end of a stage, as planned" in summary(result)
    # The schedule follows the winner's path, which is longer than `turns`.
    replayed = pbt_flow.replay(result.run_id, seeds=1, engine="inline", quiet=True)
    assert [segment.end for segment in replayed.schedule.segments] == [5, 10, 15]
    assert all(len(arm.scores) == 1 for arm in replayed.arms)
    assert main(["compare", result.run_id, result.control.run_id]) == 0
    assert "PBT in stages against random search" in capsys.readouterr().out


def test_a_resume_with_more_turns_goes_on_with_those_that_are_left():
    result = run()
    more = pbt_flow.resume(result.run_id, turns=3, quiet=True)
    assert sorted(map(len, more.history.turns.values())) == [1, 1, 5, 5]
    assert (more.history.left, more.turns) == (result.history.left, 12)
    with pytest.raises(pbt_flow.SettingsError, match=r"turns=2 \(stages that end after 3\) is"):
        pbt_flow.resume(result.run_id, turns=2, quiet=True)


def test_a_straggler_that_is_back_after_a_kill_is_not_said_to_have_left():
    """Its run was told so, and no turn says it: the resume waits for the straggler again."""
    result = run()
    for run_id in StoredPopulation.open(result.run_id).store.members:
        MlflowClient().set_tag(run_id, "pbt.left", "stage 1 of 2, after 1 turn")
    pbt_flow.resume(result.run_id, turns=3, quiet=True)
    for member, tags in enumerate(run.data.tags for run in runs_of(result)):
        left = member in result.history.left
        assert tags["pbt.left"] == ("stage 1 of 2, after 1 turn" if left else "")


class Breaking(Regression):
    """It fails where a hyperparameter says so."""

    space: ClassVar[Any] = {**Regression.space, "breaks": IntDistribution(0, 1)}

    def train(self, hparams, steps):
        if hparams["breaks"]:
            raise RuntimeError("broken")
        return super().train(hparams, steps)


def test_a_resume_cannot_retire_a_member_that_has_left():
    """It would be no member that has left any more, and what it stands on could win."""
    point = {"lr": 0.01, "batch": 2, "loss": "l2"}
    how = {"engine": "inline", "quiet": True, "population": 4, "turns": 2, "stages": PLAN}
    points = [{**point, "breaks": int(member == 1)} for member in range(4)]
    result = pbt_flow.run(Breaking, explore="none", initial=points, **how)
    assert 1 in result.history.left
    message = r"max_failures=1 would retire a member .* has left .*; give 2 or more"
    with pytest.raises(pbt_flow.SettingsError, match=message):
        pbt_flow.resume(result.run_id, max_failures=1, quiet=True)
    again = pbt_flow.resume(result.run_id, max_failures=2, quiet=True)
    assert (again.history.left, again.retired) == (result.history.left, 0)


def test_the_first_lines_say_the_plan(capfd):
    pbt_flow.run(Regression, engine="inline", population=4, turns=2, stages=PLAN)
    said = capfd.readouterr().err
    assert "stages: 4 members for 1 turn (nobody copies), then the best 2 for 2 turns" in said
    assert "stage 1 of 2 is over: 2 members leave, the others do 2 turns more" in said
    assert "[8/8" in said
    assert "--stages none" not in said  # whoever asks for stages need not be told why


class Staged(Regression):
    """A task for which stages were found to win."""

    defaults: ClassVar[dict[str, Any]] = {**Regression.defaults, "stages": PLAN}


def test_stages_that_nobody_asked_for_are_explained(capfd):
    settings = {"engine": "inline", "population": 4, "turns": 2, "workers": 2}
    pbt_flow.run(Staged, **settings)
    said = " ".join(capfd.readouterr().err.split())
    assert "task test_stages_of_a_run:Staged is trained in stages by default" in said
    assert "--stages none trains all to the end" in said
    told = dry_run(Staged, **settings).text()
    assert "stages: 4 members for 1 turn (nobody copies)" in told
    assert "is trained in stages by default" in told
