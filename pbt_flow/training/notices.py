"""What the user is told while a population trains, each thing once.

A sentence waits until nothing else is being said: a signal comes in the middle of a printed line,
and a thread that talks to the store must not write to the screen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pbt_flow.population.records import Turn
from pbt_flow.training.findings import Finding


@dataclass
class Notices:
    """The sentences that wait to be said, and what the user knows already."""

    say: Callable[[str], None]
    tag: Callable[[Mapping[str, str]], None]
    """Has tags written on the population's run."""
    soon: deque[str] = field(default_factory=deque)
    """What the user is told as soon as nothing else is being said."""
    noted: set[str] = field(default_factory=set)
    """The topics of turns' notes that the user has been told."""
    _waiting: str = ""
    """What the engine waits for, as the user was told last."""
    _silent: bool = False
    """Whether the user knows that the tracking store does not answer."""

    def say_now(self) -> None:
        """Say all that waits."""
        while self.soon:
            self.say(self.soon.popleft())

    def warn(self, sign: Finding) -> None:
        """Tell the user of something that may be wrong, and keep it on the population's run."""
        self.soon.append(f"warning: {sign.text}")
        self.tag({f"pbt.warning/{sign.name}": sign.text})

    def note_check(self, check: str, outcome: str) -> None:
        """Keep on the population's run what came of a check, which is made only once."""
        self.tag({f"pbt.checked/{check}": outcome})

    def tell_notes(self, turn: Turn) -> None:
        """Tell the user what the task understood only in training, once for each topic."""
        for topic, sentence in turn.notes.items():
            if topic not in self.noted:
                self.noted.add(topic)
                where = f"turn {turn.number} of member {turn.member}"
                self.soon.append(f"{topic}: {sentence} (first seen in {where})")
                self.tag({f"pbt.noted/{topic}": sentence})

    def tell_waiting(self, waiting: str) -> None:
        """Tell the user what the engine waits for; nothing if it is empty."""
        if waiting and waiting != self._waiting:
            self.soon.append(f"waiting for {waiting}")
        self._waiting = waiting

    def tell_silence(self, silent: bool, *, patience: float, is_told: bool) -> None:
        """Tell the user that the tracking store is away, or back, where nobody else would.

        Where nothing waits to be logged, all workers may be waiting to leave their turns in the
        store.

        Args:
            silent: Whether the store does not answer.
            patience: Seconds that a turn waits to be left there at most; 0 where it is left
                elsewhere.
            is_told: Whether something waits to be logged, which has words of its own.
        """
        if silent and not self._silent and patience > 0.0 and not is_told:
            self._silent = True
            self.soon.append(
                "the tracking store does not answer; a turn that ends waits to be left there, for "
                f"{patience:g} seconds at most"
            )
        elif self._silent and not silent:
            self._silent = False
            self.soon.append("the tracking store answers again")
