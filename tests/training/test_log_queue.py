"""What waits for a store that is away, in simulated time."""

import pytest

from pbt_flow.exceptions import StoreError, StoreUnavailable
from pbt_flow.training.log_queue import LogQueue


class Store:
    """Hears messages, unless it is away; `heard` is what it knows."""

    def __init__(self):
        self.now, self.away, self.heard, self.asked, self.said = 0.0, False, [], [], []
        self.log_queue = LogQueue(self.said.append, lambda: self.now, self.wait, patience=100.0)

    def wait(self, seconds):
        self.now += seconds

    def put(self, what):
        def tell():
            self.asked.append(self.now)
            if self.away:
                raise StoreUnavailable("the store is away", "go on later")
            self.heard.append(what)

        self.log_queue.add(tell)


def test_a_store_that_listens_hears_everything_at_once_and_in_order():
    store = Store()
    for what in "abc":
        store.put(what)
    store.log_queue.flush()
    assert store.heard == ["a", "b", "c"]
    assert store.said == []


def test_what_a_silent_store_missed_it_hears_in_order_when_it_is_back():
    store = Store()
    store.put("a")
    store.log_queue.flush()
    store.away = True
    for what in "bcd":
        store.put(what)
        store.log_queue.flush()
        store.wait(20)
    store.away = False
    store.put("e")
    store.log_queue.flush()
    assert store.heard == ["a", "b", "c", "d", "e"]


def test_the_user_reads_once_that_it_is_gone_and_once_that_it_is_back():
    store = Store()
    store.away = True
    for what in "abc":
        store.put(what)
        store.log_queue.flush()
        store.wait(20)
    store.away = False
    store.log_queue.flush()
    assert store.said == [
        "the store is away. Training goes on, and what is logged waits for the store, for 100 "
        "seconds at most",
        "the tracking store is back; it now knows the 3 things that waited",
    ]


def test_attempts_become_rarer_and_never_rarer_than_half_a_minute():
    store = Store()
    store.log_queue.patience = 1000.0
    store.away = True
    store.put("a")
    while store.now < 200:
        store.log_queue.flush()
        store.wait(0.5)
    gaps = [b - a for a, b in zip(store.asked, store.asked[1:], strict=False)]
    assert gaps[:6] == [1, 2, 4, 8, 16, 30]
    assert set(gaps[6:]) == {30}


def test_delivering_never_waits_and_draining_does():
    store = Store()
    store.away = True
    store.put("a")
    store.log_queue.flush()
    assert store.now == 0

    def comes_back(seconds):
        store.now += seconds
        store.away = store.now < 60

    store.log_queue.pause = comes_back
    store.log_queue.flush_and_wait()
    assert store.heard == ["a"]
    assert 60 <= store.now < 100


@pytest.mark.parametrize("end", ["flush", "flush_and_wait"])
def test_a_store_that_is_away_for_longer_than_the_patience_ends_the_run(end):
    store = Store()
    store.away = True
    store.put("a")

    def insist():
        while True:
            getattr(store.log_queue, end)()
            store.wait(1)

    with pytest.raises(StoreUnavailable, match="the store is away; go on later"):
        insist()
    assert 100 <= store.now <= 131


def test_patience_begins_anew_when_the_store_has_heard_something():
    store = Store()
    for round_ in range(4):
        store.away = True
        store.put(round_)
        store.log_queue.flush()
        store.wait(80)
        store.away = False
        store.log_queue.flush()
    assert store.heard == [0, 1, 2, 3]


def test_a_refusal_is_no_silence():
    def refuse():
        raise StoreError("no such run")

    store = Store()
    store.log_queue.add(refuse)
    with pytest.raises(StoreError, match="no such run"):
        store.log_queue.flush()
    assert store.said == []


class Lanes:
    """A store that notes each call as the things that it tells."""

    def __init__(self):
        self.calls, self.now, self.away, self.said = [], 0.0, False, []
        self.log_queue = LogQueue(self.said.append, lambda: self.now, limit=10)

    def tell(self, items):
        if self.away:
            raise StoreUnavailable("the store is away", "go on later")
        self.calls.append(list(items))


def test_things_that_wait_one_behind_the_other_in_a_lane_are_told_with_one_call():
    store = Lanes()
    for thing, lane in [("a1", 1), ("b1", 2), ("a2", 1), ("a3", 1)]:
        store.log_queue.add_item(store.tell, thing, lane)
    store.log_queue.flush()
    assert store.calls == [["a1", "a2", "a3"], ["b1"]]


def test_a_call_between_two_things_keeps_its_place():
    store = Lanes()
    store.log_queue.add_item(store.tell, "first", 1)
    store.log_queue.add(lambda: store.tell(["between"]), 1)
    store.log_queue.add_item(store.tell, "last", 1)
    store.log_queue.flush()
    assert store.calls == [["first"], ["between"], ["last"]]


def test_what_a_silent_store_missed_joins_what_came_later_and_is_heard_once():
    store = Lanes()
    store.away = True
    store.log_queue.add_item(store.tell, "first", 1)
    store.log_queue.flush()
    store.log_queue.add_item(store.tell, "second", 1)
    store.away, store.now = False, 10.0
    store.log_queue.flush()
    assert store.calls == [["first", "second"]]
    assert store.said[-1] == "the tracking store is back; it now knows the 2 things that waited"


def test_one_call_tells_no_more_than_some_things():
    store = Lanes()
    for thing in range(70):
        store.log_queue.add_item(store.tell, thing, 1)
    store.log_queue.flush()
    assert [len(call) for call in store.calls] == [32, 32, 6]


def test_a_queue_is_full_when_as_many_things_wait_as_may():
    store = Lanes()
    for thing in range(9):
        store.log_queue.add_item(store.tell, thing, thing % 2)
    assert not store.log_queue.is_full
    store.log_queue.add(lambda: None)
    assert store.log_queue.is_full
    store.log_queue.flush()
    assert not store.log_queue.is_full
