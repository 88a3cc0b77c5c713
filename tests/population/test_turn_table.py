"""The turns of a population as a table of pandas, column by column."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from report_subjects import subject

from pbt_flow.population.history import History
from pbt_flow.population.records import Checkpoint, Donor, Member, Plan, Source, Turn
from pbt_flow.population.turn_table import turns_dataframe
from pbt_flow.space import Hparams

DTYPES = {
    "member": "int64",
    "turn": "int64",
    "step": "int64",
    "trained": "int64",
    "status": "category",
    "score": "float64",
    "donor": "Int64",
    "donor_turn": "Int64",
    "hparams_donor": "Int64",
    "seconds": "float64",
}


def history(*hparams: Hparams, failed: bool = False) -> History:
    """One member with a turn for each of the hyperparameters; the first copies, the last fails."""
    made = History(direction="maximize")
    made.begin([Member(index=0, hparams=hparams[0])])
    for number, point in enumerate(hparams, 1):
        ok = not (failed and number == len(hparams))
        donor = Donor(member=7, turn=3, copies="weights", hparams_of=Source(member=5, turn=2))
        made.add(
            Turn(
                plan=Plan(
                    member=0,
                    turn=number,
                    seed=0,
                    hparams=point,
                    steps=10,
                    start_step=30 if number == 1 else 40,
                    trained=10 * number,
                    donor=donor if number == 1 else None,
                ),
                status="ok" if ok else "failed",
                score=0.5 if ok else None,
                checkpoint=Checkpoint(member=0, turn=number, digest="d", size=1) if ok else None,
                started=1_700_000_000.5,
                seconds={"train": 1.5, "evaluate": 0.25, "lost": 2.0},
            )
        )
    return made


def test_a_row_says_what_the_turn_says() -> None:
    frame = turns_dataframe(history({"lr": 0.1}, {"lr": 0.2}, failed=True))
    first, last = frame.to_dict("records")
    assert first == {
        "member": 0,
        "turn": 1,
        "step": 40,
        "trained": 10,
        "status": "ok",
        "score": 0.5,
        "donor": 7,
        "donor_turn": 3,
        "hparams_donor": 5,
        "seconds": 3.75,
        "started": pd.Timestamp(1_700_000_000.5, unit="s", tz="UTC"),
        "hparam/lr": 0.1,
    }
    assert (last["status"], last["step"], last["hparam/lr"]) == ("failed", 40, 0.2)
    assert math.isnan(last["score"])
    assert frame["donor"].isna().tolist() == [False, True]


def test_the_dtypes_are_those_that_are_documented_whatever_the_turns() -> None:
    for made in (history({"lr": 0.1}), History(direction="maximize"), subject().history):
        frame = turns_dataframe(made)
        kinds = {name: str(kind) for name, kind in frame.dtypes.items()}
        assert kinds.items() >= DTYPES.items()
        assert str(frame["started"].dtype).startswith("datetime64")
        assert str(frame["started"].dtype).endswith("UTC]")
        assert list(frame["status"].cat.categories) == ["ok", "diverged", "failed", "lost"]


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([0.1, 2.0], "float64"),
        ([1, 2], "int64"),
        ([2**53, 1], "int64"),
        ([2**70, 1], "object"),
        ([True, False], "bool"),
        ([True, 1], "object"),
        ([1, 0.5], "object"),
        (["a", None], "object"),
        ([(1, 2), (3,)], "object"),
        ([math.inf, None], "object"),
    ],
    ids=str,
)
def test_no_value_of_a_hyperparameter_changes_its_type(values: list[object], dtype: str) -> None:
    points = [{"name": value} for value in values]
    column = turns_dataframe(history(*points))["hparam/name"]
    assert str(column.dtype) == dtype
    assert [(type(value), value) for value in column.tolist()] == [
        (type(value), value) for value in values
    ]


def test_all_turns_of_a_population_are_there_in_the_order_of_member_and_turn() -> None:
    one = subject()
    frame = turns_dataframe(one.history)
    assert list(zip(frame["member"], frame["turn"], strict=True)) == [
        (member, turn.number)
        for member in sorted(one.history.turns)
        for turn in one.history.turns[member]
    ]
    assert frame["donor"].notna().any()
    kinds = {FloatDistribution: "float64", IntDistribution: "int64"}
    for name, dist in one.space.items():
        expected = "object" if isinstance(dist, CategoricalDistribution) else kinds[type(dist)]
        assert str(frame[f"hparam/{name}"].dtype) == expected
