"""A population is followed from another terminal by its store alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

import pbt_flow
from pbt_flow.cli.main import main
from pbt_flow.commands.progress import Progress
from pbt_flow.commands.stored_population import StoredPopulation
from pbt_flow.commands.watch import Watched
from pbt_flow.exceptions import StoreUnavailable
from pbt_flow.tracking.store import Store

SMALL: dict[str, Any] = {"population": 2, "turns": 2, "engine": "inline", "quiet": True}

pytestmark = pytest.mark.usefixtures("database")


def running(**settings: Any) -> str:
    """A population that says that it is running, with the turns that it has done."""
    made = pbt_flow.run("toy", **{**SMALL, **settings})
    MlflowClient().update_run(made.run_id, status="RUNNING")
    MlflowClient().set_tag(made.run_id, "pbt.status", "running")
    return str(made.run_id)


def go_on(run_id: str, turns: int) -> Callable[[float], None]:
    """What happens while a watcher waits: the population is trained to its end, once."""
    left = [turns]

    def pause(seconds: float) -> None:
        if left:
            MlflowClient().set_terminated(run_id, status="KILLED")
            pbt_flow.resume(run_id, turns=left.pop(), quiet=True)

    return pause


def test_turns_are_shown_as_they_come_until_the_population_ends(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_id = running(turns=3)
    result = pbt_flow.watch(run_id[:10], pause=go_on(run_id, 5))
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith(f"population {run_id} at sqlite:")
    shown = [line for line in told if "] member 0" in line]
    # Three turns of each member were done before, and nobody is told of them again.
    assert [line.partition(" turn ")[2].partition(":")[0][:1] for line in shown] == [
        "4", "4", "5", "5",
    ]  # fmt: skip
    assert shown[0].startswith("[7/")
    assert (result.status, result.turns) == ("finished", 10)
    assert result.winner.score == pbt_flow.load(run_id).winner.score


def test_of_one_that_has_ended_the_summary_is_printed_at_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = pbt_flow.run("toy", **SMALL)
    assert main(["watch", "last"]) == 0
    printed = capsys.readouterr()
    assert "finished: 2 members, 4 turns" in printed.out
    assert made.run_id in printed.out
    assert "members, each for" not in printed.err


def test_members_that_leave_meanwhile_have_left_for_the_watcher_too() -> None:
    stages = {"population": 4, "turns": 2, "stages": "4x1:none,2x2:both"}
    stored = StoredPopulation.open(pbt_flow.run("toy", **{**SMALL, **stages}).run_id)
    history = stored.new_history()
    progress = Progress(stored.settings, stored.run_id, stored.store.tracking_uri, quiet=True)
    watched = Watched(stored=stored, history=history, progress=progress, clock=lambda: 0.0)
    assert not watched.look()
    whole = stored.read_history()
    assert (history.turns, history.left) == (whole.turns, whole.left)
    assert len(history.left) == 2


def test_ctrl_c_ends_the_watching_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = running()

    def interrupt(watched: Watched) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(Watched, "look", interrupt)
    assert main(["watch", "last"]) == 130
    assert "no longer watched; the population goes on" in capsys.readouterr().err
    assert MlflowClient().get_run(run_id).info.status == "RUNNING"


def test_a_silent_controller_is_told_once_and_a_store_that_is_away_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id, times, looks = running(), iter(range(0, 10_000, 40)), [0]
    pulse = Store.pulse

    def now_and_then(store: Store) -> Any:
        looks[0] += 1
        if looks[0] in (2, 3):
            raise StoreUnavailable("the store does not answer", "wait")
        return pulse(store)

    def end(seconds: float) -> None:
        if looks[0] > 7:
            MlflowClient().set_terminated(run_id)

    monkeypatch.setattr(Store, "pulse", now_and_then)
    monkeypatch.setattr(Store, "status", property(lambda store: "running"))
    pbt_flow.watch(run_id, clock=lambda: next(times), pause=end)
    told = capsys.readouterr().err
    assert told.count("the store does not answer; it is asked again until it answers") == 1
    assert told.count("its controller has not been heard for") == 1
