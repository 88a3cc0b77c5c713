"""tasks/decay.py: rates that fall along a cosine, by the step of the weights."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
from torch.optim.optimizer import register_optimizer_step_pre_hook

import pbt_flow
from pbt_flow.commands.replay import replay, schedule_from
from pbt_flow.exceptions import SettingsError, TaskError
from pbt_flow.population.history import History
from pbt_flow.task import Task, build_task
from pbt_flow.tasks.decay import cosine
from pbt_flow.tasks.quadratic import NoisyQuadratic
from pbt_flow.testing import TaskContract, assert_same, middle, through_checkpoint
from pbt_flow.testing.simulation import simulate

for needed in ("gymnasium", "PIL", "sklearn"):
    pytest.importorskip(needed)

ON = {"decay": "cosine"}
INLINE: dict[str, Any] = {"engine": "inline", "quiet": True, "options": {"dimensions": 3, **ON}}


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        place = tmp_path_factory.mktemp("cache")
        patch.setenv("PBT_FLOW_CACHE", str(place))
        yield place


class TestDecayingQuadratic(TaskContract):
    task = NoisyQuadratic
    options: ClassVar = {"dimensions": 10, **ON}


SMALL: dict[str, tuple[str, dict[str, Any], int]] = {
    "gan": ("GAN", {"data": "digits", "samples": 300, "width": 2, "k": 2}, 6),
    "rl": ("RL", {"env": "CartPole-v1", "envs": 2, "hidden": 8, "epochs": 1}, 6 * 64),
}
"""The class, options that make it small, and the steps of a turn."""
UPDATES = {"gan": 3, "rl": 4}
"""How often the optimisers of a task step for each value of the rate."""


def made(name: str, seed: int = 0, **more: Any) -> Task:
    """A model that is told to train two turns, as a worker builds it."""
    kind, options, steps = SMALL[name]
    found: type[Task] = getattr(importlib.import_module(f"pbt_flow.tasks.{name}"), kind)
    return build_task(found, seed, "cpu", {**options, **more}, budget=2 * steps)


def point(task: Task) -> dict[str, Any]:
    return middle(task.space) | ({"unroll": 32} if "unroll" in task.space else {})


@contextmanager
def watched() -> Iterator[list[float]]:
    """The rate at each step of an optimiser."""
    rates: list[float] = []
    hook = register_optimizer_step_pre_hook(
        lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"])
    )
    try:
        yield rates
    finally:
        hook.remove()


@pytest.mark.parametrize("name", SMALL)
def test_a_rate_falls_from_step_to_step_over_a_turns_end_and_a_restore(name: str) -> None:
    *_, steps = SMALL[name]
    first, other = made(name, **ON), made(name, seed=1, **ON)
    with watched() as rates:
        first.reseed(1)
        metrics = first.train(point(first), steps)
        other.load_state_dict(through_checkpoint(first.state_dict()))
        other.reseed(2)
        last = other.train(point(other), steps)
    values = rates[:: UPDATES[name]]  # 12, of a dozen steps, or of a dozen unrolls
    shares = [cosine(age, 12) for age in range(12)]
    top = point(first)["lr_discriminator" if name == "gan" else "lr"]
    assert values == pytest.approx([top * share for share in shares])
    assert (shares[0], shares[6]) == (1, 0.5)
    assert shares[-1] < 0.02
    told = "rate/lr_discriminator" if name == "gan" else "rate/lr"
    assert (metrics[told], last[told]) == pytest.approx((values[5], values[-1]))


@pytest.mark.parametrize("name", SMALL)
def test_without_a_decay_no_state_knows_of_an_age_and_nothing_follows_the_budget(name: str) -> None:
    *_, steps = SMALL[name]
    states = []
    for budget in (None, 2 * steps):
        task = made(name)
        assert (task.follows_budget, task.budget) == (False, None)
        task.budget = budget
        task.reseed(1)
        metrics = task.train(point(task), steps)
        states.append(through_checkpoint(task.state_dict()))
        assert not [told for told in metrics if told.startswith("rate/")]
        assert "decay" not in task.understood()
    assert_same(*states)
    assert "age" not in states[0]
    assert not [group for group in _groups(states[0]) if "initial_lr" in group]


def _groups(state: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(state, Mapping):
        yield from state.get("param_groups", ())
        for value in state.values():
            yield from _groups(value)


def test_a_model_that_is_not_told_its_budget_says_what_to_do() -> None:
    task = NoisyQuadratic(seed=0, decay="cosine")
    with pytest.raises(TaskError, match="set task.budget to the steps"):
        task.train({"lr": 0.1}, 1)
    assert "decay" in task.understood()


def test_another_word_for_the_decay_is_refused_before_training() -> None:
    with pytest.raises(TaskError, match="option decay takes one of none, cosine, got 'linear'"):
        simulate(NoisyQuadratic, options={"decay": "linear"})


def test_on_the_quadratic_a_rate_that_falls_ends_at_a_third_of_the_loss() -> None:
    how: dict[str, Any] = {"population": 8, "turns": 100, "interval": 20, "exploit": "none"}
    falling, constant = (simulate(NoisyQuadratic, options=of, **how).best for of in (ON, {}))
    # Known answers over 20 seeds, of an independent program: 0.118 (sd 0.016), 0.346 (sd 0.072).
    assert falling < 0.15 < 0.25 < constant


# --- in a population ------------------------------------------------------------------------------


def rates_of(history: History) -> dict[tuple[int, int], tuple[float, int]]:
    """Of each turn, by member and number: the last live rate over the first, and the step."""
    return {
        (turn.member, turn.number): (turn.metrics["rate/lr"] / turn.plan.hparams["lr"], turn.step)
        for turns in history.turns.values()
        for turn in turns
    }


@pytest.mark.parametrize("how", [{"exploit": "none"}, {}, {"stages": "narrow"}])
def test_the_end_is_that_of_a_member_which_stays(how: dict[str, Any]) -> None:
    settings: dict[str, Any] = {"population": 4, "turns": 6, "interval": 5}
    done = simulate(NoisyQuadratic, options={"dimensions": 3, **ON}, **settings, **how)
    budget = done.controller.settings.budget
    assert budget == (30 if "stages" not in how else 5 * done.history.stages.ends[-1])
    rates = rates_of(done.history)
    for share, step in rates.values():
        # The last step of a turn begins at the age before it.
        assert share == pytest.approx(cosine(step - 1, budget))
    assert min(share for share, _ in rates.values()) < 0.01


@pytest.mark.slow
def test_a_resume_goes_on_along_the_cosine_and_may_not_move_its_end() -> None:
    how: dict[str, Any] = {"population": 3, "turns": 4, "interval": 5, "seed": 1, "exploit": "none"}
    whole = pbt_flow.run(NoisyQuadratic, **how, **INLINE)
    stopped = pbt_flow.run(NoisyQuadratic, **how, **INLINE, target=1e9)
    for turns in (3, 5):
        with pytest.raises(SettingsError, match="schedule that ends at step 20"):
            pbt_flow.resume(stopped.run_id, turns=turns, engine="inline", quiet=True)
    ended = pbt_flow.resume(stopped.run_id, target="none", engine="inline", quiet=True)
    assert rates_of(ended.history) == rates_of(whole.history)


def test_a_replay_trains_along_the_cosine_of_the_population_and_not_of_its_own_length() -> None:
    how: dict[str, Any] = {"population": 2, "turns": 8, "interval": 5, "exploit": "none"}
    stopped = pbt_flow.run(NoisyQuadratic, **how, **INLINE, target=1e9)
    found = schedule_from(stopped.run_id)
    assert found.steps < found.followed == 40
    done = replay(found, seeds=1, engine="inline", quiet=True)
    told = pbt_flow.load(done.run_id).history
    for share, step in rates_of(told).values():
        assert share == pytest.approx(cosine(step - 1, 40))


def test_a_task_with_a_budget_of_its_own_keeps_it() -> None:
    class Own(NoisyQuadratic):
        def __init__(self, *, seed: int, device: str = "cpu", budget: int = 7) -> None:
            super().__init__(seed=seed, device=device, dimensions=3)
            self.budget = budget

    assert build_task(Own, 0, "cpu", {}, budget=40).budget == 7
