"""What a controller needs of a store, in memory, with outages where a schedule puts them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pbt_flow.exceptions import StoreUnavailable
from pbt_flow.population.records import Checkpoint, Member, Turn
from pbt_flow.population.turn_files import Attempt
from pbt_flow.space import Space
from pbt_flow.testing.simulated_engine import SimulatedEngine


@dataclass
class MemoryStore:
    """What the controller needs of a store, in memory."""

    space: Space
    engine: SimulatedEngine
    run_id: str = "simulation"
    founders: Sequence[Member] = ()
    """The members as they were before they trained."""
    outages: Sequence[tuple[float, float]] = ()
    """When the store does not answer, as pairs of begin and end in simulated seconds."""
    told: list[Turn] = field(default_factory=list)
    """The turns that were logged, in the order in which they were."""
    written: list[Turn] = field(default_factory=list)
    """The turns in the journal, in the order in which they came there."""
    retired: list[int] = field(default_factory=list)
    """The members whose runs were ended."""
    left: dict[int, str] = field(default_factory=dict)
    """The members that have left at the end of a stage, with what their runs say of it."""
    tags: dict[str, str] = field(default_factory=dict)
    """The tags of the population's run."""
    sees_states: bool = True
    """Whether it says of any number of states at once whether they exist, as a disk does."""
    asked: int = 0
    """Of how many states it was asked whether they exist."""
    shown: list[Turn] = field(default_factory=list)
    """The turns whose samples were put on the population's run."""

    @property
    def folders(self) -> MemoryStore:
        return self

    @property
    def artifacts(self) -> MemoryStore:
        return self

    def have_states(self, checkpoints: Sequence[Checkpoint]) -> list[bool]:
        self.asked += len(checkpoints)
        return [(one.member, one.turn) in self.engine.states for one in checkpoints]

    patience = 0.0

    def record(self, member: int, turn: int) -> Turn | None:
        return None

    def commit(self, turn: Turn) -> None:
        self.engine.committed.append(turn)

    def log_turns(self, turns: Sequence[Turn]) -> None:
        self._answer()
        self.told += turns

    def log_records(self, turns: Sequence[Turn]) -> None:
        self.written += turns

    def log_population(self, metrics: Mapping[str, float], step: int, when: float) -> None:
        self._answer()

    def retire(self, member: int) -> None:
        self._answer()
        self.retired.append(member)

    def leave(self, member: int, why: str, when: float) -> None:
        self._answer()
        self.left[member] = why

    def tag(self, tags: Mapping[str, str]) -> None:
        self._answer()
        self.tags |= tags

    def log_samples(self, folder: Path, turn: Turn | None = None) -> None:
        self._answer()
        if turn is not None:
            self.shown.append(turn)

    def delete_checkpoint(self, checkpoint: Checkpoint) -> None:
        if self.sees_states:
            del self.engine.states[checkpoint.member, checkpoint.turn]
        else:
            self.engine.states.pop((checkpoint.member, checkpoint.turn), None)

    def discard_attempts(
        self, turns: Mapping[tuple[int, int], Attempt | None], *, claim: int
    ) -> None:
        pass

    def _answer(self) -> None:
        if any(begins <= self.engine.now < ends for begins, ends in self.outages):
            raise StoreUnavailable("the store is away", "wait")
