"""What a task must keep to, as a test class to inherit.

from pbt_flow.testing import TaskContract

class TestMyTask(TaskContract):
    task = MyTask
    options = {"width": 8}
    steps = 20
"""

from __future__ import annotations

import copy
import functools
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from pbt_flow.engines.restore_check import first_difference
from pbt_flow.engines.returned import read_score
from pbt_flow.population.checkpoints import load_state, save_state
from pbt_flow.population.records import derive_seed
from pbt_flow.space import Hparams, Space, check_hparams, draw, from_unit, own_hparams
from pbt_flow.task import Task, check_task
from pbt_flow.task.construction import constructing
from pbt_flow.testing.watched_rates import WatchedRates
from pbt_flow.utils.reasons import message_of
from pbt_flow.utils.text import listed

LOOKS = (
    "evaluate",
    "evaluate_fresh",
    "understood",
    "metrics",
    "report",
    "samples",
    "example",
    "model",
)
"""The methods of a task that look at it; the model is used on the example."""

SEED = 0
"""The seed of the population whose seeds the contract uses, for fresh models and for turns.

The seeds are unsigned numbers of 32 bits, as in a run. Those of turns 1 and 2 of the first member
need all 32, so that a task which takes fewer is found out.
"""
_LONGEST = 20
"""How many lines the message of a failure has at most."""
_Test = TypeVar("_Test", bound=Callable[..., None])


def sentence(test: _Test) -> _Test:
    """A sentence of the contract, whose failure is told in few lines.

    The error of a library may print a whole state, and nobody reads 70,000 characters.
    """

    @functools.wraps(test)
    def told_in_short(self: TaskContract) -> None:
        try:
            test(self)
        except Exception as error:
            lines = message_of(error).splitlines()
            if len(lines) <= _LONGEST and all(len(line) <= 500 for line in lines):
                raise
            kept = [line[:200] for line in lines[: _LONGEST - 2]]
            left = f"[{sum(map(len, lines)):,} characters in all; the first are these]"
            short = "\n".join([f"{type(error).__name__}: {left}", *kept])
            raise AssertionError(short).with_traceback(error.__traceback__) from None

    return told_in_short  # type: ignore[return-value]


class TaskContract:
    """The contract of a task. A subclass names the task, and options that make it small."""

    task: ClassVar[type[Task]]
    options: ClassVar[Mapping[str, Any]] = {}
    steps: ClassVar[int] = 10
    """Steps of a turn; enough for the hyperparameters to show in the weights."""
    obeyed: ClassVar[tuple[str, ...] | None] = None
    """The hyperparameters whose change must show in the state after one turn; None means all."""
    live: ClassVar[tuple[str, ...] | None] = None
    """The hyperparameters that must be in the optimisers' groups as they were set, from the first
    step to the last; None means all that are keys of groups, such as `lr`. One that the task
    schedules by itself is left out."""
    begins_anew: ClassVar[bool] = False
    """Whether a turn begins with something new that no state carries, such as an environment; two
    turns then come to something else than one of twice the length."""
    device: ClassVar[str] = "cpu"
    """Where the models are, as torch names it. On a GPU the sentences hold bit for bit only where
    torch's operations repeat themselves: `torch.use_deterministic_algorithms(True)`."""

    def make(self, member: int = 0) -> Task:
        """A fresh model of one member."""
        with constructing(self.task.__name__):
            seed = derive_seed(SEED, member, 0)
            made = self.task(seed=seed, device=self.device, **self.options)
        if made.follows_budget:
            made.budget = 4 * self.steps  # No sentence trains a model for longer.
        return made

    def turn(self, task: Task, hparams: Hparams, number: int) -> tuple[float, dict[str, Any]]:
        """The turn of that number: the score, and the state as it comes back from a checkpoint."""
        task.reseed(derive_seed(SEED, 0, number))
        task.train(own_hparams(hparams), self.steps)
        score, _ = read_score(task.evaluate())
        return score, through_checkpoint(task.state_dict(), self.device)

    @sentence
    def test_declares_a_space_that_can_be_searched(self) -> None:
        check_task(self.task)

    @sentence
    def test_scores_are_finite_at_the_middle_of_the_space(self) -> None:
        score, _ = self.turn(self.make(), middle(self.task.space), number=1)
        assert math.isfinite(score), f"evaluate() gave {score}"

    @sentence
    def test_the_state_holds_tensors_and_plain_values_only(self) -> None:
        through_checkpoint(self.make().state_dict(), self.device)

    @sentence
    def test_the_state_comes_back_bit_for_bit(self) -> None:
        task, other = self.make(0), self.make(1)
        _, state = self.turn(task, middle(self.task.space), number=1)
        other.load_state_dict(copy.deepcopy(state))
        assert_same(through_checkpoint(other.state_dict(), self.device), state)

    @sentence
    def test_a_restored_turn_equals_a_warm_one(self) -> None:
        """A worker that kept the member in memory, and one that restored its checkpoint, agree."""
        warm = self.make(0)
        _, state = self.turn(warm, middle(self.task.space), number=1)
        score, after = self.turn(warm, middle(self.task.space), number=2)
        # A worker restores into a fresh model, or into one of another member that has trained and
        # was evaluated. The fresh one lacks what an evaluation leaves behind.
        fresh, used = self.make(1), self.make(1)
        self.turn(used, middle(self.task.space), number=3)
        for name, cold in (("fresh", fresh), ("used", used)):
            cold.load_state_dict(copy.deepcopy(state))
            cold_score, cold_after = self.turn(cold, middle(self.task.space), number=2)
            assert_same(cold_after, after, f"state after a restore into a {name} model")
            assert_same(cold_score, score, f"score after a restore into a {name} model")

    @sentence
    def test_looking_changes_nothing_that_the_next_turn_depends_on(self) -> None:
        """Two turns come out the same, whether or not somebody looked at the model between them.

        A worker forgets a model that it has looked at, but people look at `winner.task()` and then
        train it on. A model that is left in evaluation mode trains on without dropout, and without
        updating the statistics of batch normalisation.
        """
        state, score = self._after_looks()
        looked_state, looked_score = self._after_looks(*LOOKS)
        if same((state, score), (looked_state, looked_score)):
            return
        # Some look changed something: find which one.
        for look in LOOKS:
            looked_state, looked_score = self._after_looks(look)
            assert_same(looked_state, state, f"state of a turn after {look}()")
            assert_same(looked_score, score, f"score of a turn after {look}()")
        raise AssertionError(f"a turn differs after {', '.join(LOOKS)} together, and after none")

    def _after_looks(self, *looks: str) -> tuple[dict[str, Any], float]:
        """The state and the score after two turns with some looks between them."""
        task = self.make()
        self.turn(task, middle(self.task.space), number=1)
        for look in looks:
            look_at(task, look)
        score, state = self.turn(task, middle(self.task.space), number=2)
        return state, score

    @sentence
    def test_hyperparameters_are_obeyed_after_restoring_a_donor(self) -> None:
        """From one donor's state, two values of a hyperparameter must lead to two states.

        Both end up the same if restoring brings back the donor's value, as
        `optimizer.load_state_dict` does with the learning rate, or if a scheduler overwrites the
        value that was set. That is the commonest bug of PBT, and a silent one.
        """
        names = self._names_to_obey()
        _, donated = self.turn(self.make(0), middle(self.task.space), number=1)
        for name in names:
            values = [from_unit(unit, self.task.space[name]) for unit in (0.2, 0.8)]
            first, second = (self._outcome(donated, name, value) for value in values)
            if not _is_obeyed(first, second, name):
                raise AssertionError(
                    f"{name}: after a restore, {values[0]!r} and {values[1]!r} come to the same in "
                    f"{self.steps} steps. Does a restored optimiser or a schedule decide? Set it "
                    "first thing in train(). If so few steps cannot show it, give the contract "
                    "more, as in `steps = 100`, or name those that can show: "
                    f"`obeyed = {tuple(one for one in names if one != name)!r}`"
                )

    def _names_to_obey(self) -> list[str]:
        """The hyperparameters whose change must show; there is at least one."""
        space = self.task.space
        wanted = space if self.obeyed is None else self.obeyed
        unknown = sorted(set(wanted) - set(space))
        assert not unknown, f"obeyed names {unknown}, and the space has {listed(sorted(space))}"
        names = [name for name in wanted if not space[name].single()]
        assert names, (
            f"obeyed = {self.obeyed!r} leaves no hyperparameter of {listed(sorted(space))} that "
            "has two values, and the sentence would hold of any task; name one that can show"
        )
        return names

    def _outcome(self, donated: dict[str, Any], name: str, value: Any) -> _Outcome:
        """What a turn under one value comes to, from a donor's state on."""
        member = self.make(1)
        member.load_state_dict(copy.deepcopy(donated))
        score, state = self.turn(member, {**middle(self.task.space), name: value}, number=2)
        return state, (score, dict(member.metrics() or {}))

    @sentence
    def test_rates_are_live_in_the_optimisers_after_restoring_a_donor(self) -> None:
        """At each step that an optimiser makes, its groups hold what was asked for.

        A schedule that the task kept from a script multiplies the rate that it finds. The turn then
        begins with the rate that was set and goes on with others, while the record tells the one
        that was set. A schedule may work on a base rate, if the base is what was asked for.
        """
        space = self.task.space
        _, donated = self.turn(self.make(0), middle(space), number=1)
        member = self.make(1)
        member.load_state_dict(copy.deepcopy(donated))
        names = space if self.live is None else self.live
        asked = {**middle(space), **{name: from_unit(0.7, space[name]) for name in names}}
        watched = WatchedRates({name: asked[name] for name in names})
        hook = register_optimizer_step_pre_hook(watched.look)
        try:
            self.turn(member, asked, number=2)
        finally:
            hook.remove()
        for name, (wanted, found) in watched.missed().items():
            raise AssertionError(
                f"{name}: {wanted!r} was asked for, and no parameter group had it at each step; "
                f"the optimiser trained with {found!r}. A schedule of the task's own sets it too: "
                "drop it, or let its factor scale what was asked for. Where that is meant, leave "
                f"it out: `live = {tuple(one for one in names if one != name)!r}`"
            )

    @sentence
    def test_a_turns_end_changes_nothing(self) -> None:
        """Two turns come to what one of twice the length does, if nothing is seeded in between.

        An optimiser or a schedule that each turn makes anew has forgotten what it had learnt. A
        restored model forgets it just the same, so that no other sentence finds this fault.
        """
        if self.begins_anew:
            return
        whole, parts = self.make(), self.make()
        for task, lengths in ((whole, [2 * self.steps]), (parts, [self.steps, self.steps])):
            task.reseed(derive_seed(SEED, 0, 1))
            for steps in lengths:
                task.train(own_hparams(middle(self.task.space)), steps)
        one, two = (through_checkpoint(task.state_dict(), self.device) for task in (whole, parts))
        found = first_difference(one, two, "state")
        if found:
            raise AssertionError(
                f"two turns of {self.steps} steps come to another {found} than one turn of "
                f"{2 * self.steps}. What train() makes anew (an optimiser, a schedule, an order of "
                "the data) belongs into the constructor and into the state. Where a turn is meant "
                "to begin with something new, such as an environment: `begins_anew = True`"
            )

    @sentence
    def test_the_model_takes_its_example(self) -> None:
        look_at(self.make(), "model")

    @sentence
    def test_any_point_of_the_space_trains_without_an_exception(self) -> None:
        rng = np.random.default_rng(0)
        for number in (1, 2, 3):
            hparams = check_hparams(draw(self.task.space, rng), self.task.space)
            self.turn(self.make(), hparams, number=number)


def look_at(task: Task, look: str) -> None:
    """Call a method that looks at the task, and use what it gives as its callers do."""
    if look == "samples":
        with tempfile.TemporaryDirectory() as folder:
            task.samples(Path(folder))
    elif look == "model":
        model, example = task.model(), task.example()
        if model is not None:
            model.eval()
            if example is not None:
                weights = next(model.parameters(), torch.empty(0))
                with torch.no_grad():
                    model(torch.from_numpy(example).to(weights.device))
    else:
        getattr(task, look)()


def middle(space: Space) -> dict[str, Any]:
    """The point in the middle of a space, each hyperparameter on its own scale."""
    return {name: from_unit(0.5, dist) for name, dist in space.items()}


def through_checkpoint(state: dict[str, Any], device: str = "cpu") -> dict[str, Any]:
    """The state as it is read back from a checkpoint of a run, on a device.

    Raises:
        CheckpointError: The state cannot be saved. The message is that of a run, and names the
            place in the state.
    """
    with tempfile.TemporaryDirectory() as folder:
        return load_state(save_state(state, 0, 1, Path(folder)), Path(folder), device)


def same(a: Any, b: Any) -> bool:
    """Whether two states are equal bit for bit."""
    return not first_difference(a, b, "state")


_Outcome = tuple[dict[str, Any], tuple[float, dict[str, float]]]
"""A state, and how its model did: the score and the metrics of its evaluation."""


def _is_obeyed(first: _Outcome, second: _Outcome, name: str) -> bool:
    """Whether two values of a hyperparameter have led to two models.

    A state may hold a model as a text that quotes the hyperparameters. Such texts differ even if
    the models do not. Where only texts differ, the scores and metrics must differ as well.
    """
    states = [_learnt(state, name) for state, _ in (first, second)]
    if not same(*(_numbers(state) for state in states)):
        return True
    return not same(*states) and not same(first[1], second[1])


def _learnt(state: Any, name: str) -> Any:
    """A state without the places where a hyperparameter may be noted and yet not be used."""
    if isinstance(state, Mapping):
        noted = ("param_groups", name)
        return {k: _learnt(v, name) for k, v in state.items() if k not in noted}
    return state


def _numbers(state: Any) -> Any:
    """A state without what may be a text: texts, bytes, and tensors of bytes."""
    if isinstance(state, Mapping):
        return {key: _numbers(value) for key, value in state.items()}
    if isinstance(state, Sequence) and not isinstance(state, str | bytes):
        return [_numbers(value) for value in state]
    is_bytes = isinstance(state, torch.Tensor) and state.dtype == torch.uint8
    return None if isinstance(state, str | bytes | bytearray) or is_bytes else state


def assert_same(a: Any, b: Any, where: str = "state") -> None:
    """Fail with the first place at which two states differ."""
    found = first_difference(a, b, where)
    assert not found, f"not the same: {found}"
