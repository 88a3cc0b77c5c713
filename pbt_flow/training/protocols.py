"""What the controller needs of a store, of a screen, and of whoever plans a turn in its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from pbt_flow.population.history import History
from pbt_flow.population.records import Checkpoint, Member, Plan, Turn
from pbt_flow.population.turn_files import Attempt
from pbt_flow.space import Space
from pbt_flow.training.round_samples import SampleStore


class TurnStore(Protocol):
    """Where turns become committed."""

    @property
    def patience(self) -> float: ...

    def record(self, member: int, turn: int) -> Turn | None: ...

    def commit(self, turn: Turn) -> None: ...


class PopulationStore(Protocol):
    """What the controller needs of a store."""

    run_id: str
    space: Space

    @property
    def artifacts(self) -> SampleStore: ...

    @property
    def folders(self) -> TurnStore: ...

    @property
    def sees_states(self) -> bool: ...

    def have_states(self, checkpoints: Sequence[Checkpoint]) -> Sequence[bool]: ...

    def log_turns(self, turns: Sequence[Turn]) -> str | None: ...

    def log_records(self, turns: Sequence[Turn]) -> None: ...

    def log_population(self, metrics: Mapping[str, float], step: int, when: float) -> None: ...

    def delete_checkpoint(self, checkpoint: Checkpoint) -> str | None: ...

    def discard_attempts(
        self, turns: Mapping[tuple[int, int], Attempt | None], *, claim: int
    ) -> None: ...

    def retire(self, member: int) -> None: ...

    def leave(self, member: int, why: str, when: float) -> None: ...

    def tag(self, tags: Mapping[str, str]) -> None: ...


class ProgressListener(Protocol):
    """What the controller tells about its progress."""

    def turn(self, turn: Turn, history: History) -> None: ...

    def tick(self) -> None: ...

    def say(self, text: str) -> None: ...


class Planner(Protocol):
    """Says what a member trains next, in place of the decision of PBT.

    It compares nobody with anybody: no member has to wait for another, one that has begun goes on
    before another begins, and nothing is said of rounds.
    """

    def plan(self, member: Member) -> Plan: ...


class Claim(Protocol):
    """The right to control the population."""

    asked_to_stop: bool

    @property
    def lost(self) -> bool: ...

    @property
    def is_silent(self) -> bool: ...
