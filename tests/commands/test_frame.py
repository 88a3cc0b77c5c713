"""The frame around a controller: what it says to the user."""

from pbt_flow.commands.frame import _end_not_told


def test_an_end_that_the_store_was_not_told_names_the_store_without_its_password():
    told = _end_not_told("postgresql://user:secret@host/db", "replay", "0123")
    assert "the tracking store postgresql://user:***@host/db was not told" in told
    assert told.endswith("\n  python -m pbt_flow resume 0123")
