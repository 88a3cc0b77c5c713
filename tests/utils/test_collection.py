"""The garbage collector rests while libraries are imported, and is then as it was."""

from __future__ import annotations

import gc

import pytest

from pbt_flow.utils.collection import collection_paused


@pytest.fixture(autouse=True)
def _as_before():
    yield
    gc.unfreeze()
    gc.enable()


def test_the_collector_rests_in_the_block_and_works_after_it():
    with collection_paused():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_the_collector_works_again_after_an_error():
    with pytest.raises(ImportError), collection_paused():
        raise ImportError
    assert gc.isenabled()


def test_a_collector_that_the_user_has_switched_off_stays_off():
    gc.disable()
    with collection_paused():
        pass
    assert not gc.isenabled()


@pytest.mark.skipif(gc.get_freeze_count() > 0, reason="this Python froze objects of its own")
def test_what_was_made_in_the_block_is_not_gone_through_by_the_next_small_collection():
    with collection_paused():
        made = [[number] for number in range(20_000)]
    young = gc.get_objects(generation=0)
    assert len(young) < 1_000
    assert len(made) == 20_000


def test_what_a_block_has_made_little_of_is_left_to_the_next_small_collection():
    gc.collect()
    circle: list[object] = []
    with collection_paused():
        circle.append(circle)
    del circle
    assert gc.collect(0) >= 1


@pytest.mark.slow
def test_garbage_of_the_block_is_still_found_in_the_end():
    with collection_paused():
        circle: list[object] = []
        circle.append(circle)
    del circle
    assert gc.collect() >= 1


def test_what_somebody_froze_stays_frozen():
    gc.freeze()
    frozen = gc.get_freeze_count()
    with collection_paused():
        pass
    assert gc.get_freeze_count() >= frozen - 100 > 1_000
