"""The controller on a simulated engine and clock: order, budget, faults, retention, events."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulated import Counting, slowly, turns_of

from pbt_flow.exceptions import StoreError, StoreUnavailable
from pbt_flow.reporting.series import time_spent
from pbt_flow.tasks.toy import Toy
from pbt_flow.testing.simulation import prepare, simulate

FAULTS = ["raises", "nan", "inf", "dies", "hangs"]


PACES = {
    "equal": lambda plan, rng: 1.0,
    "lognormal": slowly,
    "one slow": lambda plan, rng: 3.0 if plan.member == 0 else 1.0,
    "half slow": lambda plan, rng: 3.0 if plan.member % 2 else 1.0,
    "by gain": lambda plan, rng: 0.5 + float(plan.hparams["gain"]),
}
"""What a turn of `Counting` takes, in simulated seconds."""


@given(
    population=st.integers(2, 9),
    slots=st.one_of(st.integers(1, 9), st.just(None)),
    turns=st.integers(1, 6),
    mode=st.sampled_from(["async", "generational"]),
    pace=st.sampled_from(list(PACES)),
    exploit=st.sampled_from(
        ["truncation", "truncation:fraction=0.5,ties=true", "tournament", "ttest", "none"]
        + [f"tournament:copies={copies}" for copies in ("weights", "hparams")]
    ),
    explore=st.sampled_from(["perturb", "gaussian", "resample", "none"]),
    faults=st.dictionaries(
        st.tuples(st.integers(0, 8), st.integers(1, 6)),
        st.lists(st.sampled_from(FAULTS), min_size=1, max_size=3),
        max_size=6,
    ),
    outages=st.lists(
        st.tuples(st.floats(0, 30), st.floats(0.1, 300)).map(lambda o: (o[0], sum(o))), max_size=2
    ),
    samples=st.sampled_from(["end", "rounds"]),
    keep=st.integers(1, 3),
    request=st.sampled_from([None, 0.0, 0.3, 4.0]),
    requests_at_once=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_any_population_conserves_turns_steps_lineage_and_checkpoints(
    population,
    slots,
    turns,
    mode,
    pace,
    exploit,
    explore,
    faults,
    outages,
    samples,
    keep,
    request,
    requests_at_once,
    seed,
):
    simulation = simulate(
        Counting,
        population=population,
        slots=slots,
        turns=turns,
        mode=mode,
        exploit=exploit,
        explore=explore,
        faults=faults,
        outages=outages,
        duration=PACES[pace],
        samples=samples,
        keep=keep,
        request=request,
        requests_at_once=requests_at_once,
        seed=seed,
    )
    history, states = simulation.history, simulation.engine.states
    living = {member.index for member in simulation.controller.living}
    for index, own in history.turns.items():
        assert [turn.number for turn in own] == list(range(1, len(own) + 1))
        assert len(own) == turns or index not in living
        assert [turn.plan.trained for turn in own] == [5 * turn.number for turn in own]
    for turn in turns_of(simulation):
        plan = turn.plan
        # No lineage trains for longer than its member has.
        assert turn.step <= plan.trained
        if turn.ok:
            # The state counted the steps of its lineage itself: the record must say the same.
            assert turn.metrics["steps"] == turn.step
        if plan.donor is not None:
            given_by = history.turn(plan.donor.member, plan.donor.turn)
            before = history.turn(turn.member, turn.number - 1)
            assert given_by.ok
            assert given_by.member != turn.member
            if before.ok:
                # What is copied was ranked, at the member's own age, and scored better.
                assert given_by.step == before.step == plan.compared_at
                assert given_by.score >= before.score
                assert given_by.score > before.score or "ties" in exploit
            else:
                assert given_by.step <= before.plan.trained
            if plan.donor.copies != "hparams":
                assert (plan.start, plan.start_step) == (given_by.checkpoint, given_by.step)
            if plan.donor.copies == "both" and explore == "none":
                assert plan.hparams == given_by.plan.hparams
        elif turn.number > 1:
            before = history.turn(turn.member, turn.number - 1)
            assert plan.hparams == before.plan.hparams
            assert plan.start == (before.checkpoint if before.ok else before.plan.start)
        if exploit == "none":
            assert plan.donor is None
    # The store was told of every turn once, and of each member's turns in their order.
    told = [(turn.member, turn.number) for turn in simulation.store.told]
    assert len(told) == len(set(told)) == len(turns_of(simulation))
    assert sorted(told, key=lambda key: key[0]) == sorted(told)
    for member in history.members.values():
        stands_on = member.checkpoint
        assert stands_on is None or (stands_on.member, stands_on.turn) in states
    winner = history.winner()
    if winner is not None:
        assert (winner.member, winner.number) in states
        assert winner.step <= turns * 5
        standing = filter(None, map(history.standing, history.members.values()))
        assert winner.score == max(turn.score for turn in standing)
    else:
        assert not any(turn.ok for turn in turns_of(simulation))


@pytest.mark.parametrize("mode", ["async", "generational"])
def test_the_same_seed_gives_the_same_events_and_another_seed_others(mode):
    def events(seed):
        simulation = simulate(Counting, mode=mode, seed=seed, duration=slowly)
        return simulation.engine.log, turns_of(simulation)

    assert events(1) == events(1)
    assert events(1) != events(2)


def test_a_generational_population_does_not_depend_on_workers_or_their_speed():
    def outcome(**settings):
        return turns_of_without_time(simulate(Counting, mode="generational", seed=3, **settings))

    alone = outcome(slots=1)
    assert outcome(slots=4, duration=slowly) == alone
    assert outcome(slots=2, duration=lambda plan, rng: 1 + 9 * (plan.member == 0)) == alone


@given(
    exploit=st.sampled_from(["truncation:ties=true", "tournament", "ttest"]),
    slots=st.integers(1, 6),
    faults=st.dictionaries(
        st.tuples(st.integers(0, 5), st.integers(1, 6)),
        st.lists(st.sampled_from(FAULTS), min_size=1, max_size=2),
        max_size=4,
    ),
    max_failures=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_nor_does_it_under_any_strategy_whatever_goes_wrong(
    exploit, slots, faults, max_failures, seed
):
    """Who arrives first decides nothing: not even which opponent a tournament draws."""

    def outcome(**settings):
        simulation = simulate(
            Counting,
            mode="generational",
            population=6,
            exploit=exploit,
            faults=faults,
            max_failures=max_failures,
            seed=seed,
            # Without a deadline: whoever is given up by the others depends on time.
            turn_timeout=math.inf,
            **settings,
        )
        return turns_of_without_time(simulation)

    assert outcome(slots=slots, duration=slowly) == outcome(slots=1)


def test_nor_on_who_is_retired_before_others_of_the_generation_have_begun():
    """Three of 8 fail, so that there is no quorum; two of them at once again, and are retired."""
    faults = {(0, 1): ["raises"], (0, 2): ["raises"], (1, 1): ["nan"], (1, 2): ["nan"]}
    settings = {"population": 8, "mode": "generational", "max_failures": 2, "turns": 4}

    def outcome(slots):
        every = {**faults, (2, 1): ["raises"]}
        return turns_of_without_time(simulate(Counting, slots=slots, faults=every, **settings))

    assert outcome(slots=1) == outcome(slots=8)


def test_the_learning_sampler_does_not_make_it_depend_on_them_either():
    def outcome(**settings):
        simulation = simulate(
            Counting,
            mode="generational",
            explore="resample:probability=1",
            resample="optuna:sampler=TPESampler",
            population=6,
            **settings,
        )
        return turns_of_without_time(simulation)

    assert outcome(slots=1) == outcome(slots=3, duration=slowly)


def turns_of_without_time(simulation):
    turns = sorted(turns_of(simulation), key=lambda turn: (turn.member, turn.number))
    return [(turn.plan, turn.score, turn.status) for turn in turns]


def test_asynchronous_members_wait_for_a_straggler_once_and_a_turn_at_most():
    simulation = simulate(
        Counting,
        population=4,
        slots=4,
        turns=10,
        duration=lambda plan, rng: 100.0 if plan.member == 0 else 1.0,
    )
    ended = {(m, n): when for when, event, m, n in simulation.engine.log if event == "ok"}
    # It is a turn late for the first comparison; from then on nobody expects it any more.
    assert max(ended[m, 10] for m in (1, 2, 3)) == 11.0


def test_generational_members_wait_for_all_others():
    log = simulate(Counting, mode="generational", slots=3, duration=slowly).engine.log
    begun = Counter()
    for _, event, _, number in log:
        if event == "begins":
            assert number == 1 or begun[number - 1, "ok"] == 4
        begun[number, event] += 1


def test_generational_members_wait_no_longer_than_the_deadline_and_a_straggler_joins_again():
    """The third turn of member 0 hangs; a turn may take 300 seconds, where the usual takes one."""

    def duration(plan, rng):
        return 5000.0 if (plan.member, plan.turn) == (0, 3) else 1.0

    simulation = simulate(Counting, mode="generational", slots=4, turns=8, duration=duration)
    when = {(m, n): time for time, event, m, n in simulation.engine.log if event == "begins"}
    assert max(when[m, 3] for m in range(4)) == 2
    # Its generation has waited for it for so long, and every one after it goes on at once.
    assert 302 <= min(when[m, 4] for m in (1, 2, 3)) <= 304
    assert max(when[m, 8] for m in (1, 2, 3)) < 310
    assert when[0, 4] == 5002
    assert all(len(turns) == 8 for turns in simulation.history.turns.values())


def test_where_most_members_are_late_the_others_wait():
    """No quorum: what is slow is the machine, and not a member."""

    def duration(plan, rng):
        return 5000.0 if plan.turn == 3 and plan.member else 1.0

    simulation = simulate(Counting, mode="generational", slots=4, turns=4, duration=duration)
    when = {(m, n): time for time, event, m, n in simulation.engine.log if event == "begins"}
    assert when[0, 4] == 5002


@pytest.mark.parametrize(
    ("given", "seconds", "limit"),
    [
        (None, 1.0, 300.0),
        (None, 100.0, 2000.0),
        (7.0, 100.0, 7.0),
        (math.inf, 100.0, None),
    ],
)
def test_a_turn_may_take_many_times_the_median_unless_it_is_set(given, seconds, limit):
    simulation = simulate(Counting, turn_timeout=given, duration=lambda plan, rng: seconds)
    assert simulation.engine.turn_timeout == limit


def test_of_the_first_turns_nobody_knows_how_long_they_may_take():
    simulation = simulate(Counting, population=2, turns=2)
    assert simulation.engine.turn_timeout is None


def test_a_turn_that_hangs_is_run_again_after_the_deadline():
    simulation = simulate(Counting, faults={(1, 5): ["hangs"]}, slots=4)
    begins = [t for t, event, m, n in simulation.engine.log if (event, m, n) == ("begins", 1, 5)]
    assert begins == [4.0, 304.0]
    assert simulation.history.turn(1, 5).ok


def test_members_with_the_fewest_turns_come_first():
    log = simulate(Counting, population=6, slots=2, duration=lambda plan, rng: 1.0).engine.log
    numbers = [number for _, event, _, number in log if event == "begins"]
    assert numbers == sorted(numbers)


@pytest.mark.parametrize("fault", ["raises", "nan", "inf"])
def test_a_failed_turn_is_recorded_and_its_member_rescued(fault):
    simulation = simulate(Counting, faults={(1, 2): [fault]})
    failed, rescued = simulation.history.turns[1][1:3]
    assert failed.status == ("failed" if fault == "raises" else "diverged")
    assert failed.score is None
    assert rescued.ok
    assert rescued.plan.donor is not None


@pytest.mark.parametrize("fault", ["dies", "hangs"])
def test_a_turn_whose_worker_is_lost_is_run_again_with_the_same_plan(fault):
    undisturbed = simulate(Counting, mode="generational")
    disturbed = simulate(Counting, mode="generational", faults={(1, 2): [fault]})
    assert turns_of_without_time(disturbed) == turns_of_without_time(undisturbed)


def test_a_turn_that_kills_two_workers_is_lost_and_its_member_rescued():
    simulation = simulate(Counting, faults={(1, 2): ["dies", "dies"]})
    lost, rescued = simulation.history.turns[1][1:3]
    assert (lost.status, lost.error) == ("lost", "the worker dies")
    assert rescued.plan.donor is not None


@pytest.mark.parametrize("tries", [1, 2])
def test_each_try_of_a_turn_that_hung_is_time_lost_and_not_waiting(tries):
    simulation = simulate(Counting, slots=1, faults={(1, 5): ["hangs"] * tries})
    turn = simulation.history.turn(1, 5)
    assert turn.ok == (tries == 1)
    begins = [t for t, event, m, n in simulation.engine.log if (event, m, n) == ("begins", 1, 5)]
    assert turn.started == begins[0]
    assert turn.ended == begins[0] + 300 * tries + (1 if turn.ok else 0)
    spent = time_spent(simulation.history, 1)
    assert (spent["lost"], spent["waiting"]) == (300 * tries, 0)
    assert spent["train"] == 24 - (tries - 1)
    # What a turn may take follows from turns, and not from the tries that came to nothing.
    assert max(simulation.controller.turn_times.durations) == 1


def test_a_member_that_keeps_failing_is_retired_and_the_others_go_on():
    faults = {(1, number): ["raises"] for number in range(1, 7)}
    simulation = simulate(Counting, faults=faults, max_failures=3)
    assert len(simulation.history.turns[1]) == 3
    assert [m.index for m in simulation.controller.living] == [0, 2, 3]
    assert simulation.store.retired == [1]
    assert simulation.said == [
        "member 1 has failed 3 turns in a row and is retired; the last: raised by the simulation"
    ]
    assert all(len(simulation.history.turns[m]) == 6 for m in (0, 2, 3))


def test_where_every_member_fails_the_population_ends_and_says_so():
    faults = {(m, n): ["raises"] for m in range(4) for n in range(1, 7)}
    simulation = simulate(Counting, faults=faults)
    assert simulation.controller.stopping == "every member failed"
    assert simulation.history.winner() is None


@pytest.mark.parametrize("mode", ["async", "generational"])
def test_a_store_that_is_away_for_a_while_changes_no_event(mode):
    away = simulate(Counting, mode=mode, duration=slowly, outages=[(2.0, 5.0), (7.0, 400.0)])
    there = simulate(Counting, mode=mode, duration=slowly)
    assert away.engine.log == there.engine.log
    assert away.engine.now > 400 > there.engine.now
    assert turns_of(away) == turns_of(there)
    assert sorted(away.store.told, key=repr) == sorted(there.store.told, key=repr)
    said = [text for text in away.said if not text.startswith("warning")]
    assert [text.split(". ")[0] for text in said[:3:2]] == ["the store is away"] * 2
    assert "the tracking store is back" in said[1]
    assert [text for text in there.said if "store" in text] == []


def test_the_journal_does_not_wait_behind_what_is_logged(monkeypatch):
    """However much a killed controller has still to log, a resume reads few records one by one."""
    monkeypatch.setattr("pbt_flow.training.store_queues._SEGMENTS", (3, 3))
    made = prepare(Counting, outages=[(2.0, math.inf)])
    made.controller.go(SilentFor(made.engine, 0, 0))
    done = turns_of(made)
    assert len(made.store.told) < 6 < len(done)
    assert 0 <= len(done) - len(made.store.written) < 3


def test_the_journal_gets_a_twentieth_of_the_record_at_once(monkeypatch):
    """After a kill a short record has few turns to read one by one, and a long one is few files."""
    monkeypatch.setattr("pbt_flow.training.store_queues._SEGMENTS", (3, 8))
    made, sizes = prepare(Counting, population=4, turns=60), []
    write = made.store.log_records
    monkeypatch.setattr(
        made.store, "log_records", lambda turns: (sizes.append(len(turns)), write(turns))
    )
    made.controller.go(SilentFor(made.engine, 0, 0))
    assert (sizes[0], sizes[-1]) == (3, 8)
    for size, so_far in zip(sizes, itertools.accumulate(sizes), strict=True):
        # Two turns may end at once.
        assert 0 <= size - min(8, max(3, so_far // 20)) <= 1
    assert 0 <= 240 - sum(sizes) < 8


def test_a_store_that_stays_away_ends_the_run_when_its_patience_is_over():
    with pytest.raises(StoreUnavailable, match="the store is away"):
        simulate(Counting, turns=10_000, outages=[(5.0, math.inf)])


class SilentFor:
    """A lease whose store does not answer between two moments of a simulated clock."""

    lost = asked_to_stop = False

    def __init__(self, engine, begin, end):
        self.engine, self.begin, self.end = engine, begin, end

    @property
    def is_silent(self):
        return self.begin <= self.engine.now < self.end


@pytest.mark.parametrize(("patience", "is_told"), [(600.0, True), (0.0, False)])
def test_a_store_that_turns_wait_for_is_told_once_when_it_goes_and_when_it_is_back(
    patience, is_told
):
    """Where turns lie on a disk of this machine, none waits for the store."""
    made = prepare(Counting, population=2, turns=9, slots=1)
    made.store.patience = patience
    made.controller.go(SilentFor(made.engine, 3.0, 8.0))
    told = [text for text in made.said if "store" in text]
    went = "the tracking store does not answer; a turn that ends waits to be left there, for 600"
    both = [f"{went} seconds at most", "the tracking store answers again"]
    assert told == (both if is_told else [])


def test_no_worker_waits_for_requests_as_long_as_the_store_can_take_them():
    """16 workers end 1.6 turns a second; each turn is two requests of a second, eight at once."""

    def busy(request):
        made = simulate(
            Counting, population=64, slots=16, duration=ten_seconds, request=request, turns=8
        )
        assert sorted(made.store.told, key=repr) == sorted(turns_of(made), key=repr)
        return sum(turn.took for turn in turns_of(made)) / (16 * ended(made))

    assert busy(1.0) > busy(None) - 0.03


def ten_seconds(plan, rng):
    return 10 * rng.lognormal(-0.125, 0.5)


def ended(simulation):
    """When the last turn had ended."""
    return max(turn.ended for turn in turns_of(simulation))


@pytest.mark.parametrize("request_seconds", [0.1, 3.0])
def test_how_long_requests_take_changes_nothing_in_a_generational_population(request_seconds):
    there = simulate(Counting, mode="generational", duration=slowly, request=None)
    slow = simulate(
        Counting, mode="generational", duration=slowly, request=request_seconds, requests_at_once=1
    )
    assert turns_of_without_time(slow) == turns_of_without_time(there)
    assert sorted(slow.store.told, key=repr) == sorted(turns_of(slow), key=repr)


def test_no_turn_begins_while_too_many_checkpoints_wait_to_be_deleted():
    """The store deletes one in 20 seconds; four members end a turn each second."""
    made = simulate(Counting, slots=4, turns=12, request=20.0, requests_at_once=1, keep=1)
    fast = simulate(Counting, slots=4, turns=12, request=0.0, keep=1)
    assert made.engine.most_states <= fast.engine.most_states + 2 * 4 + 4
    assert [text for text in made.said if "no turn begins until the store has caught up" in text]
    assert len(turns_of(made)) == 4 * 12
    assert set(made.engine.states) == set(fast.engine.states)


def test_turns_that_wait_one_behind_the_other_are_told_with_one_request():
    made = simulate(Counting, slots=4, turns=12, request=10.0, requests_at_once=1)
    assert sorted(made.store.told, key=repr) == sorted(turns_of(made), key=repr)
    for member in range(4):
        own = [turn.number for turn in made.store.told if turn.member == member]
        assert own == sorted(own)
    assert made.controller.queues.log.calls < 48


def test_what_a_slow_store_refuses_ends_the_run():
    def refuse(turns):
        raise StoreError("no such run")

    made = prepare(Counting, request=3.0)
    made.store.log_turns = refuse
    with pytest.raises(StoreError, match="no such run"):
        made.go()


def test_the_target_ends_the_population():
    simulation = simulate(Counting, target=20.0, turns=100)
    assert simulation.best >= 20
    assert simulation.controller.stopping == "the target 20 is reached"
    assert len(turns_of(simulation)) < 400


def test_the_time_limit_ends_the_population():
    simulation = simulate(Counting, seconds=10.0, turns=100, slots=1)
    assert len(turns_of(simulation)) == 10


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_checkpoints_stay_within_keep_for_each_member_however_long_it_takes(keep):
    simulation = simulate(Counting, population=8, slots=2, turns=30, keep=keep, duration=slowly)
    # Beside them: two being written, two that these began with, the best initial one and the two
    # best ever, the one whose arrival has just made others superfluous, and the best of three ages
    # at most.
    assert simulation.engine.most_states <= keep * 8 + 2 + 2 + 3 + 1 + 3


@pytest.mark.parametrize("keep", [1, 2])
def test_a_straggler_copies_records_of_its_own_age_however_far_the_others_are(keep):
    """For each age that it has still to pass one checkpoint is kept, the best."""
    simulation = simulate(
        Counting,
        population=6,
        slots=6,
        turns=20,
        keep=keep,
        initial=[{"gain": 0.1, "count": 1, "kind": "a"}],
        duration=lambda plan, rng: 9.0 if plan.member == 0 else 1.0,
    )
    copied = [turn.plan for turn in simulation.history.turns[0] if turn.plan.donor is not None]
    assert len(copied) >= 2
    for plan in copied:
        assert plan.start_step == plan.trained - 5
        assert plan.donor.turn == plan.turn - 1
    assert simulation.engine.most_states <= keep * 6 + 6 + 6 + 3 + 1 + 20


@pytest.mark.parametrize("finalists", ["fresh", "none"])
def test_when_all_is_done_only_the_newest_checkpoints_and_those_that_are_looked_at_are_left(
    finalists,
):
    simulation = simulate(Counting, population=8, turns=20, finalists=finalists)
    history = simulation.history
    looked_at = [own[-1] for own in history.turns.values()] + [history.best_initial]
    if finalists == "fresh":
        looked_at += history.best_ever
    left = {(turn.member, turn.number) for turn in looked_at}
    assert set(simulation.engine.states) == left


@pytest.mark.slow
def test_decisions_of_a_large_population_stay_quick():
    """Not a timed test: with time per decision growing with history, it would take minutes."""
    simulation = simulate(Toy, population=256, turns=10, slots=16, duration=slowly)
    assert len(turns_of(simulation)) == 2560
    assert np.isfinite(simulation.best)


@pytest.mark.parametrize("mode", ["async", "generational"])
@pytest.mark.parametrize("exploit", ["truncation", "tournament"])
def test_hyperparameters_alone_are_copied_in_the_first_share_of_the_turns_and_then_both(
    mode, exploit
):
    made = simulate(
        Counting,
        population=8,
        turns=10,
        mode=mode,
        exploit=f"{exploit}:copies=hparams,until=0.6",
        duration=slowly,
        seed=1,
    )
    copied = [turn for turn in turns_of(made) if turn.plan.donor is not None]
    # A member that has done six turns of ten plans its seventh as it did those before.
    early = [turn for turn in copied if turn.number <= 7]
    assert {turn.plan.donor.copies for turn in early} == {"hparams"}
    for turn in early:
        assert turn.plan.start == made.history.turn(turn.member, turn.number - 1).checkpoint
    late = [turn for turn in copied if turn.number > 7]
    assert {turn.plan.donor.copies for turn in late} == {"both"}
