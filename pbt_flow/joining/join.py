"""`join`: a training script becomes one of a population, and stays a script.

    pbt = pbt_flow.join(space, lambda: test(model), model=model, optimizer=optimizer)
    for epoch in pbt.steps(range(epochs)):
        train(model, optimizer)

Run by itself such a script trains one model, as it did before. Run by a worker it stands at the
head of its loop between turns.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import FrameType
from typing import Any, TypeVar

from greenlet import getcurrent

from pbt_flow.exceptions import TaskError
from pbt_flow.joining.member import Member, Terms
from pbt_flow.joining.outer_loop import places_of
from pbt_flow.joining.script import ScriptGreenlet
from pbt_flow.population.records import Direction, ReportDirection
from pbt_flow.space import Space, check_space

_Holder = TypeVar("_Holder")
_Pass = TypeVar("_Pass")


def join(
    space: Space,
    evaluate: Callable[[], Any],
    *,
    interval: int = 1,
    direction: Direction = "maximize",
    report: Callable[[], Mapping[str, float]] | None = None,
    report_direction: ReportDirection = None,
    evaluate_alone: bool = True,
    **objects: Any,
) -> Join:
    """Let the script that calls this be a member of a population.

    Args:
        space: The hyperparameters that PBT tunes: names to Optuna distributions. A name that is a
            key of an optimiser's parameter groups, such as `lr`, is set there; `generator.lr` is
            that of the optimiser called `generator`.
        evaluate: Returns the score, a number or a sample; called where a turn ends. It does not
            train.
        interval: Steps of a turn: passes of the loop.
        direction: Whether a greater or a smaller score is better.
        report: Returns metrics on data that selection never saw, for the winner.
        report_direction: Whether a greater or a smaller number of the report is better.
        evaluate_alone: Whether `evaluate` is called after every interval where the script runs
            alone, too; False where its loop does so itself.
        objects: What a checkpoint holds, by name: modules, optimisers, schedulers, tensors, dicts
            of plain values, generators of random numbers, estimators with `partial_fit`.

    Raises:
        TaskError: One of the objects has no state, or none was given.
        SpaceError: The space is none.
    """
    check_space(space)
    if not callable(evaluate):
        raise TaskError(
            f"join(): evaluate must be a function that returns the score, got {evaluate!r:.100}; "
            "as in join(space, lambda: test(model), ...)"
        )
    if type(interval) is not int or interval < 1:
        raise TaskError(f"join(): interval must be a number of steps, at least 1, got {interval!r}")
    if not objects:
        raise TaskError(
            "join() names no object, and a checkpoint would be empty; name what is trained, as in "
            "join(..., model=model, optimizer=optimizer)"
        )
    terms = Terms(
        space=space,
        evaluate=evaluate,
        interval=interval,
        direction=direction,
        report=report,
        report_direction=report_direction,
    )
    script = getcurrent()
    if isinstance(script, ScriptGreenlet):
        script.member.join(terms, objects, joined=places_of(sys._getframe(1)))
        return Join(script.member, is_alone=False, evaluates=False)
    member = Member("the script")
    member.join(terms, objects)
    return Join(member, is_alone=True, evaluates=evaluate_alone)


class Passes(Iterator[_Pass]):
    """The passes of a script's loop.

    Their length is that of the loop where the script runs alone, so that a bar of progress has a
    total. A population decides itself when to end.

    Args:
        passes: What the loop goes through.
        length: Of how many passes the script's own loop is; None if nobody knows.
    """

    def __init__(self, passes: Iterator[_Pass], length: int | None) -> None:
        self._passes, self._length = passes, length

    def __next__(self) -> _Pass:
        return next(self._passes)

    def __len__(self) -> int:
        if self._length is None:
            raise TypeError("nobody knows of how many passes this loop is")
        return self._length

    def __bool__(self) -> bool:
        return True


class Join:
    """What a script has of its population: its loop, and the hyperparameters of the turn.

    Args:
        member: The model that the script trains.
        is_alone: Whether no population trains it.
        evaluates: Whether it is evaluated after each interval all the same.
    """

    def __init__(self, member: Member, *, is_alone: bool, evaluates: bool) -> None:
        self.is_alone = is_alone
        self._member, self._evaluates = member, evaluates
        self._has_loop = False

    # --- the loop ---------------------------------------------------------------------------------

    def steps(self, numbers: range | int | None = None) -> Passes[int]:
        """The numbers of the steps, in place of the script's own `range`.

        Args:
            numbers: What the loop counts through where the script runs alone. A population counts
                in the same way, and decides itself when to end. None counts from 0 without an end.

        Returns:
            A number for each pass of the loop. It follows from the age of the weights, so that
            after a copy it is the donor's.

        Raises:
            TaskError: The script has had a loop before, or the numbers are none.
        """
        if isinstance(numbers, int) and not isinstance(numbers, bool):
            numbers = range(numbers)
        if not isinstance(numbers, range | None):
            raise TaskError(
                f"steps() takes a range, such as range(1, epochs + 1), got {numbers!r:.100}"
            )
        passes = None if numbers is None else len(numbers)
        self._enter(sys._getframe(1), passes)
        if not self.is_alone:
            start, by = (0, 1) if numbers is None else (numbers.start, numbers.step)
            follow = (start + by * self._member.step for _ in self._member.turns())
            return Passes(follow, passes)
        return Passes(self._alone(itertools.count() if numbers is None else numbers), passes)

    def batches(self, loader: Iterable[Any], *, epochs: int | None = 1) -> Passes[Any]:
        """The batches of a loader, in place of the loader itself; each batch is a step.

        The place in the loader is part of the state: a member goes on with the batch after its last
        one, and after a copy with the batch after the donor's last one.

        Args:
            loader: Any iterable that can be begun anew; it has at least one batch.
            epochs: How often it is gone through where the script runs alone; None for ever.

        Raises:
            TaskError: The script has had a loop before.
        """
        length = _length(loader)
        passes = None if epochs is None or length is None else epochs * length
        self._enter(sys._getframe(1), passes, loader)
        if not self.is_alone:
            return Passes((self._member.next_batch(loader) for _ in self._member.turns()), passes)
        rounds = itertools.repeat(loader) if epochs is None else itertools.repeat(loader, epochs)
        return Passes(self._alone(itertools.chain.from_iterable(rounds)), passes)

    def _alone(self, passes: Iterable[Any]) -> Iterator[Any]:
        """The passes of a script that runs alone, with an evaluation where a turn would end."""
        member = self._member
        for one in passes:
            yield one
            member.step += 1
            if self._evaluates and member.step % member.terms.interval == 0:
                member.terms.evaluate()

    def _enter(self, frame: FrameType, passes: int | None, loader: Any = None) -> None:
        if self._has_loop:
            raise TaskError(
                "a script has one loop over pbt.steps() or pbt.batches(), and this is its second; "
                "put both into one, or train in a task with five methods"
            )
        self._has_loop = True
        if not self.is_alone:
            self._member.enter_loop(frame, passes, loader)

    @property
    def step(self) -> int:
        """The age of the weights: passes of the loop, along the lineage."""
        return self._member.step

    @property
    def begins(self) -> bool:
        """Whether this is the first step of a turn of a population.

        What no state carries begins anew there, such as an environment.
        """
        return self._member.begins

    # --- hyperparameters and metrics --------------------------------------------------------------

    def __getitem__(self, name: str) -> Any:
        """The value of a hyperparameter in this turn; alone, the one that the script has set."""
        hyperparameters = self._member.hyperparameters
        hyperparameters.check(name)
        if self.is_alone:
            hyperparameters.attach(self._member.objects)
            return hyperparameters.own_value(name)
        return self._member.read(name)

    def get(self, name: str, alone: Any) -> Any:
        """The value of a hyperparameter in this turn; `alone` where the script runs alone."""
        self._member.hyperparameters.check(name)
        return alone if self.is_alone else self._member.read(name)

    def into(self, holder: _Holder, **named: str) -> _Holder:
        """Let hyperparameters be set in an object at the head of each turn.

        Args:
            holder: A namespace, a dataclass, a dict, a module. Its attributes that are called as
                hyperparameters are set, or if there are `named` ones, those alone.
            named: Attributes, and the hyperparameter that each takes: `into(model.drop,
                p="dropout")`. Such a hyperparameter is set nowhere else: the script spreads it.

        Returns:
            The same object.

        Raises:
            TaskError: The object has nothing to set.
        """
        self._member.hyperparameters.add_holder(holder, named)
        return holder

    def log(self, **metrics: float) -> None:
        """Record metrics with the turn; of several values of one name the last."""
        if not self.is_alone:
            self._member.log(metrics)


def _length(loader: Any) -> int | None:
    """The batches of an epoch; None where the loader does not know, as of an `IterableDataset`."""
    try:
        return len(loader)
    except TypeError:  # A `DataLoader` has the method in any case.
        return None
