"""What the user reads first: where the population is, and nothing that is secret."""

from __future__ import annotations

import time

import pytest

import pbt_flow
from pbt_flow.commands.progress import Progress
from pbt_flow.settings import Settings
from pbt_flow.tasks.toy import Toy


@pytest.mark.parametrize(
    "uri", ["postgresql://user:secret@host/db", "https://user:secret@host", "mysql://u:se/cret@h/d"]
)
def test_the_first_line_names_the_store_without_its_password(uri):
    progress = Progress(Settings.for_task(Toy)[0], "0123abcd", uri, quiet=True)
    assert progress.greeting[0].startswith("population 0123abcd at ")
    assert "***" in progress.greeting[0]
    assert "cret" not in " ".join(progress.greeting)


def test_what_a_run_took_is_counted_from_the_command_and_not_from_the_first_turn(database):
    from pbt_flow.utils.processes import timed_from

    small = {"population": 2, "turns": 1, "engine": "inline", "quiet": True}
    with timed_from(time.monotonic() - 5000):
        made = pbt_flow.run("toy", **small)
        again = pbt_flow.resume(made.run_id, turns=2, quiet=True)
    assert 5000 < made.seconds < 5600
    assert again.seconds < 600
