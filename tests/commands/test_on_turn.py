"""Functions of the user's that are told of every turn, and may stop the population."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import mlflow
import pytest
from mlflow.tracking import MlflowClient
from sample_tasks import Regression

import pbt_flow
from pbt_flow import History, Turn
from pbt_flow.commands.catalogue import list_populations
from pbt_flow.commands.progress import Progress
from pbt_flow.exceptions import SettingsError
from pbt_flow.population.result import Result

pytestmark = pytest.mark.usefixtures("database")

SMALL = {"population": 2, "turns": 3, "interval": 2, "mode": "generational", "finalists": "none"}


def run(**settings: Any) -> Result:
    return pbt_flow.run(Regression, **{"engine": "inline", "quiet": True, **SMALL, **settings})


def essence(result: Result) -> list[Any]:
    """All of a result's turns but the times."""
    turns = [turn for own in result.history.turns.values() for turn in own]
    turns.sort(key=lambda turn: (turn.member, turn.number))
    return [(turn.plan, turn.status, turn.score, turn.checkpoint) for turn in turns]


def raising(error: BaseException) -> Callable[[Turn, History], None]:
    """A function that raises an error at the second turn of the first member."""

    def on_turn(turn: Turn, history: History) -> None:
        if (turn.member, turn.number) == (0, 2):
            raise error

    return on_turn


def test_every_turn_is_told_once_to_every_function_with_a_history_that_has_it() -> None:
    first: list[tuple[int, int]] = []
    second: list[tuple[int, int]] = []

    def note(turn: Turn, history: History) -> None:
        assert history.turn(turn.member, turn.number) is turn
        first.append((turn.member, turn.number))

    result = run(on_turn=[note, lambda turn, history: second.append((turn.member, turn.number))])
    assert sorted(first) == [(member, number) for member in (0, 1) for number in (1, 2, 3)]
    assert second == first
    assert result.status == "finished"
    assert result.reason == ""


def test_stop_ends_a_population_in_order_and_a_resume_goes_on_to_the_same() -> None:
    whole = run()

    def stop_early(turn: Turn, history: History) -> Any:
        return pbt_flow.STOP if turn.number == 2 else None

    stopped = run(on_turn=stop_early)
    assert stopped.turns == 3
    assert (stopped.status, stopped.reason) == (
        "finished",
        "on_turn returned pbt_flow.STOP after turn 2 of member 0",
    )
    assert stopped.winner is not None
    told: list[int] = []
    resumed = pbt_flow.resume(
        stopped.run_id, quiet=True, on_turn=lambda turn, history: told.append(turn.number)
    )
    assert told == [2, 3, 3], "turns that were done before are not told again"
    assert essence(resumed) == essence(whole)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            ZeroDivisionError("mine"),
            "on_turn raised an exception after turn 2 of member 0: ZeroDivisionError: mine",
        ),
        (SystemExit(3), "on_turn called sys.exit after turn 2 of member 0"),
    ],
    ids=repr,
)
def test_what_a_function_raises_ends_the_population_in_order_and_is_raised(
    error: BaseException, reason: str
) -> None:
    whole = run()
    with pytest.raises(type(error)) as raised:
        run(on_turn=raising(error))
    assert raised.value is error
    client = MlflowClient()
    (failed,) = client.search_runs(["0"], "tags.`pbt.role` = 'population' and status = 'FAILED'")
    run_id = failed.info.run_id
    if sys.version_info >= (3, 11):
        assert f'pbt_flow.resume("{run_id}")' in error.__notes__[-1]
    ended = pbt_flow.load(run_id)
    assert (ended.status, ended.reason, ended.turns) == ("failed", reason, 3)
    assert not mlflow.search_runs(["0"], "status = 'RUNNING'", output_format="list")
    assert essence(pbt_flow.resume(run_id, quiet=True)) == essence(whole)


def listed_turns(result: Result) -> tuple[int, str]:
    """How many turns `list` counts, which reads MLflow alone; and what it says became of them."""
    (one,) = [one for one in list_populations() if one.run_id == result.run_id]
    return one.turns, one.status


def test_a_function_that_is_interrupted_leaves_no_turn_untold() -> None:
    result = run(on_turn=raising(KeyboardInterrupt()))
    assert (result.status, result.turns) == ("interrupted", 3)
    assert listed_turns(result) == (3, "interrupted")
    assert essence(pbt_flow.resume(result.run_id, quiet=True)) == essence(run())


@pytest.mark.slow
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("full")], ids=repr)
def test_a_turn_that_was_committed_counts_although_nobody_had_heard_of_it(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """In one process the next turn is committed before the controller shows the last one."""
    shown: list[int] = []
    show = Progress.turn

    def raise_at_the_second(self: Progress, turn: Turn, history: History) -> None:
        shown.append(turn.number)
        if len(shown) == 2:
            raise error
        show(self, turn, history)

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "turn", raise_at_the_second)
        result = run(quiet=False)
    assert result.turns == 3
    assert listed_turns(result)[0] == 3
    assert "given up" not in capfd.readouterr().err
    assert essence(pbt_flow.resume(result.run_id, quiet=True)) == essence(run())


def test_after_an_exception_no_function_is_called_any_more() -> None:
    told: list[int] = []
    with pytest.raises(ZeroDivisionError):
        run(
            on_turn=[
                raising(ZeroDivisionError()),
                lambda turn, history: told.append(turn.number),
            ]
        )
    assert told == [1, 1]


def test_what_else_is_returned_stops_nothing_and_is_told_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = run(on_turn=lambda turn, history: True, quiet=False)
    assert result.turns == 6
    assert capsys.readouterr().err.count("on_turn returned True, which does nothing") == 1


def two_more(turn: Turn, history: History, extra: int) -> None: ...


@pytest.mark.parametrize(
    ("on_turn", "message"),
    [
        (3, "on_turn must be a function of a turn and the history so far, or a list"),
        ([print, None], "on_turn must be a function .*, got None"),
        (Regression, "on_turn must be a function .*, got <class"),
        (two_more, r"called as on_turn\(turn, history\), and .* cannot be: missing a .* 'extra'"),
    ],
    ids=["a number", "a list with None", "a task", "one argument more"],
)
def test_what_cannot_be_called_with_a_turn_is_refused_before_anything_is_written(
    on_turn: Any, message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        run(on_turn=on_turn)
    assert not mlflow.search_runs(["0"], output_format="list")


def test_a_function_may_take_more_than_it_is_given() -> None:
    def on_turn(turn: Turn, history: History, verbose: bool = False) -> None: ...

    assert run(on_turn=on_turn).status == "finished"


def test_a_control_is_not_told() -> None:
    told: list[float | None] = []
    result = run(control=True, on_turn=lambda turn, history: told.append(turn.score))
    assert result.control is not None
    assert len(told) == result.turns


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"quite": True}, r"run\(\) has no argument 'quite' \(did you mean quiet\?\)"),
        ({"contrl": True}, r"run\(\) has no argument 'contrl' \(did you mean control\?\)"),
        ({"on_trun": print}, r"run\(\) has no argument 'on_trun' \(did you mean on_turn\?\)"),
        ({"popluation": 4}, r"no setting 'popluation' \(did you mean population"),
        ({"noize": 4}, r"did you mean the option of the task, options=\{'noise': ...\}\?"),
        ({"noise": 4}, r"as an option of the task it goes into options=\{'noise': ...\}"),
        ({"zzz": 4}, "no setting 'zzz'; there are"),
    ],
    ids=repr,
)
def test_a_misspelt_keyword_is_told_with_the_one_that_it_is_near_to(
    given: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        run(**given)
