"""The live terminal: a table of the members while they train, or else plain lines.

Everything goes to standard error; standard output is for the result. In a notebook one line is
written over, and the others are standard output, since notebooks show errors in red.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import IO, Any, cast

from rich.console import Console
from rich.live import Live

from pbt_flow.commands.live_table import live_table
from pbt_flow.commands.notebook_line import NotebookLine, is_in_notebook
from pbt_flow.population.history import History
from pbt_flow.population.records import Turn
from pbt_flow.population.turn_files import ERROR, file_place
from pbt_flow.settings import Settings
from pbt_flow.utils.passwords import hide_password
from pbt_flow.utils.terminal import Unbroken
from pbt_flow.utils.text import counted, duration, number, turn_count, values


def plan_sentence(settings: Settings) -> str:
    """What will be trained, and by how many workers."""
    members, turns = settings.founders, settings.turns
    if settings.engine == "inline":
        where = "in this process"
    else:
        workers = min(settings.workers, members)
        where = f"by {counted(workers, 'worker')}"
        if settings.engine == "ray":
            where = f"by up to {where.removeprefix('by ')} on Ray"
    steps = counted(settings.interval, "step")
    each = f"{members} members, each for {turn_count(turns)} of {steps}"
    if settings.stage_plan is not None:
        each = f"{members} members in {len(settings.stage_plan.stages)} stages, in turns of {steps}"
    return f"{each}: {settings.all_turns} turns, {where} on {settings.device}"


def usual_stages_note(settings: Settings, given: Mapping[str, Any]) -> list[str]:
    """Why there are stages that nobody asked for, as a line or none.

    Args:
        settings: The population's settings.
        given: What was asked for.
    """
    if settings.stage_plan is None or given.get("stages") is not None:
        return []
    return [
        f"task {settings.task} is trained in stages by default where there are two members or more "
        "for a worker; --stages none trains all to the end"
    ]


class Progress:
    """Shows how a population is getting on.

    Args:
        settings: The population's settings.
        run_id: The population's run, named in the title.
        tracking_uri: Where that run is.
        quiet: Whether to show nothing at all.
    """

    def __init__(
        self, settings: Settings, run_id: str, tracking_uri: str, *, quiet: bool = False
    ) -> None:
        self._settings = settings
        self._quiet = quiet
        self._line = NotebookLine() if is_in_notebook() else None
        stream = Unbroken(sys.stderr if self._line is None else sys.stdout)
        self._console = Console(
            file=cast("IO[str]", stream),
            quiet=quiet,
            # Rich would make an output with HTML of its own of each line in a notebook, whose
            # output says that it is a terminal.
            force_jupyter=False,
            force_terminal=None if self._line is None else False,
        )
        self._live: Live | None = None
        self._history: History | None = None
        self._done_before: int | None = None
        self._began = time.monotonic()
        self._drawn = 0.0
        self._failed = False
        self._told = 0
        """Turns that the user has been told of; where two end at once, history has both."""
        self._estimated = False
        self.greeting = [
            f"population {run_id} at {hide_password(tracking_uri)}",
            plan_sentence(settings),
        ]
        """What the user is told first."""

    def __enter__(self) -> Progress:
        if self._console.is_terminal and not self._quiet:
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._draw()
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """One line that stays."""
        # A file gets whole lines, and a terminal whole words.
        soft = not self._console.is_terminal
        self._console.print(text, highlight=False, markup=False, soft_wrap=soft)

    def join(self, history: History) -> None:
        """Begin with what a population has done already, of which no turn is told."""
        self._history = history
        self._done_before = self._done(history)
        self._began = time.monotonic()
        # A look at the store brings several turns at once, and what two of them took says little.
        self._estimated = True

    def turn(self, turn: Turn, history: History) -> None:
        """Show a turn that has just been committed."""
        self._history = history
        if self._done_before is None:
            self._done_before = self._done(history) - 1
        self._told += 1
        self._estimate()
        if not turn.ok:
            where = ""
            if not self._failed:
                place = file_place(ERROR, turn.number, turn.plan.attempt)
                where = f" (all of it: artifact {place} of its run)"
            self._failed = True
            self.say(
                f"turn {turn.number} of member {turn.member} {turn.status}: {turn.reason}{where}"
            )
        if self._live is None and self._line is None and turn.ok:
            done, budget = self._done_before + self._told, self._budget
            copied = ""
            if (donor := turn.plan.donor) is not None:
                members = dict.fromkeys(f"{source.member:02d}" for source in donor.sources)
                copied = f" from member {' and '.join(members)}"
            self.say(
                f"[{done}/{budget}{self._left(history)}] member {turn.member:02d} "
                f"turn {turn.number}{copied}: score {number(turn.score)}  "
                f"{values(turn.plan.hparams)}"
            )

    def tick(self) -> None:
        """Redraw, at most a few times a second."""
        if time.monotonic() - self._drawn > 0.25:
            self._draw()

    def _done(self, history: History) -> int:
        return history.turns_done

    @property
    def _budget(self) -> int:
        return self._settings.all_turns

    def _estimate(self) -> None:
        """Say once, after the first turns, how long all of them will take."""
        first = min(self._settings.founders, 2 * self._settings.workers)
        left = self._budget - (self._done_before or 0) - self._told
        if self._estimated or self._told < first or left <= 0 or self._line is not None:
            return
        self._estimated = True
        seconds = (time.monotonic() - self._began) / self._told * left
        self.say(
            f"the first {self._told} turns say: about {duration(seconds)} more for the other {left}"
        )

    def _left(self, history: History) -> str:
        done = self._done(history)
        fresh = done - (self._done_before or 0)
        budget = self._budget
        if fresh < self._settings.founders or done >= budget:
            return ""
        left = (time.monotonic() - self._began) / fresh * (budget - done)
        return f", {duration(left)} left"

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        if self._history is None or self._quiet:
            return
        if self._line is not None:
            self._line.show(self._sentence(self._history))
        if self._live is None:
            return
        history, done = self._history, self._done(self._history)
        table = live_table(
            history,
            f"{done} of {self._budget} turns{_stage(history)}{self._left(history)}",
            width=self._console.width,
            height=self._console.height,
        )
        self._live.update(table, refresh=True)

    def _sentence(self, history: History) -> str:
        """How the population is getting on, in a line that a notebook has room for."""
        done = f"{self._done(history)} of {self._budget} turns{_stage(history)}"
        best = history.winner()
        if best is None:
            return f"{done}{self._left(history)}"
        where = f"member {best.member:02d} turn {best.number}"
        return f"{done}{self._left(history)}; best score {number(best.score)}, {where}"


def _stage(history: History) -> str:
    """The stage that the population is in; nothing where there are none."""
    plan = history.stages
    return "" if plan is None else f", stage {history.stage + 1} of {len(plan.stages)}"
