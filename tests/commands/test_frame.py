"""The frame around a controller: what it says to the user, and how an impatient one leaves."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from servers import free_port

from pbt_flow.commands.frame import _give_up, _give_up_turns, _LeftAtOnce
from pbt_flow.exceptions import StoreError, StoreUnavailable
from pbt_flow.tracking.remote_checkpoints import RemoteFolders, asked_once
from pbt_flow.training.controller import INTERRUPTED, Controller


class Silent(SimpleNamespace):
    """A store that does not answer."""

    def finish(self, *told: Any) -> None:
        raise StoreUnavailable("away", "wait")


def test_an_end_that_the_store_was_not_told_names_the_store_without_its_password() -> None:
    said = list[str]()
    store: Any = Silent(run_id="0123", members=[], tracking_uri="postgresql://user:secret@host/db")
    _give_up(store, KeyboardInterrupt(), SimpleNamespace(say=said.append))  # type: ignore[arg-type]
    (told,) = said
    assert "the tracking store postgresql://user:***@host/db was not told" in told
    assert told.endswith("\n  python -m pbt_flow resume 0123")


def test_whoever_leaves_at_once_waits_for_no_store() -> None:
    said = list[str]()

    def waits() -> None:
        raise KeyboardInterrupt

    controller: Any = SimpleNamespace(
        stopping=INTERRUPTED, settle=waits, engine=SimpleNamespace(close=lambda: None)
    )
    # It has no `finish`: nobody may ask it for anything.
    store: Any = SimpleNamespace(run_id="0123", members=[], tracking_uri="http://127.0.0.1:1")
    screen: Any = SimpleNamespace(say=said.append)
    with pytest.raises(_LeftAtOnce) as left:
        _give_up_turns(controller, store, screen)
    _give_up(store, left.value, screen, silent=True)
    assert "was not told what became of the runs" in said[0]


def test_of_the_turns_that_are_given_up_a_silent_store_is_asked_for_one() -> None:
    asked = list[int]()

    def committed(plan: Any) -> None:
        asked.append(plan.member)
        raise StoreError("the store does not answer")

    plans = {member: SimpleNamespace(member=member, turn=1) for member in range(3)}
    controller: Any = SimpleNamespace(
        in_flight=plans,
        history=SimpleNamespace(turns={member: [] for member in plans}),
        attempts=SimpleNamespace(committed=committed),
        logged={},
    )
    assert Controller.settle(controller) == 3
    assert asked == [0]


def test_it_is_asked_once_by_whoever_wants_an_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    uri = f"http://127.0.0.1:{free_port()}"
    folders = RemoteFolders(uri, {0: "0123"}, str(tmp_path))
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("it is asked again"))
    with asked_once(), pytest.raises(StoreError):
        folders.record(0, 1)
