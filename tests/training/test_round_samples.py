"""The samples of each round: of its best member, once, from a checkpoint that still exists."""

import re
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from PIL import Image
from sample_tasks import Regression
from simulated import Counting, slowly, turns_of

import pbt_flow
from pbt_flow import report
from pbt_flow.testing.simulation import simulate
from pbt_flow.tracking.store import Store


def bests(simulation, rounds):
    """The best turn of each round that has a score."""
    turns = [[turn for turn in turns_of(simulation) if turn.number == n + 1] for n in range(rounds)]
    scored = [[turn for turn in of_round if turn.ok] for of_round in turns]
    return [max(of_round, key=lambda turn: turn.score) for of_round in scored if of_round]


@pytest.mark.parametrize("mode", ["async", "generational"])
@pytest.mark.parametrize("slots", [1, 2, 5])
def test_the_best_of_each_round_is_shown_once_and_in_order(mode, slots):
    simulation = simulate(
        Counting, mode=mode, slots=slots, duration=slowly, samples="rounds", seed=4
    )
    assert [turn.number for turn in simulation.store.shown] == [1, 2, 3, 4, 5, 6]
    assert simulation.store.shown == bests(simulation, 6)


def test_nothing_is_held_on_to_for_longer_than_it_takes_to_look():
    with_looks = simulate(Counting, mode="generational", samples="rounds", seed=4)
    without = simulate(Counting, mode="generational", samples="end", seed=4)
    assert with_looks.engine.states.keys() == without.engine.states.keys()
    assert not without.store.shown


def test_a_round_that_a_store_missed_is_shown_when_it_is_back():
    simulation = simulate(Counting, outages=[(3, 40)], samples="rounds", seed=4)
    assert simulation.store.shown == bests(simulation, 6)


class Drawing(Regression):
    """Its sample is a picture of its weights, and a text."""

    def samples(self, folder: Path) -> None:
        Image.new("L", (32, 32), color=int(self.net.bias.abs().item() * 255) % 256).save(
            folder / "bias.png"
        )
        (folder / "bias.txt").write_text(str(self.net.bias.item()))


class Nested(Drawing):
    """Draws into folders whose names begin like that of a round."""

    def samples(self, folder: Path) -> None:
        for name in ("round-robin", "round-7"):
            (folder / name).mkdir()
            super().samples(folder / name)


class CannotDraw(Regression):
    """Has nothing to show."""

    def samples(self, folder: Path) -> None:
        raise RuntimeError("no brush")


def score(turn):
    return turn.score


def artifacts(run_id, place):
    return sorted(info.path for info in MlflowClient().list_artifacts(run_id, place))


@pytest.mark.slow
@pytest.mark.usefixtures("database")
def test_rounds_are_on_the_run_and_in_the_report_once_after_a_resume_too(tmp_path):
    result = pbt_flow.run(Drawing, samples="rounds", turns=3, engine="inline", quiet=True)
    rounds = [f"samples/round-00000{n}" for n in (1, 2, 3, 4)]
    whole = ["samples/bias.png", "samples/bias.txt"]
    assert artifacts(result.run_id, "samples") == [*whole, *rounds[:3]]
    result = pbt_flow.resume(result.run_id, turns=4, quiet=True)
    assert artifacts(result.run_id, "samples") == [*whole, *rounds]
    for number, place in enumerate(rounds, start=1):
        text = MlflowClient().download_artifacts(result.run_id, f"{place}/bias.txt")
        best = min((own[number - 1] for own in result.history.turns.values()), key=score)
        assert float(Path(text).read_text()) == best.evaluation["bias"]
    (page, *_) = report(result.run_id, out=str(tmp_path / "report"))
    captions = re.findall(r"<figcaption>round (\d): member (\d\d)", Path(page).read_text())
    best = [
        min(of_round, key=score) for of_round in zip(*result.history.turns.values(), strict=True)
    ]
    assert captions == [(str(turn.number), f"{turn.member:02d}") for turn in best]


@pytest.mark.usefixtures("database")
def test_of_many_rounds_the_report_has_a_few_with_the_first_and_the_last():
    result = pbt_flow.run(Drawing, samples="rounds", turns=8, engine="inline", quiet=True)
    store = Store.open(result.run_id)
    assert list(store.artifacts.pictures(most=3)) == [1, 4, 8]
    assert list(store.artifacts.pictures()) == [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.usefixtures("database")
def test_folders_of_the_winners_samples_are_taken_for_no_rounds():
    result = pbt_flow.run(Nested, samples="rounds", turns=2, engine="inline", quiet=True)
    assert "samples/round-robin" in artifacts(result.run_id, "samples")
    assert list(Store.open(result.run_id).artifacts.shown()) == [1, 2]


@pytest.mark.usefixtures("database")
def test_a_task_that_cannot_show_anything_is_said_once_and_trains_on(capfd):
    result = pbt_flow.run(CannotDraw, samples="rounds", turns=3, engine="inline")
    assert result.status == "finished"
    told = [line for line in "".join(capfd.readouterr()).splitlines() if "no samples" in line]
    assert told == ["no samples of round 1: RuntimeError: no brush"]
    assert artifacts(result.run_id, "samples") == []


@pytest.mark.usefixtures("database")
def test_none_shows_nothing_at_all():
    result = pbt_flow.run(Drawing, samples="none", turns=2, engine="inline", quiet=True)
    assert artifacts(result.run_id, "samples") == []
