"""Every turn of a population as a row of a pandas table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, get_args

from pbt_flow.population.history import History
from pbt_flow.population.records import Status, Turn

if TYPE_CHECKING:
    import pandas as pd

_INT64 = range(-(2**63), 2**63)


def turns_dataframe(history: History) -> pd.DataFrame:
    """Return the committed turns, a row for each, ordered by member and turn.

    `Result.turns_dataframe` documents the columns.
    """
    # Pandas takes 0.3 s to import, and workers import what is in this wing.
    import pandas as pd

    turns = [turn for member in sorted(history.turns) for turn in history.turns[member]]
    donors = [turn.plan.donor for turn in turns]
    givers = [None if donor is None else donor.hparams_of for donor in donors]
    columns = {
        "member": pd.array([turn.member for turn in turns], dtype="int64"),
        "turn": pd.array([turn.number for turn in turns], dtype="int64"),
        "step": pd.array([turn.step for turn in turns], dtype="int64"),
        "trained": pd.array([turn.plan.trained for turn in turns], dtype="int64"),
        "status": pd.Categorical([turn.status for turn in turns], categories=get_args(Status)),
        "score": pd.array([turn.score for turn in turns], dtype="float64"),
        "donor": _optional([donor and donor.member for donor in donors]),
        "donor_turn": _optional([donor and donor.turn for donor in donors]),
        "hparams_donor": _optional([giver and giver.member for giver in givers]),
        "seconds": pd.array([sum(turn.seconds.values()) for turn in turns], dtype="float64"),
        "started": pd.to_datetime([turn.started for turn in turns], unit="s", utc=True),
    }
    for name in _hparam_names(history):
        columns[f"hparam/{name}"] = _hparam_column(turns, name)
    return pd.DataFrame(columns)


def _optional(numbers: Sequence[Any]) -> Any:
    """A column of whole numbers of which some are missing."""
    import pandas as pd

    return pd.array(numbers, dtype="Int64")


def _hparam_names(history: History) -> list[str]:
    """The hyperparameters, in the order of the space, also where no turn is done yet."""
    return list(next(iter(history.members.values())).hparams) if history.members else []


def _hparam_column(turns: Sequence[Turn], name: str) -> Any:
    """The values of a hyperparameter, in the narrowest type that changes none of them."""
    import pandas as pd

    values = [turn.plan.hparams[name] for turn in turns]
    # A bool is an int for Python, and an int a float for pandas: neither is to turn into the other.
    kinds = {type(value) for value in values}
    if kinds == {float}:
        return pd.Series(values, dtype="float64")
    if kinds == {int} and all(value in _INT64 for value in values):
        return pd.Series(values, dtype="int64")
    if kinds == {bool}:
        return pd.Series(values, dtype="bool")
    return pd.Series(values, dtype="object")
