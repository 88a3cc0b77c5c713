"""What the user reads first: where the population is, and nothing that is secret."""

from __future__ import annotations

import pytest

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
