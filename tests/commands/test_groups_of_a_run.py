"""A population with sub-populations in MLflow: both sources of what was copied are told."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from sample_tasks import Regression

import pbt_flow
from pbt_flow.cli.main import main
from pbt_flow.commands.stored_population import StoredPopulation
from pbt_flow.population.lineage import every_turn

pytestmark = pytest.mark.usefixtures("database")


def run(**settings):
    return pbt_flow.run(
        Regression,
        **{
            "engine": "inline",
            "mode": "generational",
            "population": 8,
            "turns": 4,
            "exploit": "mfpbt:periods=1/2",
            "seed": 1,
            "quiet": True,
            **settings,
        },
    )


def test_all_that_is_made_of_it_tells_weights_and_hyperparameters_apart(capfd, tmp_path):
    result = run(quiet=False)
    said = capfd.readouterr().err
    assert "2 sub-populations: members 0 to 3 decide after each turn, members 4 to 7 after" in said
    client, history = MlflowClient(), result.history
    runs = [client.get_run(r) for r in StoredPopulation.open(result.run_id).store.members]
    assert [run.data.tags["pbt.group"] for run in runs] == ["0"] * 4 + ["1"] * 4
    two = [turn for turn in every_turn(history) if turn.plan.donor and turn.plan.donor.hparams_of]
    (turn, *_), donor = two, two[0].plan.donor
    other = donor.hparams_of
    assert donor.member != other.member
    metrics = client.get_metric_history(runs[turn.member].info.run_id, "hparams_donor")
    assert (turn.plan.trained, other.member) in [(point.step, point.value) for point in metrics]
    metrics = client.get_metric_history(runs[turn.member].info.run_id, "donor")
    assert (turn.plan.trained, donor.member) in [(point.step, point.value) for point in metrics]
    last = {t.member: t.plan.donor for t in every_turn(history) if t.plan.donor}
    for member, given in last.items():
        text = f"member-{given.member:02d} turn {given.turn}"
        if given.hparams_of is not None:
            text = f"weights of {text}, hyperparameters of member-{given.hparams_of.member:02d} "
            text += f"turn {given.hparams_of.turn}"
        elif given.copies == "weights":
            text = f"weights of {text}"
        assert runs[member].data.tags["pbt.copied"] == text
    assert f"from member {donor.member:02d} and {other.member:02d}: score" in said
    # From the records alone the same follows.
    again = pbt_flow.load(result.run_id)
    assert again.history.turns == history.turns
    assert again.history.group_sizes == {0: 4, 1: 4}
    attributes = [trial.user_attrs for trial in pbt_flow.to_study(result.run_id).trials]
    (mine,) = (
        one
        for one in attributes
        if (one["pbt:member"], one["pbt:turn"]) == (turn.member, turn.number)
    )
    assert mine["pbt:donor"] == f"member {donor.member}, turn {donor.turn}: weights"
    assert mine["pbt:hparams_donor"] == f"member {other.member}, turn {other.turn}: hparams"
    page = client.download_artifacts(result.run_id, "report", str(tmp_path))
    text = "".join(path.read_text() for path in sorted(Path(page).rglob("*.html")))
    assert '<button type="button">group</button>' in text
    label = f"copied the weights of member {donor.member:02d}, turn {donor.turn}"
    label += f"<br>and the hyperparameters of member {other.member:02d}, turn {other.turn}"
    assert label in text.replace("\\u003c", "<").replace("\\u003e", ">")


@pytest.mark.slow
def test_a_replay_a_comparison_and_a_resume_take_it_as_any_other(capsys):
    result = run(control=True)
    replayed = pbt_flow.replay(result.run_id, seeds=1, engine="inline", quiet=True)
    assert replayed.schedule.steps == result.winner.step
    capsys.readouterr()
    assert main(["compare", result.run_id, result.control.run_id]) == 0
    assert "PBT against random search" in capsys.readouterr().out
    more = pbt_flow.resume(result.run_id, turns=6, quiet=True)
    assert {len(turns) for turns in more.history.turns.values()} == {6}
    before = {member: turns[:4] for member, turns in more.history.turns.items()}
    assert before == result.history.turns
