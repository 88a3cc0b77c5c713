"""Values as people read them."""

from __future__ import annotations

import pytest

from pbt_flow.utils.text import age, byte_count, counted, did_you_mean, duration, number

NAMES = ("population", "exploit", "explore", "ttest", "rl")


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("popultion", "population"),
        ("Exploit", "exploit"),
        ("explor", "explore"),
        ("RL", "rl"),
        ("lr", "rl"),
        ("tetst", "ttest"),
        ("best", None),
        ("", None),
    ],
)
def test_a_misspelt_word_is_told_what_it_is_near_to_and_another_nothing(
    word: str, meant: str | None
) -> None:
    assert did_you_mean(word, NAMES) == ("" if meant is None else f" (did you mean {meant}?)")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-1, "0 s"), (45, "45 s"), (119, "119 s"), (180, "3 min"), (7200, "2 h"), (1e6, "11 d")],
)
def test_how_long_ago_something_was_is_said_in_its_largest_unit(seconds: float, said: str) -> None:
    assert age(seconds) == said


@pytest.mark.parametrize(
    ("size", "said"), [(0, "0 B"), (999, "999 B"), (1_400_000, "1.4 MB"), (5e15, "5e+03 TB")]
)
def test_bytes_are_said_in_their_largest_unit(size: float, said: str) -> None:
    assert byte_count(size) == said


def test_a_number_has_four_digits_and_a_duration_two_units_at_most() -> None:
    assert [number(value) for value in (None, 1.28e-7, 3, "relu")] == ["-", "1.28e-07", "3", "relu"]
    assert [duration(value) for value in (45, 185, 7800)] == ["45 s", "3 min", "2 h 10 min"]


@pytest.mark.parametrize(
    ("number", "said"), [(0, "0 steps"), (1, "1 step"), (2, "2 steps"), (15_000, "15,000 steps")]
)
def test_one_thing_is_not_counted_as_several(number: int, said: str) -> None:
    assert counted(number, "step") == said
