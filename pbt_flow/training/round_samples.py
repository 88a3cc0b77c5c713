"""The samples of the best member of each round, which workers make between turns.

One grid of pictures after each round says more of a generator than its score does. Workers make the
samples from a checkpoint, which is kept until then, so that no turn waits for them.
"""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from pbt_flow.engines import LostJob
from pbt_flow.engines.jobs import Inspect, Inspection
from pbt_flow.population.history import History, best_of_round
from pbt_flow.population.records import Checkpoint, Turn
from pbt_flow.training.log_queue import LogQueue
from pbt_flow.training.member_index import MemberIndex
from pbt_flow.utils.reasons import reason_in
from pbt_flow.utils.scratch import new_temporary_folder


class SampleStore(Protocol):
    """Where the samples go."""

    def log_samples(self, folder: Path, turn: Turn | None = None) -> None: ...


@dataclass
class RoundSamples:
    """The samples of a population's rounds, from the request to the store."""

    store: SampleStore
    member_index: MemberIndex
    log_queue: LogQueue
    say: Callable[[str], None]
    done_rounds: Container[int] = ()
    """The rounds whose samples are in the store already."""
    _turns: dict[str, Turn] = field(default_factory=dict)
    """The turns whose samples are being made or will be, by the folder of the samples."""
    _waiting: deque[Inspect] = field(default_factory=deque)
    """The requests that no worker has yet."""
    _silenced: bool = False
    """Whether the user was told of a failure: what fails for one round fails for most."""

    @property
    def under_way(self) -> int:
        """How many requests workers have at present."""
        return len(self._turns) - len(self._waiting)

    def request(self, turn: Turn) -> None:
        """Have the samples of a round's best turn made, unless the store has them."""
        if turn.number in self.done_rounds or turn.checkpoint is None:
            return
        folder = new_temporary_folder()
        self.member_index.count_use(turn.checkpoint)
        self._turns[folder] = turn
        self._waiting.append(
            Inspect(member=turn.member, checkpoint=turn.checkpoint, samples=folder, report=False)
        )

    def still_to_show(self, history: History) -> set[Checkpoint]:
        """The checkpoints of complete rounds whose samples the store does not have."""
        found = set[Checkpoint]()
        for number in range(1, self.member_index.fewest_turns() + 1):
            turns = [own[number - 1] for own in history.turns.values() if len(own) >= number]
            if number in self.done_rounds or not any(turn.ok for turn in turns):
                continue
            if (checkpoint := best_of_round(history, number).checkpoint) is not None:
                found.add(checkpoint)
        return found

    def next(self) -> Inspect | None:
        """The next request for a worker; None if none waits."""
        return self._waiting.popleft() if self._waiting else None

    def receive(self, done: Inspection | LostJob) -> Turn:
        """Have the samples put into the store. Their checkpoint is no longer needed for them.

        Returns:
            The turn whose samples they are.
        """
        look = done.request if isinstance(done, Inspection) else done.job
        assert isinstance(look, Inspect)
        assert look.samples is not None
        turn = self._turns.pop(look.samples)
        self.member_index.count_use(turn.checkpoint, -1)
        error = done.error.strip() if isinstance(done, Inspection) else done.reason
        if error and not self._silenced:
            self._silenced = True
            self.say(f"no samples of round {turn.number}: {reason_in(error)}")
        # A lane of their own: files take long, and the population's metrics need not wait.
        self.log_queue.add(partial(self._show, Path(look.samples), turn), lane="samples")
        return turn

    def close(self) -> None:
        """Give up the samples that have not been made."""
        for folder in self._turns:
            shutil.rmtree(folder, ignore_errors=True)
        self._turns.clear()
        self._waiting.clear()

    def _show(self, folder: Path, turn: Turn) -> None:
        if folder.is_dir() and any(folder.iterdir()):
            self.store.log_samples(folder, turn)
        shutil.rmtree(folder, ignore_errors=True)
