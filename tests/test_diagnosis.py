"""Signs that a population does not do what its owner thinks: where they are, and only there."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from pbt_flow.diagnosis import Diagnosis
from pbt_flow.history import History
from pbt_flow.member import Checkpoint, Donor, Member, Plan, Turn
from pbt_flow.simulation import simulate
from pbt_flow.task import Task

SPACE = {
    "lr": FloatDistribution(1e-4, 1, log=True),
    "batch": IntDistribution(1, 64),
    "kind": CategoricalDistribution(["a", "b"]),
}


class Growing(Task):
    """Each interval adds the learning rate; the score is the sum, with noise."""

    space = SPACE
    defaults = {"population": 8, "turns": 20, "interval": 1}

    def __init__(self, *, seed: int, device: str = "cpu", noise: float = 0.0) -> None:
        super().__init__(seed=seed, device=device)
        self.noise, self.value = noise, self.rng.normal()

    def train(self, hparams: Mapping[str, Any], steps: int) -> Mapping[str, float]:
        self.value += float(hparams["lr"])
        return {}

    def evaluate(self) -> float:
        return self.value + self.noise * self.rng.normal()

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value = state["value"]


def warned(**settings):
    """The names of the signs, with a check that each was said and tagged once."""
    simulation = simulate(Growing, **settings)
    tags = simulation.store.tags
    said = [text.removeprefix("warning: ") for text in simulation.said]
    assert sorted(said) == sorted(tags.values())
    assert all(name.startswith("pbt.warning/") for name in tags)
    return {name.removeprefix("pbt.warning/") for name in tags}


@pytest.mark.parametrize("mode", ["async", "generational"])
def test_weights_that_all_descend_from_one_member_before_half_of_the_budget(mode):
    assert "one_founder" in warned(exploit="truncation:fraction=0.5", mode=mode)
    assert "one_founder" not in warned(exploit="none", mode=mode)
    # As fast, but with the half of the budget behind it.
    assert "one_founder" not in warned(exploit="truncation:fraction=0.5", mode=mode, turns=4)


def test_ranks_that_are_chance():
    assert "noise" in warned(options={"noise": 1000.0}, exploit="tournament")
    assert "noise" not in warned(options={"noise": 0.01}, exploit="tournament")


def test_random_search_copies_nobody_so_that_its_noise_does_no_harm():
    assert warned(options={"noise": 1000.0}, exploit="none") == set()


def test_a_hyperparameter_that_most_members_have_pushed_to_its_bound():
    names = warned(exploit="truncation:fraction=0.5", explore="perturb:factors=0.5/2")
    assert "pinned/lr" in names
    assert "pinned/kind" not in names


def test_members_that_began_at_a_bound_were_not_pushed_there():
    points = [{"lr": 1.0, "batch": 3 + n, "kind": "a"} for n in range(8)]
    assert "pinned/lr" not in warned(initial=points, exploit="none")


# --- signs that need no population ----------------------------------------------------------------


class Rounds:
    """Writes rounds of turns into a history, and asks for the signs after each."""

    def __init__(self, members=4, budget=100):
        self.history = History(direction="maximize")
        self.history.begin(
            Member(index=i, hparams={"lr": 0.1, "batch": 8, "kind": "a"}) for i in range(members)
        )
        self.diagnosis = Diagnosis(self.history, SPACE, budget)
        self.number = 0
        self.signs = []

    def round(self, scores, *, donors=None, seconds=None):
        """A round of these scores; `donors` says who copies whose turn before."""
        self.number += 1
        turns = []
        for index, score in enumerate(scores):
            member, donor = self.history.members[index], (donors or {}).get(index)
            start = member.checkpoint
            if donor is not None:
                start = self.history.members[donor].checkpoint
            plan = Plan(
                member=index,
                turn=self.number,
                seed=0,
                hparams=member.hparams,
                steps=1,
                start=start,
                start_step=self.number - 1,
                trained=self.number,
                donor=donor
                if donor is None
                else Donor(member=donor, turn=self.number - 1, copies="both"),
            )
            checkpoint = Checkpoint(member=index, turn=self.number, digest="", size=1)
            turn = Turn(
                plan=plan,
                status="ok",
                score=score,
                checkpoint=checkpoint,
                seconds=seconds or {"train": 1.0},
            )
            turns.append(turn)
        for turn in turns:
            self.history.add(turn)
        self.signs += [sign.name for sign in self.diagnosis.round(self.number, turns)]


@pytest.mark.parametrize(
    ("seconds", "there"),
    [
        ({"restore": 0.1, "train": 1.0, "evaluate": 2.0, "checkpoint": 0.1}, True),
        ({"restore": 0.1, "train": 1.0, "evaluate": 0.5, "checkpoint": 0.1}, False),
        # Of milliseconds nobody need be warned.
        ({"restore": 0.001, "train": 0.001, "evaluate": 0.05}, False),
    ],
)
def test_turns_that_are_mostly_something_else_than_training(seconds, there):
    rounds = Rounds()
    for _ in range(3):
        rounds.round([1, 2, 3, 4], seconds=seconds)
    assert rounds.signs == ["overhead"] * there


@pytest.mark.parametrize(("loss", "there"), [(1.0, True), (0.0, False), (-1.0, False)])
def test_copies_that_score_less_than_their_donors_from_the_same_weights(loss, there):
    rounds = Rounds()
    rounds.round([1, 2, 3, 4])
    for number in range(2, 30):
        best = 4.0 * number
        rounds.round([best - loss, best / 2, best / 3, best], donors={0: 3})
    assert ("restores" in rounds.signs) == there


@pytest.mark.parametrize("alone", [True, False])
def test_a_member_that_stays_alone_has_no_rank_that_could_hide_the_noise(alone):
    rounds, rng = Rounds(members=4), np.random.default_rng(0)
    for number in range(200):
        copies = {1: 0, 2: 0, 3: 0} if alone and number % 4 else {2: 0, 3: 1}
        rounds.round(rng.normal(size=4), donors=copies if number else None)
    assert "noise" in rounds.signs


def test_a_sign_is_seen_once():
    rounds = Rounds()
    for _ in range(10):
        rounds.round([1, 2, 3, 4], seconds={"train": 0.1, "evaluate": 5.0})
    assert rounds.signs == ["overhead"]
