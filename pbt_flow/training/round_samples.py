"""What the best member of each round shows: its samples, made by the workers between turns.

One grid of pictures after each round says more of a generator than its score does. They are made
from a checkpoint, which is held on to until then, so that no turn waits for them.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from pbt_flow.engines import LostJob
from pbt_flow.engines.jobs import Inspect, Inspection
from pbt_flow.population.records import Turn
from pbt_flow.training.log_queue import LogQueue
from pbt_flow.training.member_index import MemberIndex
from pbt_flow.utils.reasons import reason_in


class SampleStore(Protocol):
    """Where samples are shown."""

    def log_samples(self, folder: Path, turn: Turn | None = None) -> None: ...


@dataclass
class RoundSamples:
    """The samples of a population's rounds, from the wish to the store."""

    store: SampleStore
    member_index: MemberIndex
    log_queue: LogQueue
    say: Callable[[str], None]
    done_rounds: Container[int] = ()
    """The rounds whose samples are in the store already."""
    _turns: dict[str, Turn] = field(default_factory=dict)
    """The turns that are or will be looked at, by the folder of their samples."""
    _waiting: deque[Inspect] = field(default_factory=deque)
    _silenced: bool = False

    @property
    def under_way(self) -> int:
        """How many looks have been handed out."""
        return len(self._turns) - len(self._waiting)

    def request(self, turn: Turn) -> None:
        """Have the samples of a round's best turn made, unless they are there."""
        if turn.number in self.done_rounds or turn.checkpoint is None:
            return
        folder = tempfile.mkdtemp(prefix="pbt_flow-")
        self.member_index.count_use(turn.checkpoint)
        self._turns[folder] = turn
        self._waiting.append(
            Inspect(member=turn.member, checkpoint=turn.checkpoint, samples=folder, report=False)
        )

    def next(self) -> Inspect | None:
        """What is to be looked at next."""
        return self._waiting.popleft() if self._waiting else None

    def receive(self, done: Inspection | LostJob) -> Turn:
        """Have what was made put into the store, and let go of the checkpoint it was made from."""
        look = done.request if isinstance(done, Inspection) else done.job
        assert isinstance(look, Inspect)
        assert look.samples is not None
        turn = self._turns.pop(look.samples)
        self.member_index.count_use(turn.checkpoint, -1)
        error = done.error.strip() if isinstance(done, Inspection) else done.reason
        if error and not self._silenced:
            # Once: what fails for one round fails for most.
            self._silenced = True
            self.say(f"no samples of round {turn.number}: {reason_in(error)}")
        self.log_queue.add(partial(self._show, Path(look.samples), turn))
        return turn

    def close(self) -> None:
        """Give up what has not been made."""
        for folder in self._turns:
            shutil.rmtree(folder, ignore_errors=True)
        self._turns.clear()
        self._waiting.clear()

    def _show(self, folder: Path, turn: Turn) -> None:
        if folder.is_dir() and any(folder.iterdir()):
            self.store.log_samples(folder, turn)
        shutil.rmtree(folder, ignore_errors=True)
