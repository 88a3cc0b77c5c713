"""A population that is training elsewhere, followed from this terminal by its store alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from pbt_flow.commands.progress import Progress
from pbt_flow.commands.stored_population import StoredPopulation
from pbt_flow.exceptions import StoreUnavailable
from pbt_flow.population.history import History
from pbt_flow.population.leaving import end_stages
from pbt_flow.population.records import Turn
from pbt_flow.population.result import Result

_LOOKS_EACH = 3
"""How often the table is drawn, for the time that it shows, between two looks at the store."""
_PAUSE = 0.4
_SILENCE = 90.0
"""Seconds after which a controller that nobody has heard is said to be silent."""


def watch(
    run_id: str,
    *,
    quiet: bool = False,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> Result:
    """Follow a population until it ends, as the terminal in which it trains shows it.

    The population learns nothing of it. Of one that has ended, the result is returned at once.

    Args:
        run_id: The population's run, the beginning of its id, or `last`.
        quiet: Whether to print nothing.
        clock: Returns the seconds since any fixed moment.
        pause: Waits for some seconds.

    Returns:
        What became of it, as `load` returns it.

    Raises:
        StoreError: There is no such population.
        RecordError: A turn record cannot be trusted.
    """
    from pbt_flow.tracking.client import short_requests

    with short_requests():
        stored = StoredPopulation.open(run_id)
        store = stored.store
        if store.status == "running":
            progress = Progress(stored.settings, store.run_id, store.tracking_uri, quiet=quiet)
            for line in progress.greeting:
                progress.say(line)
            history = stored.read_history()
            progress.join(history)
            watched = Watched(stored=stored, history=history, progress=progress, clock=clock)
            with progress:
                while watched.look():
                    for _ in range(_LOOKS_EACH):
                        progress.tick()
                        pause(_PAUSE)
        # A resume may have changed the settings meanwhile.
        return StoredPopulation.open(store.run_id).result()


@dataclass(kw_only=True)
class Watched:
    """A population as far as it has been seen."""

    stored: StoredPopulation
    history: History
    progress: Progress
    clock: Callable[[], float]
    _heard: tuple[str, float] = ("", 0.0)
    """The last heartbeat of its controller, and when it was new here."""
    _told: set[str] = field(default_factory=set)
    """What the user has been told, each once until it is over."""

    def look(self) -> bool:
        """Look at the store once, and return whether the population is running still."""
        try:
            # Asked first: what was committed before the end is read afterwards.
            status, heartbeat = self.stored.store.pulse()
            self._take_in_new_turns()
        except StoreUnavailable as error:
            self._tell_once("away", f"{error.reason}; it is asked again until it answers")
            return True
        self._told.discard("away")
        self._listen(heartbeat)
        return status == "running"

    def _take_in_new_turns(self) -> None:
        """Show the turns that members have committed since the last look."""
        store, fresh = self.stored.store, list[tuple[float, Turn]]()
        for member, committed in store.turns_logged().items():
            ended = 0.0
            for number in range(len(self.history.turns[member]) + 1, committed + 1):
                turn = store.record(member, number)
                if turn is None:
                    break
                # Two workers may have two clocks, and a member's turns still follow each other.
                ended = max(ended, turn.ended)
                fresh.append((ended, turn))
        for _, turn in sorted(fresh, key=lambda item: (item[0], item[1].number)):
            self.history.add(turn)
            self.progress.turn(turn, self.history)
        end_stages(self.history, max_failures=self.stored.settings.max_failures)

    def _listen(self, heartbeat: str) -> None:
        """Say so if its controller has not been heard for long."""
        if heartbeat != self._heard[0] or not self._heard[1]:
            self._heard = heartbeat, self.clock()
            self._told.discard("silent")
        silent = self.clock() - self._heard[1]
        if silent > _SILENCE:
            self._tell_once(
                "silent",
                f"its controller has not been heard for {silent:.0f} s and may be gone; Ctrl-C "
                f"ends this, and python -m pbt_flow resume {self.stored.run_id[:12]} goes on",
            )

    def _tell_once(self, what: str, text: str) -> None:
        if what not in self._told:
            self._told.add(what)
            self.progress.say(text)
