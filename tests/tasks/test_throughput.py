"""benchmarks/throughput.py: a turn of every task is measured, part by part."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.throughput import CASES, measure

STEPS = {"gan": 2, "translation": 2, "rl": 512}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.task)
@pytest.mark.slow
def test_every_part_of_a_turn_is_measured_again_and_again(case):
    found = measure(replace(case, steps=STEPS[case.task]), repeats=2)
    assert set(found.seconds) == {"train", "evaluate", "write", "read"}
    assert all(seconds >= 0 for seconds in found.seconds.values())
    assert sum(map(found.share, found.seconds)) == pytest.approx(1)
    assert found.rate > 0


def test_real_images_are_counted_for_every_update_of_the_discriminator():
    class Task:
        batch, k = 64, 3

    case = next(case for case in CASES if case.task == "gan")
    assert replace(case, steps=5).units(Task(), {}) == 5 * 64 * 3
