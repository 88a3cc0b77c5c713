"""The committed turns of a population, read from its journal and from their records.

The record is the commit. The journal is a second copy, which is believed of a member as far as the
record of the newest turn that it has is the same.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pbt_flow.exceptions import RecordError
from pbt_flow.population.accepted import Accepted
from pbt_flow.population.checkpoints import Folders, LocalFolders
from pbt_flow.population.records import Turn, fitted_turn, turn_to_json
from pbt_flow.population.turn_files import Attempt, turn_folder
from pbt_flow.space import Space
from pbt_flow.tracking.journal import JournalRead, Seal
from pbt_flow.tracking.lease import newest_claim
from pbt_flow.tracking.population_runs import PopulationRuns
from pbt_flow.utils.at_once import call_at_once

_MOST_COMPARED = 16
"""How many members' newest records are compared with a journal that has every turn."""


@dataclass(frozen=True, kw_only=True)
class TurnReader:
    """Reads the committed turns of one population."""

    runs: PopulationRuns
    space: Space
    folders: Folders
    accepted: Accepted
    """Which attempts at turns count."""

    def read(
        self, journal: JournalRead, say: Callable[[str], None]
    ) -> tuple[dict[int, list[Turn]], list[Turn]]:
        """Return the turns of each member, in order, and those of them that the journal lacks.

        Args:
            journal: What the journal says.
            say: Tells the user what in it is not believed.

        Raises:
            RecordError: A record cannot be trusted, or one is missing between others.
        """
        doubts = [f"{doubt}; the turns are read from their records" for doubt in journal.doubts]
        members, lacking = range(len(self.runs.members)), list[Turn]()
        # The listings of many members wait for a server, and not for this machine.
        is_here = isinstance(self.folders, LocalFolders)
        at_once = 1 if is_here else self.runs.requests_at_once
        if not is_here and self._has_every_turn(journal):
            return {m: self._fitted(journal.turns.get(m, ())) for m in members}, []

        def read(member: int) -> list[Turn]:
            known = self._accepted_of(journal.turns.get(member, ()))
            found, believed = self.of_member(member, known)
            if known and not believed:
                doubts.append(
                    f"the journal has turn {len(known)} of member {member}, whose record is "
                    "missing or another one; this member's turns are read from their records"
                )
            lacking.extend(found[believed:])
            return found

        turns = dict(enumerate(call_at_once(read, members, at_once)))
        for doubt in doubts:
            say(doubt)
        return turns, lacking

    def of_member(self, member: int, known: Sequence[Turn] = ()) -> tuple[list[Turn], int]:
        """Return the turns of a member, in order, and how many of them the journal has said.

        Args:
            member: The member.
            known: Its first turns, as the journal says.

        Raises:
            RecordError: A record cannot be trusted, or one is missing between others.
        """
        found: list[Turn] = []
        # Asked before the records are read, since a member that is training may commit another turn
        # meanwhile.
        last = self.folders.last(member, self.accepted, known=len(known))
        if 0 < len(known) <= last:
            newest = self.record(member, len(known), known[-1].plan.attempt)
            if newest is None:
                last = self.folders.last(member, self.accepted)
            elif _is_same(newest, known[-1]):
                found = self._fitted(known)
        believed = len(found)
        while len(found) < last or not known:
            turn = self.record(member, len(found) + 1)
            if turn is None:
                break
            found.append(turn)
        if last > len(found):
            raise missing_record(self.runs.members[member], len(found) + 1, f"turn {last} has one")
        if (there := self.accepted.count(member)) > len(found):
            why = f"an earlier controller found {there} turns"
            raise missing_record(self.runs.members[member], len(found) + 1, why)
        return found, believed

    def _fitted(self, turns: Sequence[Turn]) -> list[Turn]:
        """Turns of the journal with the values of the space."""
        return [fitted_turn(turn, self.space) for turn in turns]

    def _has_every_turn(self, journal: JournalRead) -> bool:
        """Whether the journal has all turns, by the word of the controller that ended in order.

        A few of the newest records are read all the same. Where any of this is not so, every
        member's records are looked at: a request or two for each.
        """
        with self.runs.talk():
            run = self.runs.client.get_run(self.runs.run_id)
        seal = Seal.of(run.data.tags)
        if run.info.status == "RUNNING" or journal.doubts or seal is None:
            return False
        there = sum(len(turns) for turns in journal.turns.values())
        if seal != Seal(claim=newest_claim(run)[0], turns=there, digest=journal.digest):
            return False
        known = [turns for turns in journal.turns.values() if turns]
        if any(len(self._accepted_of(turns)) < len(turns) for turns in known):
            return False
        chosen = known[:: math.ceil(len(known) / _MOST_COMPARED) or 1]

        def is_true(turns: Sequence[Turn]) -> bool:
            last = turns[-1]
            record = self.record(last.member, last.number, last.plan.attempt)
            return record is not None and _is_same(record, last)

        return all(call_at_once(is_true, chosen, self.runs.requests_at_once))

    def _accepted_of(self, known: Sequence[Turn]) -> Sequence[Turn]:
        """The first turns of a member in the journal that are of attempts that count."""
        for place, turn in enumerate(known):
            own = turn.plan.attempt
            if self.accepted.choose(turn.member, turn.number, [own]) != own:
                return known[:place]
        return known

    def record(self, member: int, number: int, attempt: Attempt | None = None) -> Turn | None:
        """Return a committed turn of a member, with the values of the space; None if there is none.

        Args:
            member: The member.
            number: The number of the turn among the member's turns.
            attempt: The attempt that counts, if that is known.

        Raises:
            RecordError: The record cannot be trusted.
        """
        turn = self.folders.record(member, number, self.accepted, attempt)
        return None if turn is None else fitted_turn(turn, self.space)


def missing_record(run_id: str, turn: int, why: str) -> RecordError:
    """The error of a population from which the record of a turn was deleted.

    Args:
        run_id: The member's run.
        turn: The number of the turn.
        why: Why it must have happened.
    """
    return RecordError(
        f"run {run_id}: there is no record in {turn_folder(turn)}, and {why}: somebody has deleted "
        "the record of a turn that has happened; bring the file back, since it cannot be made again"
    )


def _is_same(one: Turn, other: Turn) -> bool:
    """Whether two turns have the same record: one may have the tuples of the space for its lists,
    and a number that is none is equal to itself.
    """
    return json.dumps(turn_to_json(one)) == json.dumps(turn_to_json(other))
