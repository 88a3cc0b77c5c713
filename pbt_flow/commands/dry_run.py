"""What a population would be, and about what it would cost, from one turn of one member."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pbt_flow.commands.launch import check_buildable, engine_for, read_declaration, start
from pbt_flow.commands.progress import plan_sentence, usual_stages_note
from pbt_flow.commands.task_help import domain_in_words
from pbt_flow.engines import Engine, LostJob
from pbt_flow.engines.jobs import Describe
from pbt_flow.exceptions import PopulationError
from pbt_flow.population.checkpoints import LocalFolders
from pbt_flow.population.records import Plan, Turn, derive_seed
from pbt_flow.settings import Settings
from pbt_flow.space import Space, draw
from pbt_flow.task import Declaration, Task
from pbt_flow.utils.cores import count_cores
from pbt_flow.utils.scratch import temporary_folder
from pbt_flow.utils.text import byte_count, duration, number, values


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """A population that was not trained."""

    settings: Settings
    space: Space
    understood: Mapping[str, str]
    """What the task understood of its data, options and environment, by topic."""
    seconds: float
    """What one turn of one member took."""
    checkpoint: int
    """Bytes of what that turn left."""
    notes: Sequence[str] = ()
    """What else there is to say of the plan."""

    @property
    def seconds_in_all(self) -> float:
        """How long the training of all of it would take at least: on the workers that there are,
        each with a core of its own, and without what is told and judged beside it.
        """
        at_once = 1 if self.settings.engine == "inline" else self.settings.workers
        at_once = min(at_once, self.settings.founders)
        if self.settings.engine == "processes" and self.settings.device == "cpu":
            at_once = min(at_once, count_cores())
        return self.seconds * self.settings.all_turns / at_once

    @property
    def most_on_disk(self) -> int:
        """Bytes of checkpoints that are kept at most: `keep` of each member, and the best ones."""
        return self.checkpoint * self.settings.founders * (self.settings.keep + 1)

    def text(self) -> str:
        """What a person reads."""
        lines = [plan_sentence(self.settings)]
        if self.settings.stage_plan is not None:
            lines.append(self.settings.stage_plan.describe())
        lines += self.notes
        lines += [f"{topic}: {sentence}" for topic, sentence in self.understood.items()]
        lines += ["", "space"]
        lines += [f"  {name}: {domain_in_words(domain)}" for name, domain in self.space.items()]
        lines += ["", "settings"]
        for name, value in self.settings.to_json().items():
            if value not in (None, [], {}) and name not in ("options", "initial"):
                lines.append(f"  {name}={number(value)}")
        if self.settings.options:
            lines.append(f"  options: {values(self.settings.options)}")
        each = duration(self.seconds) if self.seconds >= 1 else f"{self.seconds:.2g} s"
        lines += [
            "",
            f"one turn took {each}: the training of all at least {self._least()}",
            f"a checkpoint has {byte_count(self.checkpoint)}: at most about "
            f"{byte_count(self.most_on_disk)} at a time",
            "nothing was written",
        ]
        return "\n".join(lines)

    def _least(self) -> str:
        seconds = self.seconds_in_all
        return duration(seconds) if seconds >= 1 else "a second"

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return {
            "settings": self.settings.to_json(),
            "space": {name: domain_in_words(domain) for name, domain in self.space.items()},
            "understood": dict(self.understood),
            "seconds_of_a_turn": self.seconds,
            "seconds_in_all": self.seconds_in_all,
            "bytes_of_a_checkpoint": self.checkpoint,
            "most_bytes_on_disk": self.most_on_disk,
        }


def dry_run(
    task: str | type[Task] | Callable[[], Any], *, quiet: bool = True, **settings: Any
) -> DryRun:
    """Train one turn of one member in a temporary folder, and say what all of it would take.

    Args:
        task: A task class, or the name of one.
        quiet: Is taken and not looked at, as `run` has it: nothing is printed here.
        settings: As of `run`.

    Raises:
        PBTError: What `run` would refuse, or the turn failed.
    """
    control = settings.pop("control", None)
    Settings.check_given(settings)
    with engine_for(**settings) as engine, temporary_folder() as folder:
        if isinstance(task, str):
            engine.submit(Describe(task=task))
        made, kind = Settings.for_task(read_declaration(engine, task), **settings)
        start(engine, made)
        understood = check_buildable(engine, made)
        turn = _one_turn(engine, made, kind.space, Path(folder))
    assert turn.checkpoint is not None
    return DryRun(
        settings=made,
        space=kind.space,
        understood=understood,
        seconds=turn.took,
        checkpoint=turn.checkpoint.size,
        notes=[
            *usual_stages_note(made, settings),
            *_other_stages_note(made, kind, settings),
            *(["random search, the control, trains as much again"] if control else []),
        ],
    )


def _other_stages_note(
    made: Settings, declared: Declaration, given: Mapping[str, Any]
) -> Sequence[str]:
    """What stages would make of the same budget, for a task that says nothing of stages."""
    if "stages" in declared.defaults or given.get("stages") is not None:
        return []
    plan = dataclasses.replace(made, stages="narrow").useful_stages()
    if plan is None:
        return []
    return [
        f"no stages: with --stages narrow the same {made.all_turns} turns would train the best "
        f"for {plan.ends[-1]} turns instead of {made.turns}; docs/stages.md says when that pays"
    ]


def _one_turn(engine: Engine, settings: Settings, space: Space, folder: Path) -> Turn:
    """What a first turn comes to.

    Raises:
        PopulationError: It failed.
    """
    import numpy as np

    engine.open(LocalFolders({0: str(folder)}, shared=False))
    engine.submit(
        Plan(
            member=0,
            turn=1,
            seed=derive_seed(settings.seed, 0, 1),
            hparams=draw(space, np.random.default_rng(settings.seed)),
            steps=settings.interval,
            trained=settings.interval,
        )
    )
    finished = engine.wait()
    while not finished:
        finished = engine.wait()
    (turn,) = finished
    if isinstance(turn, LostJob):
        raise PopulationError(f"the first turn was lost: {turn.reason}")
    assert isinstance(turn, Turn)
    if not turn.ok:
        raise PopulationError(f"the first turn {turn.status}: {turn.error}")
    return turn
