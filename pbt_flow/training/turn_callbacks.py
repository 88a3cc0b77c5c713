"""Functions of the user's that are called after each turn, and may stop the population.

def on_turn(turn, history):
    print(turn.member, turn.number, turn.score)
    return pbt_flow.STOP if history.winner().score > 0.99 else None
"""

from __future__ import annotations

import enum
import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from pbt_flow.exceptions import SettingsError
from pbt_flow.population.history import History
from pbt_flow.population.records import Turn
from pbt_flow.utils.reasons import reason_of


class Stop(enum.Enum):
    """What an `on_turn` returns to stop a population in order: `pbt_flow.STOP`.

    The turns under way finish, and the population ends as one that has reached its `target`: with a
    winner, a report and a model. A resume goes on with it.
    """

    STOP = "stop"

    def __repr__(self) -> str:
        return "pbt_flow.STOP"


STOP: Final = Stop.STOP
OnTurn: TypeAlias = Callable[[Turn, History], Stop | None]
"""A function that gets a turn that has just been committed, and the history so far, which it must
not change."""


def read_callbacks(on_turn: Any) -> tuple[OnTurn, ...]:
    """Return what was given as `on_turn`, one function or several, as a tuple.

    Raises:
        SettingsError: One of them cannot be called with a turn and a history.
    """
    if on_turn is None:
        return ()
    given = on_turn if isinstance(on_turn, Sequence) else [on_turn]
    for callback in given:
        if not callable(callback) or isinstance(callback, type):
            raise SettingsError(
                "on_turn must be a function of a turn and the history so far, or a list of such "
                f"functions, got {callback!r:.100}"
            )
        _check_arguments(callback)
    return tuple(given)


def _check_arguments(callback: Callable[..., Any]) -> None:
    """Refuse a function that cannot be called with a turn and a history.

    Raises:
        SettingsError: It cannot.
    """
    try:
        signature = inspect.signature(callback)
    except ValueError:
        return  # Some functions written in C do not say what they take.
    name = getattr(callback, "__qualname__", type(callback).__qualname__)
    try:
        signature.bind(None, None)
    except TypeError as error:
        raise SettingsError(
            f"on_turn is called as on_turn(turn, history), and {name} cannot be: {error}"
        ) from None


@dataclass
class TurnCallbacks:
    """Calls functions of the user's after each turn, and notes what is to become of the population.

    After one of them has raised an exception, none is called any more.
    """

    functions: Sequence[OnTurn] = ()
    say: Callable[[str], None] = print
    """Tells the user of a value that has no meaning."""
    error: BaseException | None = field(default=None, init=False)
    """What one of the functions has raised."""
    _has_told: bool = field(default=False, init=False)

    def call(self, turns: Iterable[Turn], history: History) -> str:
        """Call every function with every turn.

        Returns:
            Why the population is to stop; empty if it is not.
        """
        reason = ""
        for turn in turns:
            for function in self.functions:
                if self.error is not None:
                    return reason
                reason = self._call(function, turn, history) or reason
        return reason

    def _call(self, function: OnTurn, turn: Turn, history: History) -> str:
        where = f"turn {turn.number} of member {turn.member}"
        try:
            answer: object = function(turn, history)
        except KeyboardInterrupt:
            raise  # Ctrl-C reaches a function, too, and is not its own.
        except BaseException as error:
            # It is raised again once the turns under way are committed and the runs have ended.
            self.error = error
            if isinstance(error, SystemExit):
                return f"on_turn called sys.exit after {where}"
            return f"on_turn raised an exception after {where}: {reason_of(error)}"
        if answer is STOP:
            return f"on_turn returned pbt_flow.STOP after {where}"
        if answer is not None and not self._has_told:
            self._has_told = True
            self.say(
                f"on_turn returned {answer!r:.40}, which does nothing; pbt_flow.STOP ends the "
                "population, and None lets it go on"
            )
        return ""
