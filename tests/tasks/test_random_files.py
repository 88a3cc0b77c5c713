"""A few of the random folders and corpora that benchmarks/random_files.py makes by the thousand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("PIL")
pytest.importorskip("sentencepiece")

from benchmarks.random_files import Tally, one_corpus, one_folder, run


@pytest.mark.parametrize("kind", [one_folder, one_corpus], ids=["folders", "corpora"])
def test_what_goes_in_comes_out_or_is_passed_over_or_refused(
    kind: Callable[[int, Path, Tally], None],
) -> None:
    tally = run(kind, 80, seed=0)
    assert not tally.failures
    assert tally.accepted > 40
    assert tally.refused.total() > 10
    assert len(tally.refused) >= 5, "hardly anything was planted that is to be refused"
