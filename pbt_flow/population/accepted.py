"""What a controller found when it took a population over: all that counts of earlier claims.

A worker that its controller has given up may go on all the same, and write its record at any time
after. As long as the controller lives, its later attempt is the greater one and counts. When
another controller takes over, it accepts the records that it finds, and builds on them. A record
that an earlier claim's worker writes afterwards must not count then, however great its attempt is.
So the new controller writes down what it has found before it gives a turn out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from pbt_flow.exceptions import RecordError
from pbt_flow.population.records import Turn
from pbt_flow.population.turn_files import Attempt

ACCEPTED = "accepted"
"""The folder among the artifacts of a population's run; it has a file for each claim that found
turns of earlier ones, named by the number of the claim."""
_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """The attempts that count of the turns that were there when a controller took over."""

    claim: int = 0
    """The number of the controller's claim. Of later turns only its attempts and those of later
    claims count."""
    attempts: Mapping[int, Sequence[Attempt]] = field(default_factory=dict)
    """Of each member the attempt of each of its turns, in order."""

    @classmethod
    def found(cls, claim: int, turns: Mapping[int, Sequence[Turn]]) -> Accepted:
        """Return what the controller of a claim accepts.

        Args:
            claim: The number of the claim.
            turns: Of each member the turns that the controller has found, in order.
        """
        attempts = {member: [t.plan.attempt for t in own] for member, own in turns.items()}
        return cls(claim=claim, attempts=attempts)

    def count(self, member: int) -> int:
        """Return how many turns of a member were there."""
        return len(self.attempts.get(member, ()))

    def choose(self, member: int, turn: int, there: Iterable[Attempt]) -> Attempt | None:
        """Return the attempt of a turn that counts; None if the turn has not happened.

        Args:
            member: The member.
            turn: The number of the turn among the member's turns.
            there: The attempts that have a record.
        """
        if turn <= self.count(member):
            named = self.attempts[member][turn - 1]
            return named if named in there else None
        return max((one for one in there if one.claim >= self.claim), default=None)

    def to_json(self) -> str:
        """Return it as a text. Equal attempts of turns that follow each other take one entry."""
        members = {
            str(member): [
                [len(list(equal)), one.claim, one.number] for one, equal in groupby(attempts)
            ]
            for member, attempts in self.attempts.items()
        }
        return json.dumps({"version": _VERSION, "claim": self.claim, "members": members})

    @classmethod
    def from_json(cls, text: str) -> Accepted | None:
        """Return what `to_json` wrote; None if the text is not whole.

        A controller gives no turn out before the file is whole, so one that was killed while it
        wrote has nothing that could count or not.

        Raises:
            RecordError: The text is whole, and not what `to_json` writes.
        """
        try:
            plain = json.loads(text)
        except (ValueError, RecursionError):
            return None
        try:
            return cls._read(plain)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RecordError(f"not a list of accepted turns: {error!r:.80}") from None

    @classmethod
    def _read(cls, plain: Any) -> Accepted:
        if plain["version"] != _VERSION:
            raise ValueError(f"version {plain['version']!r}")
        attempts = dict[int, list[Attempt]]()
        for member, entries in plain["members"].items():
            own = attempts.setdefault(int(member), [])
            for count, claim, number in entries:
                one = Attempt(claim=_natural(claim), number=_natural(number))
                own += [one] * _natural(count)
        return cls(claim=_natural(plain["claim"]), attempts=attempts)


def _natural(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no number from 0 on")
    return value


NOTHING = Accepted()
"""What the first controller of a population accepts: there was nothing."""


def file_of_claim(claim: int) -> str:
    """Return the name of the file in `ACCEPTED` in which a claim's controller says it."""
    return f"{claim:04d}.json"


def claim_of_file(name: str) -> int | None:
    """Return the claim that such a file belongs to; None for any other file."""
    stem = name.removesuffix(".json")
    claim = int(stem) if stem.isascii() and stem.isdecimal() else 0
    return claim if file_of_claim(claim) == name else None
