"""The frame around a controller: what it says to the user."""

from types import SimpleNamespace
from typing import Any

from pbt_flow.commands.frame import _give_up
from pbt_flow.exceptions import StoreUnavailable


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
