"""What a user times begins with the process, and the imports belong to it."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from pbt_flow.utils.processes import call_began, timed_from

ASK = "from pbt_flow.utils.processes import process_began; print(process_began())"


@pytest.mark.slow
def test_a_process_began_when_it_was_started_and_not_when_it_had_imported() -> None:
    before = time.monotonic()
    told = float(subprocess.check_output([sys.executable, "-c", f"import mlflow; {ASK}"]))
    after = time.monotonic()
    # The system counts in hundredths of a second.
    assert before - 0.02 <= told
    assert told - before < (after - before) / 2


def test_the_first_call_of_a_command_began_with_the_command_and_the_second_with_itself() -> None:
    with timed_from(12.0):
        assert call_began() == 12.0
        assert call_began() > 12.0
    assert call_began() > 12.0
