"""Calls to a store that threads make: their order, their errors, and who hears of them."""

import contextlib
import threading
import time

import pytest

from pbt_flow.exceptions import StoreError, StoreUnavailable, TakenOver
from pbt_flow.training import log_queue
from pbt_flow.training.log_queue import LISTENER
from pbt_flow.training.log_threads import ThreadedLogQueue

LONG = 30.0
"""Seconds after which a test that waits for a thread has failed."""


@pytest.fixture(autouse=True)
def soon_again(monkeypatch):
    monkeypatch.setattr(log_queue, "_SHORTEST", 0.001)
    monkeypatch.setattr(log_queue, "_LONGEST", 0.01)


@pytest.fixture
def made():
    queues = []

    def make(**how):
        queue = ThreadedLogQueue(**{"say": lambda text: None, "clock": time.monotonic} | how)
        queues.append(queue)
        return queue

    yield make
    for queue in queues:
        queue.close()


def test_calls_of_a_lane_stay_in_order_and_all_are_made(made):
    queue, heard = made(threads=4), []
    for number in range(400):
        queue.add(lambda number=number: heard.append(number), lane=number % 7)
    queue.flush_and_wait()
    assert sorted(heard) == list(range(400))
    for lane in range(7):
        own = [number for number in heard if number % 7 == lane]
        assert own == sorted(own)


def test_calls_of_two_lanes_are_made_at_once(made):
    queue, both = made(threads=2), threading.Barrier(2, timeout=LONG)
    queue.add(both.wait, lane=1)
    queue.add(both.wait, lane=2)
    queue.flush_and_wait()


def test_adding_and_flushing_wait_for_nobody_and_what_waits_is_told_with_one_call(made):
    queue, go_on, begun, calls = made(threads=2), threading.Event(), threading.Event(), []

    def tell(items):
        begun.set()
        assert go_on.wait(LONG)
        calls.append(list(items))

    queue.add_item(tell, 0, lane=1)
    queue.flush()
    assert begun.wait(LONG)
    for number in range(1, 6):
        queue.add_item(tell, number, lane=1)
        queue.flush()
    assert calls == []
    go_on.set()
    queue.flush_and_wait()
    assert calls == [[0], [1, 2, 3, 4, 5]]


@pytest.mark.parametrize("error", [StoreError("no such run"), KeyboardInterrupt(), SystemExit(3)])
@pytest.mark.parametrize("how", ["flush_and_wait", "wait"])
def test_what_a_call_raises_reaches_the_owner_as_it_is_and_no_call_is_made_after_it(
    made, error, how
):
    queue, heard = made(threads=1, limit=1), []

    def refuse():
        raise error

    queue.add(refuse, lane=1)
    queue.add(lambda: heard.append("later"), lane=2)
    if how == "wait":
        # It returns as soon as there is something to raise, which a flush then does as well.
        with contextlib.suppress(BaseException):
            queue.wait(LONG)
    with pytest.raises(type(error)) as raised:
        queue.flush_and_wait()
    assert raised.value is error
    assert heard == []


def test_nothing_is_told_of_a_population_that_another_controller_has_taken_over(made):
    heard, lost = [], []

    def check():
        if lost:
            raise TakenOver("another controller has taken over")

    queue = made(threads=3, check=check)
    queue.add(lambda: heard.append("before"))
    queue.flush_and_wait()
    lost.append(True)
    queue.add(lambda: heard.append("after"))
    with pytest.raises(TakenOver):
        queue.flush_and_wait()
    assert heard == ["before"]


def test_a_silent_store_hears_everything_once_when_it_is_back_and_the_owner_tells_the_user(made):
    said, heard, tries = [], [], iter(range(40))

    def say(text):
        said.append((text, threading.current_thread()))

    def tell(items):
        # The store is there for two calls, then away for twenty, then there for good.
        if 2 <= next(tries) < 22:
            raise StoreUnavailable("the store is away", "go on later")
        heard.extend(items)

    queue = made(threads=4, say=say)
    for number in range(12):
        queue.add_item(tell, number, lane=number % 6)
    queue.flush_and_wait()
    assert sorted(heard) == list(range(12))
    texts = [text for text, _ in said]
    assert texts[0].startswith("the store is away. Training goes on")
    assert texts[1].startswith("the tracking store is back; it now knows the ")
    assert len(texts) == 2
    assert {thread for _, thread in said} == {threading.current_thread()}


def test_a_call_without_an_answer_is_told_of_long_before_it_fails(made):
    said, now, begun, go_on = [], [0.0], threading.Event(), threading.Event()

    def wait():
        begun.set()
        assert go_on.wait(LONG)

    queue = made(threads=2, say=said.append, clock=lambda: now[0])
    queue.add(go_on.wait, lane=LISTENER)  # It makes a report, and no request.
    queue.flush()
    now[0] = 100.0
    queue.flush()
    queue.add(wait, lane=1)
    queue.flush()
    assert begun.wait(LONG)
    now[0] = 109.0
    queue.flush()
    assert said == []
    now[0] = 111.0
    queue.flush()
    queue.flush()
    (told,) = said
    assert told.startswith("the tracking store has not answered for 10 s. Training goes on, and")
    go_on.set()
    queue.flush_and_wait()
    assert said[1:] == ["the tracking store answers again"]


def test_one_thread_at_a_time_asks_a_silent_store(made):
    queue, asking, most, tries, heard = made(threads=4), [], [], iter(range(100)), []

    def tell(items):
        if next(tries) < 10:
            asking.append(items)
            # Another thread that asked as well would come in now.
            threading.Event().wait(0.005)
            most.append(len(asking))
            asking.pop()
            raise StoreUnavailable("the store is away", "go on later")
        heard.extend(items)

    queue.add_item(tell, 0, lane=0)
    queue.flush()
    while not queue.silence.lasts():
        threading.Event().wait(0.001)
    for number in range(1, 8):
        queue.add_item(tell, number, lane=number)
    queue.flush_and_wait()
    assert most == [1] * 10
    assert sorted(heard) == list(range(8))


def test_a_store_that_is_away_for_longer_than_the_patience_ends_the_run(made):
    def tell():
        raise StoreUnavailable("the store is away", "go on later")

    queue = made(threads=3, patience=0.05)
    for lane in range(5):
        queue.add(tell, lane=lane)
    with pytest.raises(StoreUnavailable, match="the store is away; go on later"):
        queue.flush_and_wait()


def test_a_queue_that_is_closed_makes_no_call_that_has_not_begun(made):
    queue, go_on, begun, heard = made(threads=1), threading.Event(), threading.Event(), []

    def tell(items):
        begun.set()
        assert go_on.wait(LONG)
        heard.extend(items)

    queue.add_item(tell, 0, lane=1)
    queue.add_item(tell, 1, lane=2)
    queue.flush()
    assert begun.wait(LONG)
    threading.Timer(0.01, go_on.set).start()
    queue.close()
    assert heard == [0]


def test_nothing_is_told_before_the_first_flush(made):
    queue, heard = made(threads=2), []
    queue.add(lambda: heard.append("early"))
    assert heard == []
    assert queue.is_full is False
    queue.flush_and_wait()
    assert heard == ["early"]
