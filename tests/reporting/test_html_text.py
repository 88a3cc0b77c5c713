"""Lines of a page end between words, and never inside of a number."""

from __future__ import annotations

import re

import pytest

from pbt_flow.reporting.html_text import prose


@pytest.mark.parametrize(
    ("text", "numbers", "breaks"),
    [
        ("reaches loss -7.773e-07, the winner 1.235e-05.", ["-7.773e-07", "1.235e-05"], 0),
        ("report inception_score=7.773 frechet_distance=-1.5", ["-1.5"], 4),
        ("h0=0.6141 after 1,200 steps", [], 1),
        ("a name like lr-2 or the pair <-3>", ["-2", "-3"], 0),
        ("nothing of that kind &", [], 0),
    ],
)
def test_a_number_with_a_hyphen_is_whole_and_a_long_name_may_break(
    text: str, numbers: list[str], breaks: int
) -> None:
    shown = prose(text)
    assert re.findall("<var>([^<]*)</var>", shown) == numbers
    assert shown.count("<wbr>") == breaks
    plain = re.sub("<[^>]*>", "", shown)
    assert plain.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") == text
