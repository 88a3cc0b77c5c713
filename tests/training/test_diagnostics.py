"""Signs that a population does not do what its owner thinks: where they are, and only there."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from pbt_flow.population.history import History
from pbt_flow.population.records import Checkpoint, Donor, Member, Plan, Turn
from pbt_flow.task import Task
from pbt_flow.tasks.quadratic import NoisyQuadratic
from pbt_flow.tasks.toy import Toy
from pbt_flow.testing.simulation import simulate
from pbt_flow.training.diagnostics import Diagnostics

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


class Idle(Growing):
    """What it gains is chance, whatever the hyperparameters."""

    space = {f"x{n}": FloatDistribution(0, 1) for n in range(6)}

    def train(self, hparams: Mapping[str, Any], steps: int) -> Mapping[str, float]:
        self.value += float(self.rng.normal())
        return {}


class Lucky(Growing):
    """Each turn comes to something else, and its score says exactly to what."""

    def train(self, hparams: Mapping[str, Any], steps: int) -> Mapping[str, float]:
        self.value = float(self.rng.normal())
        return {}


class Settling(Growing):
    """Goes to 1, at a rate of its own; after that all members are alike, but for their noise."""

    space = {"rate": FloatDistribution(0.05, 0.9)}

    def train(self, hparams: Mapping[str, Any], steps: int) -> Mapping[str, float]:
        self.value += (1 - self.value) * float(hparams["rate"])
        return {}


def tags(task, mark, **settings):
    """The tags of that kind, with a check that each warning was said and kept once."""
    simulation = simulate(task, **settings)
    found = simulation.store.tags
    kept = [text for name, text in found.items() if name.startswith("pbt.warning/")]
    # What is said of the ends of stages is no warning.
    said = [text for text in simulation.said if not text.startswith("stage ")]
    assert sorted(text.removeprefix("warning: ") for text in said) == sorted(kept)
    return {k.removeprefix(mark): v for k, v in found.items() if k.startswith(mark)}


def warned(task=Growing, **settings):
    """The names of the signs."""
    return tags(task, "pbt.warning/", **settings).keys()


@pytest.mark.parametrize("mode", ["async", "generational"])
def test_scores_that_say_nothing_of_a_member_are_found_by_evaluating_again(mode):
    texts = tags(
        Growing, "pbt.warning/", options={"noise": 1000.0}, exploit="tournament", mode=mode
    )
    assert "8 members, each evaluated 32 times" in texts["noise"]


def test_a_little_noise_is_no_sign():
    assert "noise" not in warned(options={"noise": 0.01}, exploit="tournament")


@pytest.mark.parametrize("mode", ["async", "generational"])
def test_luck_in_training_is_no_noise_of_a_score_that_repeats_itself(mode):
    assert tags(Lucky, "pbt.checked/", mode=mode)["noise"] == "members differ"
    assert "noise" not in warned(Lucky, mode=mode)


@pytest.mark.parametrize("seed", range(5))
def test_members_that_have_become_alike_in_a_good_run_are_no_sign(seed):
    assert "noise" not in warned(Settling, options={"noise": 0.02}, turns=60, seed=seed)


@pytest.mark.parametrize(("mode", "slots"), [("async", 2), ("async", 8), ("generational", 2)])
@pytest.mark.parametrize("seed", range(3))
def test_the_tasks_that_come_along_are_in_order(mode, slots, seed):
    """Rates are in docs/reliability.md; the toy's best values are at the bounds of its range."""
    settings = {"mode": mode, "slots": slots, "seed": seed, "population": 8, "turns": 30}
    assert warned(Toy, **settings) <= {"pinned/h0", "pinned/h1"}
    assert not warned(NoisyQuadratic, **settings)


def test_random_search_copies_nobody_so_that_its_noise_does_no_harm():
    assert not warned(options={"noise": 1000.0}, exploit="none")
    assert not tags(Growing, "pbt.checked/", options={"noise": 1000.0}, exploit="none")


def test_a_hyperparameter_that_most_members_have_pushed_to_its_bound():
    names = warned(exploit="truncation:fraction=0.5", explore="perturb:factors=0.5/2")
    assert names == {"pinned/lr"}


@pytest.mark.parametrize("seed", range(5))
def test_a_hyperparameter_that_does_nothing_has_no_best_value_beyond_its_bound(seed):
    """Copies carry it to a bound all the same: in most runs of sixty turns and six of them."""
    assert not warned(Idle, turns=60, seed=seed)


def test_members_that_began_at_a_bound_were_not_pushed_there():
    points = [{"lr": 1.0, "batch": 3 + n, "kind": "a"} for n in range(8)]
    assert "pinned/lr" not in warned(initial=points, exploit="none")


# --- signs that need no population ----------------------------------------------------------------


class Rounds:
    """Writes rounds of turns into a history, and asks for the signs after each."""

    def __init__(self, members=4):
        self.history = History(direction="maximize")
        self.history.begin(
            Member(index=i, hparams={"lr": 0.1, "batch": 8, "kind": "a"}) for i in range(members)
        )
        self.diagnostics = Diagnostics(self.history, SPACE)
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
        self.signs += [sign.name for sign in self.diagnostics.round(self.number, turns)]


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
    for _ in range(8):
        rounds.round([1, 2, 3, 4], seconds=seconds)
    assert rounds.signs == ["overhead"] * there


def test_one_slow_round_is_not_what_turns_are_like():
    rounds = Rounds()
    for number in range(10):
        slow = {"train": 1.0, "checkpoint": 20.0 if number in (0, 2, 6) else 0.1}
        rounds.round([1, 2, 3, 4], seconds=slow)
    assert rounds.signs == []


def test_a_sign_is_seen_once():
    rounds = Rounds()
    for _ in range(10):
        rounds.round([1, 2, 3, 4], seconds={"train": 0.1, "evaluate": 5.0})
    assert rounds.signs == ["overhead"]


def test_ranks_that_have_lasted_once_are_not_asked_after_again():
    rounds, rng = Rounds(members=8), np.random.default_rng(0)
    for _ in range(5):
        rounds.round(range(8), donors={0: 7})
    for _ in range(100):
        rounds.round(rng.normal(size=8), donors={0: 7})
    assert not rounds.diagnostics.looks_noisy


def test_ranks_that_never_lasted_are_a_reason_to_look():
    rounds, rng = Rounds(members=8), np.random.default_rng(0)
    for _ in range(20):
        rounds.round(rng.normal(size=8), donors={0: 7})
    assert rounds.diagnostics.looks_noisy
    # And nothing to look into where nobody copies.
    rounds, rng = Rounds(members=8), np.random.default_rng(0)
    for _ in range(20):
        rounds.round(rng.normal(size=8))
    assert not rounds.diagnostics.looks_noisy


@pytest.mark.parametrize(
    ("between", "within", "earlier", "there"),
    [
        (0.0, 1.0, 1.0, True),
        (1.0, 1.0, 1.0, False),  # half of the variance lies between members
        (0.0, 1.0, 3.0, False),  # members differed once, and have become alike
        (0.0, 0.0, 1.0, False),  # it repeats itself
        (0.0, np.nan, 1.0, False),
    ],
)
def test_evaluations_of_one_checkpoint_say_how_much_of_a_score_is_noise(
    between, within, earlier, there
):
    rounds, rng = Rounds(members=8), np.random.default_rng(3)
    for _ in range(10):
        rounds.round(earlier * rng.normal(size=8))
    members = between * rng.normal(size=8)
    scores = [tuple(member + within * rng.normal(size=32)) for member in members]
    sign = rounds.diagnostics.judge_noise(scores)
    assert (sign is not None) == there


def test_too_few_members_or_evaluations_say_nothing():
    rng = np.random.default_rng(0)
    assert Rounds().diagnostics.judge_noise(rng.normal(size=(3, 50)).tolist()) is None
    assert Rounds().diagnostics.judge_noise(rng.normal(size=(8, 1)).tolist()) is None
    assert Rounds().diagnostics.judge_noise([]) is None


def test_scores_at_the_end_of_the_numbers_are_no_reason_to_fail():
    rounds, rng = Rounds(members=8), np.random.default_rng(0)
    for _ in range(20):
        rounds.round((1.7e308 * np.sign(rng.normal(size=8))).tolist(), donors={0: 7})
    assert rounds.diagnostics.judge_noise([(1e308, -1e308, 1.7e308)] * 8) is None
    assert rounds.diagnostics.judge_noise(rng.normal(size=(8, 32)).tolist()) is None


# --- the race of a stage --------------------------------------------------------------------------


class Sampled(Growing):
    """The score is the mean of ten readings."""

    def evaluate(self) -> Any:
        return [self.value + self.noise * x for x in self.rng.normal(size=10)]


def raced(task: type[Task], seeds: int = 12, **settings: Any) -> int:
    """In how many populations in stages it was said that a race was a lottery."""
    how = {"stages": "wide", "workers": 2, **settings}
    return sum("race" in warned(task, seed=seed, **how) for seed in range(seeds))


@pytest.mark.parametrize(
    ("task", "least"), [(Growing, 7), pytest.param(Sampled, 3, marks=pytest.mark.slow)]
)
def test_a_race_that_was_a_lottery_is_told(task, least):
    """The noise of a reading is far above all that members differ by; a sample shows it as well."""
    assert raced(task, options={"noise": 1e6}) >= least
    assert raced(task, options={"noise": 0.01}) == 0


@pytest.mark.slow
def test_halving_is_told_too_since_who_leaves_is_a_choice():
    assert raced(Growing, options={"noise": 1e6}, exploit="none") >= 7


@pytest.mark.slow
def test_nothing_is_said_without_stages_or_of_few_members():
    assert raced(Growing, options={"noise": 1e6}, stages="none") == 0
    assert raced(Growing, options={"noise": 1e6}, population=3, turns=20) == 0


@pytest.mark.slow
def test_a_race_of_a_single_turn_is_judged_by_samples_alone():
    short = {"turns": 6, "stages": "16x1:none,4x8:both"}
    assert raced(Growing, options={"noise": 1e6}, **short) == 0
    assert raced(Sampled, options={"noise": 1e6}, **short) >= 6
    assert raced(Sampled, options={"noise": 0.01}, **short) == 0


class Equal(Growing):
    """Every score is the greatest that there is."""

    def evaluate(self) -> float:
        return 1.0


def test_members_that_all_score_the_same_ran_no_lottery():
    assert raced(Equal, seeds=3) == 0
