"""Several calls at once: their order, and what is left of them after an error."""

import threading

import pytest
from patience import PATIENCE

from pbt_flow.utils.at_once import call_at_once


@pytest.mark.parametrize("at_once", [1, 3])
def test_the_answers_are_in_the_order_of_the_items(at_once):
    assert call_at_once(lambda item: item**2, range(50), at_once) == [n**2 for n in range(50)]


def test_calls_are_under_way_at_once():
    both = threading.Barrier(2, timeout=PATIENCE)
    assert sorted(call_at_once(lambda item: both.wait(), range(2), 2)) == [0, 1]


def test_after_an_error_no_call_is_under_way_and_none_begins():
    begun, under_way = [], []

    def call(item):
        begun.append(item)
        under_way.append(item)
        try:
            if item == 2:
                raise KeyboardInterrupt
            threading.Event().wait(0.01)
        finally:
            under_way.remove(item)

    with pytest.raises(KeyboardInterrupt):
        call_at_once(call, range(1000), 4)
    assert under_way == []
    assert len(begun) < 100
