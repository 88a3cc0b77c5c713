"""Processes that kill themselves at a named point of a population's life, for test_crashes.py."""

import itertools
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sample_tasks import Regression

SETTINGS = {"turns": 5, "exploit": "tournament", "seed": 1}
STAGES = {**SETTINGS, "stages": "8x1:none,4x2:hparams,2x2:both"}
"""The same budget in stages: at turn 1 four members leave, at turn 3 two."""
GROUPS = {"population": 8, "turns": 4, "exploit": "mfpbt:periods=1/2", "seed": 1}
"""Two sub-populations of four: after turn 2 and later, members take from two others at once."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """The `nth` call of a function, and whether the process ends before or after it."""

    owner: str
    """The module, or module and class, that the function is looked up in."""
    name: str
    nth: int
    before: bool = False
    where: Callable[[Any], bool] = lambda returned: True
    """Which calls count, by what they return."""

    def arm(self, kill: Callable[[], None]) -> None:
        """Replace the function by one that kills at the point."""
        import importlib

        module, _, kind = self.owner.partition(":")
        place: Any = importlib.import_module(module)
        place = getattr(place, kind) if kind else place
        original, calls = getattr(place, self.name), itertools.count(1)

        def fatal(*arguments: Any, **named: Any) -> Any:
            if self.before and next(calls) == self.nth:
                kill()
            returned = original(*arguments, **named)
            if not self.before and self.where(returned) and next(calls) == self.nth:
                kill()
            return returned

        setattr(place, self.name, fatal)


def _controller(name: str, nth: int, **how: Any) -> Point:
    return Point(owner="pbt_flow.training.controller:Controller", name=name, nth=nth, **how)


def _store(name: str, nth: int, **how: Any) -> Point:
    return Point(owner="pbt_flow.tracking.store:Store", name=name, nth=nth, **how)


def _artifacts(name: str, nth: int) -> Point:
    return Point(owner="pbt_flow.tracking.artifacts:Artifacts", name=name, nth=nth)


def _client(name: str, nth: int, **how: Any) -> Point:
    return Point(owner="mlflow.tracking:MlflowClient", name=name, nth=nth, **how)


def _copies(advised: Any) -> bool:
    return advised.donor is not None


# 4 members and 5 turns: the 10th turn is in the middle of the third generation.
IN_A_TURN = {
    "a turn begins": Point(owner="pbt_flow.engines.worker:Worker", name="run", nth=10, before=True),
    "it has restored a donor": Point(owner="pbt_flow.engines.worker", name="load_state", nth=1),
    "it has trained": Point(owner="sample_tasks:Regression", name="train", nth=10),
    "it is scored": Point(owner="sample_tasks:Regression", name="evaluate", nth=10),
    # Of each turn the state is published first, and then the record.
    "its state is written and has no name": Point(
        owner="pbt_flow.population.checkpoints", name="_name_durably", nth=19, before=True
    ),
    "its state is there": Point(owner="pbt_flow.engines.worker", name="save_state", nth=10),
    "its record is written and has no name": Point(
        owner="pbt_flow.population.checkpoints", name="_name_durably", nth=20, before=True
    ),
    "its record is there": Point(
        owner="pbt_flow.population.checkpoints:LocalFolders", name="commit", nth=10
    ),
}
IN_THE_CONTROLLER = {
    "no member's run has its params": _store("log_founder", 1, before=True),
    "half of the members' runs have their params": _store("log_founder", 2),
    "a turn is planned": _controller("plan", 10),
    "a member is to copy": Point(
        owner="pbt_flow.training.controller", name="advise", nth=2, where=_copies
    ),
    "a turn is accepted": _controller("accept", 10),
    "the next turn is begun and this one not logged": _store("log_turns", 4, before=True),
    "a turn is logged": _store("log_turns", 4),
    "the first turn of all is logged": _store("log_turns", 1),
    "a round is not logged yet": _store("log_population", 2, before=True),
    "a round is logged": _store("log_population", 2),
    "a checkpoint is to be deleted": _store("delete_checkpoint", 3, before=True),
    "a checkpoint is deleted": _store("delete_checkpoint", 3),
}
AFTER_THE_LAST_TURN = {
    "all turns are over": _controller("inspect", 1, before=True),
    "two finalists are judged": Point(
        owner="pbt_flow.engines.worker:Worker", name="evaluate_afresh", nth=3
    ),
    "all finalists are judged": Point(owner="pbt_flow.commands.run", name="judge_finalists", nth=1),
    "averages of finalists were tried": Point(
        owner="pbt_flow.commands.run", name="average_finalists", nth=1
    ),
    "the winner is reported on": _controller("inspect", 1),
    "the samples are there": _artifacts("log_samples", 1),
    "the model is begun": _client("create_logged_model", 1),
    "the model is written and not ended": _client("finalize_logged_model", 1, before=True),
    "the model is not noted": _client("log_outputs", 1),
    "the model is there": _artifacts("keep_model", 1),
    "the result is written and not told": _client("log_dict", 2),
    "the result is told": Point(owner="pbt_flow.tracking.outcome:Outcome", name="conclude", nth=1),
    "half of the runs have ended": _client("set_terminated", 2),
    "all members have ended and the population not": _client("set_terminated", 4),
    "all runs have ended": _store("finish", 1),
    "the claim is not given back": Point(
        owner="pbt_flow.tracking.lease:Lease", name="release", nth=1, before=True
    ),
}
IN_A_RESUME = {
    "the population is claimed": _store("claim", 1),
    "the missing turns are known": _store("projected", 1),
    "it is not said yet what was found": _store("accept", 1, before=True),
    "it is said what was found": _store("accept", 1),
    "what other attempts left is to be deleted": _store("discard_attempts", 2, before=True),
    "half of the runs are running again": _client("update_run", 3),
    "the first turn after it is committed": Point(
        owner="pbt_flow.population.checkpoints:LocalFolders", name="commit", nth=1
    ),
}
IN_THE_THREADS = (
    "half of the members' runs have their params",
    "the next turn is begun and this one not logged",
    "a turn is logged",
    "a round is logged",
    "a checkpoint is to be deleted",
    "a checkpoint is deleted",
)
"""The points that threads of the controller come to."""
BEFORE_ALL = {"the runs are being made": _client("log_dict", 1, before=True)}
IN_STAGES = {
    "the last turn of a stage is there and its end not seen": _controller("accept", 8, before=True),
    "the last turn of a stage is accepted": _controller("accept", 8),
    "a stage has ended": Point(
        owner="pbt_flow.training.stage_progress:StageProgress", name="tell", nth=8, before=True
    ),
    "nobody is told yet of who left": _store("leave", 1, before=True),
    "a run says who left and has not ended": _client("set_terminated", 1, before=True),
    "half of those that left are told": _store("leave", 2),
    "the first turn of the next stage is planned": _controller("plan", 9),
    "the first turn of the next stage is there": _controller("accept", 9, before=True),
    "those that left the second stage are told": _store("leave", 6),
}


def _takes_from_two(advised: Any) -> bool:
    return advised.donor is not None and advised.donor.hparams_of is not None


IN_GROUPS = {
    "a member is to take from two others": Point(
        owner="pbt_flow.training.controller", name="advise", nth=1, where=_takes_from_two
    ),
    "the first generation of both is there": _controller("accept", 16, before=True),
    "one that took from two others is there": _controller("accept", 24, before=True),
    "the best of a sub-population is to be deleted": _store("delete_checkpoint", 9, before=True),
}
POINTS = (
    BEFORE_ALL
    | IN_A_TURN
    | IN_THE_CONTROLLER
    | AFTER_THE_LAST_TURN
    | IN_A_RESUME
    | IN_STAGES
    | IN_GROUPS
)


def die() -> None:
    """End this process as nothing else could: no handler runs, nothing is flushed."""
    os.kill(os.getpid(), signal.SIGKILL)


def run_to(
    name: str, mode: str, folder: str, run_id: str | None = None, engine: str = "inline"
) -> None:
    """In a process of its own: run or resume a population in this folder, and die at the point."""
    os.chdir(folder)
    POINTS[name].arm(die)
    import pbt_flow

    if run_id is None:
        settings = SETTINGS
        if name in IN_STAGES:
            settings = STAGES
        elif name in IN_GROUPS:
            settings = GROUPS
        task = Regression if engine == "inline" else "sample_tasks:Regression"
        pbt_flow.run(task, mode=mode, engine=engine, quiet=True, **settings)
    else:
        pbt_flow.resume(run_id, quiet=True)


class Fragile(Regression):
    """A task whose workers die in turn, one at each of the points that PBT_TEST_POINTS names."""


def _die_once(mark: Path) -> None:
    mark.touch()
    die()


if "PBT_FLOW_WORKER" in os.environ and "PBT_TEST_POINTS" in os.environ:
    folder, *names = os.environ["PBT_TEST_POINTS"].split("|")
    marks = [Path(folder, f"used-{number}") for number in range(len(names))]
    left = [one for one in zip(names, marks, strict=True) if not one[1].exists()]
    if left:
        POINTS[left[0][0]].arm(partial(_die_once, left[0][1]))
