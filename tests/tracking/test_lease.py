"""One controller at a time, on any machine, whatever the clocks of the machines say."""

import os
import threading
import time

import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from patience import PATIENCE

from pbt_flow.exceptions import StoreError
from pbt_flow.tracking.lease import Lease, _process_identity, ask_to_stop, claim, has_died

pytestmark = pytest.mark.usefixtures("database")

ELSEWHERE = "elsewhere:1:0-0-0:00000000"


class Watch:
    """A clock of this machine that runs only while somebody pauses, and what happens meanwhile."""

    def __init__(self, happens=lambda now: None):
        self.now, self.happens, self.said = 0.0, happens, []

    def clock(self):
        return self.now

    def pause(self, seconds):
        self.now += seconds
        self.happens(self.now)

    def claim(self, run_id, date=time.time):
        return claim(
            MlflowClient(),
            run_id,
            say=self.said.append,
            clock=self.clock,
            pause=self.pause,
            date=date,
        )


def population(owner=ELSEWHERE, beat=None):
    """A run that a controller has claimed; its heartbeat is a time, by the controller's clock."""
    run_id = MlflowClient().create_run("0").info.run_id
    MlflowClient().log_param(run_id, "lease/0001", owner)
    MlflowClient().set_tag(run_id, "pbt.heartbeat", f"{beat or time.time():.1f}")
    return run_id


def claims(run_id):
    return sorted(MlflowClient().get_run(run_id).data.params)


@pytest.mark.parametrize("skew", [-3600, 0, 3600])
def test_a_controller_that_is_heard_keeps_its_claim_whatever_its_clock_says(skew):
    run_id = population(beat=time.time() + skew)

    def beats(now):
        if now >= 15:
            MlflowClient().set_tag(run_id, "pbt.heartbeat", f"{time.time() + skew + 15:.1f}")

    watch = Watch(beats)
    with pytest.raises(StoreError, match=r"is running: its controller \(elsewhere:1\) has just"):
        watch.claim(run_id)
    assert 15 <= watch.now <= 18
    assert claims(run_id) == ["lease/0001"]


@pytest.mark.parametrize("skew", [-3600, 0, 3600])
def test_a_controller_that_is_silent_loses_its_claim_whatever_its_clock_said(skew):
    run_id = population(beat=time.time() + skew)
    watch = Watch()
    lease = watch.claim(run_id)
    lease.release()
    assert watch.now == 60
    assert lease.took_over == (
        "its last controller (elsewhere:1) was silent for 60 s; this one takes over"
    )
    (said,) = watch.said
    assert "listens for 60 s" in said
    assert claims(run_id) == ["lease/0001", "lease/0002"]


def test_a_claim_that_is_let_go_of_while_it_is_watched_is_taken_at_once():
    run_id = population()
    watch = Watch(lambda now: MlflowClient().set_tag(run_id, "pbt.heartbeat", ""))
    lease = watch.claim(run_id)
    lease.release()
    assert watch.now == 3
    assert lease.took_over == ""


def test_of_two_that_watch_the_same_silence_one_takes_over():
    run_id, first = population(), []

    def other_takes_over(now):
        if now > 30 and not first:
            first.append(Watch().claim(run_id))

    with pytest.raises(StoreError, match="another controller has just taken it"):
        Watch(other_takes_over).claim(run_id)
    first[0].release()
    assert claims(run_id) == ["lease/0001", "lease/0002"]


def test_ctrl_c_ends_the_watching_and_leaves_everything_as_it_was():
    run_id = population()
    before = MlflowClient().get_run(run_id).data

    def interrupt(now):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Watch(interrupt).claim(run_id)
    after = MlflowClient().get_run(run_id).data
    assert (after.params, after.tags) == (before.params, before.tags)


@pytest.mark.parametrize("silence", [0, 50, 70])
def test_a_controller_that_lives_on_this_machine_need_not_be_watched_while_it_is_heard(silence):
    here = f"{os.uname().nodename}:{os.getpid()}:{_process_identity(os.getpid())}:12345678"
    run_id = population(here, time.time() - silence)
    watch = Watch()
    if silence < 60:
        # A busy machine may take a second or two for it.
        seconds = "|".join(str(silence + late) for late in range(9))
        with pytest.raises(StoreError, match=rf"was heard ({seconds}) s ago. Stop it first"):
            watch.claim(run_id)
        assert watch.now == 0
    else:
        # The machine may have slept, or the process hang: only listening tells.
        watch.claim(run_id).release()
        assert watch.now == 60


@pytest.mark.parametrize("ahead", [70, -120, 0, 86_400])
@pytest.mark.parametrize("lives", [True, False])
def test_a_machine_whose_clock_is_wrong_waits_as_long_as_any_other(ahead, lives):
    """It judges by whether the heartbeat changes, and not by when it says that it was sent."""
    sent = 1_000_000.0
    run_id = population(beat=sent)

    def beats(now):
        if lives and now % 15 == 0:
            MlflowClient().set_tag(run_id, "pbt.heartbeat", f"{sent + now:.1f}")

    watch = Watch(beats)
    if lives:
        with pytest.raises(StoreError, match="has just been heard"):
            watch.claim(run_id, date=lambda: sent + ahead + watch.now)
        assert watch.now == 15
    else:
        watch.claim(run_id, date=lambda: sent + ahead + watch.now).release()
        assert watch.now == 60


def test_a_controller_that_was_suspended_asks_for_its_claim_before_it_goes_on():
    run_id, now = MlflowClient().create_run("0").info.run_id, [0.0]
    lease = Lease(MlflowClient(), run_id, 1, clock=lambda: now[0])
    assert not lease.lost
    MlflowClient().log_param(run_id, "lease/0002", ELSEWHERE)
    assert not lease.lost, "it asks the store at each look"
    now[0] = 70.0
    assert lease.lost
    lease.release()
    assert "pbt.heartbeat" not in MlflowClient().get_run(run_id).data.tags


def test_while_the_store_is_away_it_is_waited_for_once(monkeypatch):
    run_id, now, waits = MlflowClient().create_run("0").info.run_id, [0.0], []
    lease = Lease(MlflowClient(), run_id, 1, clock=lambda: now[0])
    monkeypatch.setattr(lease._answered, "wait", waits.append)

    def away():
        raise MlflowException("the store is away")

    monkeypatch.setattr(lease, "beat", away)  # what the lease's own thread calls
    now[0] = 70.0
    assert [lease.lost, lease.lost, lease.lost] == [False] * 3
    assert waits == [5.0]
    Lease.beat(lease)
    now[0] = 140.0
    assert not lease.lost
    assert waits == [5.0, 5.0]
    lease.release()


@pytest.mark.parametrize(
    ("change", "died"),
    [
        (lambda host, pid, birth: (host, pid, birth), False),
        (lambda host, pid, birth: (host, pid, birth + "1"), True),  # the number is used again
        (lambda host, pid, birth: (host, 4194305, birth), True),  # above any process number
        (lambda host, pid, birth: ("elsewhere", 4194305, birth), False),
        (lambda host, pid, birth: (host, 4194305, "other-boot-1"), False),
        (lambda host, pid, birth: (host, 4194305, ""), False),
    ],
)
def test_only_a_process_known_to_be_gone_counts_as_dead(change, died):
    host, pid, birth = change(os.uname().nodename, os.getpid(), _process_identity(os.getpid()))
    assert has_died(f"{host}:{pid}:{birth}:12345678") == died


def test_a_controller_that_is_asked_to_stop_hears_it_and_the_next_one_does_not():
    run_id = MlflowClient().create_run("0").info.run_id
    heard = []
    for _ in range(2):
        lease = claim(MlflowClient(), run_id)
        lease.beat()
        heard.append(lease.asked_to_stop)
        ask_to_stop(MlflowClient(), run_id)
        lease.beat()
        heard.append(lease.asked_to_stop)
        lease.release()
    assert heard == [False, True, False, True]


@pytest.mark.parametrize("silent_for", [0, 40])
def test_before_something_is_told_a_claim_is_confirmed_if_nothing_was_heard_of_it(silent_for):
    run_id, now = MlflowClient().create_run("0").info.run_id, [0.0]
    MlflowClient().log_param(run_id, "lease/0001", "me")
    lease = Lease(MlflowClient(), run_id, 1, clock=lambda: now[0])
    # As if the store had been away, and another controller had taken over when it was back. That
    # nothing was answered meanwhile is known already, so that `lost` does not ask again.
    lease._has_asked = True
    MlflowClient().log_param(run_id, "lease/0002", ELSEWHERE)
    now[0] += silent_for
    assert not lease.lost
    lease.confirm()
    assert lease.lost == (silent_for > 30)
    lease.release()


def test_a_store_that_does_not_answer_a_heartbeat_is_known_to_be_silent_until_it_does(monkeypatch):
    away, asked = threading.Event(), threading.Semaphore(0)

    def beat(self):
        asked.release()
        if away.is_set():
            raise OSError("away")

    monkeypatch.setattr(Lease, "beat", beat)
    run_id, now = MlflowClient().create_run("0").info.run_id, [0.0]
    lease = Lease(MlflowClient(), run_id, 1, clock=lambda: now[0])

    def one_more_beat():
        lease._answered.clear()
        lease._wake.set()
        assert asked.acquire(timeout=PATIENCE)
        assert lease._answered.wait(30)

    assert not lease.is_silent
    away.set()
    one_more_beat()
    assert lease.is_silent
    away.clear()
    one_more_beat()
    assert not lease.is_silent
    # One that takes the request, and says nothing.
    go_on = threading.Event()
    monkeypatch.setattr(Lease, "beat", lambda self: (asked.release(), go_on.wait(30)))
    lease._wake.set()
    assert asked.acquire(timeout=PATIENCE)
    assert not lease.is_silent
    now[0] += 6
    assert lease.is_silent
    go_on.set()
    lease.release()
