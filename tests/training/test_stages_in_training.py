"""Populations in stages on a simulated engine and clock: numbers, budgets, copies, and resumes."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulated import Counting, slowly, turns_of

from pbt_flow.testing.simulation import prepare, simulate
from pbt_flow.training.controller import Controller

FAULTS = ["raises", "nan", "dies", "hangs"]
WIDE = "16x2:none,8x4:hparams,4x8:hparams,2x32:both"


@st.composite
def plans(draw):
    """Any stages, as text, with a population and turns of the same budget."""
    sizes = sorted(draw(st.lists(st.integers(2, 9), min_size=1, max_size=4)), reverse=True)
    stages = [
        (
            size,
            draw(st.integers(1, 4)),
            draw(st.sampled_from(["none", "hparams", "weights", "both"])),
        )
        for size in sizes
    ]
    text = ",".join(f"{size}x{turns}:{copies}" for size, turns, copies in stages)
    return {"stages": text, "population": sum(s * t for s, t, _ in stages), "turns": 1}


def ended(simulation):
    """When each turn ended, by member and turn."""
    ends = {"ok", "failed", "diverged"}
    return {(m, n): when for when, event, m, n in simulation.engine.log if event in ends}


def begun(simulation):
    return {(m, n): when for when, event, m, n in simulation.engine.log if event == "begins"}


@given(
    plan=plans(),
    slots=st.one_of(st.integers(1, 9), st.just(None)),
    mode=st.sampled_from(["async", "generational"]),
    exploit=st.sampled_from(["truncation", "truncation:fraction=0.5,ties=true", "tournament"]),
    seed=st.integers(0, 1000),
)
def test_exactly_the_planned_numbers_go_on_and_all_turns_of_the_plan_are_done(
    plan, slots, mode, exploit, seed
):
    made = simulate(
        Counting, **plan, slots=slots, mode=mode, exploit=exploit, seed=seed, duration=slowly
    )
    history, stages = made.history, made.history.stages
    begins, ends = begun(made), ended(made)
    assert len(turns_of(made)) == stages.total
    for number, stage in enumerate(stages.stages):
        there = {m for m, turns in history.turns.items() if len(turns) > stages.begins(number)}
        assert len(there) == stage.members
        assert all(len(history.turns[m]) >= stages.ends[number] for m in there)
        if number:
            # The end of a stage is a barrier: nobody goes on before the last has come to it.
            first, last = stages.begins(number) + 1, stages.begins(number)
            before = {m for m, turns in history.turns.items() if len(turns) >= last}
            assert min(begins[m, first] for m in there) >= max(ends[m, last] for m in before)
    for turn in turns_of(made):
        donor, number = turn.plan.donor, stages.stage_at(turn.number)
        assert turn.step <= turn.plan.trained <= 5 * stages.ends[number]
        if donor is not None:
            assert turn.number > stages.begins(number) + 1, "somebody copied as a stage began"
            assert donor.copies == stages.stages[number].copies
            # Whoever is copied is in the same stage: it was ranked at the same age.
            assert stages.stage_at(donor.turn) == number
    # All who left are told of, and nobody else.
    assert set(made.store.left) == set(history.left)


@given(
    plan=plans(),
    slots=st.integers(1, 9),
    mode=st.sampled_from(["async", "generational"]),
    faults=st.dictionaries(
        st.tuples(st.integers(0, 8), st.integers(1, 8)),
        st.lists(st.sampled_from(FAULTS), min_size=1, max_size=3),
        max_size=6,
    ),
    max_failures=st.integers(1, 3),
    keep=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_whatever_goes_wrong_budgets_hold_and_no_checkpoint_is_kept_for_who_left(
    plan, slots, mode, faults, max_failures, keep, seed
):
    made = simulate(
        Counting,
        **plan,
        slots=slots,
        mode=mode,
        faults=faults,
        max_failures=max_failures,
        keep=keep,
        seed=seed,
        duration=slowly,
    )
    history, states, stages = made.history, made.engine.states, made.history.stages
    for member, turns in history.turns.items():
        reached = history.left.get(member, len(stages.stages) - 1)
        assert len(turns) <= stages.ends[reached]
        assert all(turn.step <= turn.plan.trained for turn in turns)
    for number, stage in enumerate(stages.stages[1:], 1):
        there = [m for m, turns in history.turns.items() if len(turns) > stages.begins(number)]
        assert len(there) <= stage.members
    for member in made.controller.living:
        assert member.turn == stages.ends[-1]
    needed = {
        (m.checkpoint.member, m.checkpoint.turn)
        for m in history.present
        if m.checkpoint is not None
    }
    pinned = [history.best_initial] if history.best_initial is not None else []
    needed |= {(turn.member, turn.number) for turn in [*pinned, *history.best_ever]}
    assert needed <= states.keys()
    assert {place for place in states if place[0] in history.left} <= needed
    winner = history.winner()
    assert (
        winner is None
        or winner.member not in history.left
        or any(m.checkpoint == winner.checkpoint for m in history.present)
    )
    told = [(turn.member, turn.number) for turn in made.store.told]
    assert len(told) == len(set(told)) == len(turns_of(made))


class Killed(BaseException):
    """The controller is no more."""


EVENTS = ("accept", "_enter", "_end_stage", "dispatch", "decide", "log_rounds", "clean", "_delete")
"""The methods of a controller before and after each call of which it is killed."""


def mortal(calls: int) -> type[Controller]:
    """A controller that is killed at so many calls of any of `EVENTS`."""
    left = itertools.count(calls, -1)

    def at(name: str):
        original = getattr(Controller, name)

        def method(self, *arguments):
            if next(left) == 0:
                raise Killed
            returned = original(self, *arguments)
            if next(left) == 0:
                raise Killed
            return returned

        return method

    return type("Mortal", (Controller,), {name: at(name) for name in EVENTS})


def killed(calls: int, **how):
    """A population that is killed once and goes on; None where it ends before."""
    made = prepare(Counting, **how, controller=mortal(calls))
    try:
        made.go()
    except Killed:
        return made.resumed(Controller).go()
    return None


def outcome(made):
    turns = sorted(turns_of(made), key=lambda turn: (turn.member, turn.number))
    done = [(turn.plan, turn.score, turn.status) for turn in turns]
    winner = made.history.winner()
    assert winner is not None
    return done, made.history.left, made.store.left, (winner.plan, winner.score)


SMALL = {"stages": "6x1:none,4x2:hparams,2x2:both", "population": 9, "turns": 2, "workers": 2}


@pytest.mark.slow
def test_a_population_that_is_killed_at_any_event_has_the_same_stages_and_the_same_winner():
    """Generational, so that nothing depends on what was under way."""
    how = {**SMALL, "mode": "generational", "seed": 1, "faults": {(1, 1): ["raises"]}}
    undisturbed = outcome(simulate(Counting, **how))
    assert len(undisturbed[1]) == 4
    for calls in itertools.count():
        again = killed(calls, **how)
        if again is None:
            break
        assert outcome(again) == undisturbed, f"killed at event {calls}"
    assert calls > 200


@given(plan=plans(), calls=st.integers(0, 300), slots=st.integers(1, 5), seed=st.integers(0, 99))
def test_an_asynchronous_one_has_the_planned_numbers_wherever_it_is_killed(
    plan, calls, slots, seed
):
    made = killed(calls, **plan, slots=slots, seed=seed, duration=slowly)
    if made is None:
        return
    stages = made.history.stages
    assert len(turns_of(made)) == stages.total
    done = Counter(len(turns) for turns in made.history.turns.values())
    sizes = [stage.members for stage in stages.stages]
    for end, here, after in zip(stages.ends, sizes, [*sizes[1:], 0], strict=True):
        assert done[end] == here - after
    assert set(made.store.left) == set(made.history.left)


def test_a_generational_population_in_stages_does_not_depend_on_workers_or_their_speed():
    how = {"stages": WIDE, "population": 8, "turns": 20, "mode": "generational", "seed": 3}
    alone = outcome(simulate(Counting, **how, slots=1))
    assert outcome(simulate(Counting, **how, slots=5, duration=slowly)) == alone


@pytest.mark.parametrize("exploit", ["truncation", "none"])
def test_the_first_founders_are_those_of_the_population_without_stages(exploit):
    how = {"population": 8, "turns": 20, "init": "latin", "seed": 5}
    staged = simulate(Counting, **how, exploit=exploit, stages="wide", workers=2)
    plain = simulate(Counting, **how, exploit=exploit)
    assert len(staged.history.members) == 16
    for member in range(8):
        ours, theirs = staged.history.turn(member, 1), plain.history.turn(member, 1)
        assert (ours.plan, ours.score) == (theirs.plan, theirs.score)
    hparams = [staged.history.turn(member, 1).plan.hparams["gain"] for member in range(16)]
    assert len(set(hparams)) == 16


def test_initial_points_stay_those_of_the_first_members_and_a_small_plan_takes_the_first():
    points = [{"gain": 1.0, "count": 2, "kind": "a"}, {"gain": 2.0, "count": 3, "kind": "b"}]
    how = {"population": 6, "turns": 4, "initial": points, "seed": 2}
    plain = simulate(Counting, **how).history
    for stages in ("12x1:none,4x3:both", "4x6:both"):
        staged = simulate(Counting, **how, stages=stages).history
        for member in range(min(6, len(staged.members))):
            assert staged.turn(member, 1).plan == plain.turn(member, 1).plan


def test_halving_copies_nobody_and_its_plan_says_so():
    made = simulate(Counting, population=8, turns=20, stages="wide", exploit="none", workers=2)
    assert str(made.history.stages) == "16x2:none,8x4:none,4x8:none,2x32:none"
    assert not any(turn.plan.donor for turn in turns_of(made))
    assert made.controller.settings.method == "successive halving"


def test_a_straggler_is_not_waited_for_beyond_its_deadline_and_spends_nothing_more():
    """The last turn of member 0 in the first stage hangs; half of the members may go on."""

    def duration(plan, rng):
        return 5000.0 if (plan.member, plan.turn) == (0, 3) else 1.0

    made = simulate(
        Counting, population=8, turns=5, stages="8x3:none,4x4:both", slots=8, duration=duration
    )
    begins = begun(made)
    assert made.history.left[0] == 0
    assert 302 <= min(begins[m, 4] for m in range(1, 8) if (m, 4) in begins) <= 304
    assert max(ended(made)[m, n] for m, n in begins if n == 7) < 310
    # Its turn came to its end long afterwards, and nothing followed from it.
    assert len(made.history.turns[0]) == 3
    assert (0, 3) not in made.engine.states


def test_a_turn_of_a_member_that_has_left_is_not_run_again():
    made = simulate(
        Counting,
        population=8,
        turns=5,
        stages="8x3:none,4x4:both",
        slots=8,
        turn_timeout=9.0,
        faults={(0, 3): ["hangs", "hangs"]},
        duration=lambda plan, rng: 1.0,
    )
    tries = [event for _, event, m, n in made.engine.log if (event, m, n) == ("begins", 0, 3)]
    assert made.history.left[0] == 0
    assert len(tries) == 1
    assert len(made.history.turns[0]) == 2


def test_a_straggler_that_has_left_stays_out_though_nobody_has_a_turn_of_the_next_stage():
    """Its checkpoint was deleted as it left, so that it could only fail."""

    class Dying(Controller):
        def clean(self):
            super().clean()
            if self.history.stage == 1:
                raise Killed

    made = prepare(
        Counting,
        population=8,
        turns=5,
        stages="8x3:none,4x4:both",
        slots=8,
        turn_timeout=9.0,
        faults={(0, 3): ["hangs"]},
        controller=Dying,
    )
    with pytest.raises(Killed):
        made.go()
    left = dict(made.history.left)
    assert 0 in left
    again = made.resumed(Controller)
    assert again.history.left == left
    again.go()
    assert (again.history.left, set(again.store.left)) == (left, set(left))
    assert len(again.history.turns[0]) == 2
    assert all(turn.ok for turn in turns_of(again))


def test_a_member_may_leave_in_its_very_first_turn():
    """Its run ends, though it has no turn: also where a resume has to say so once more."""
    made = simulate(
        Counting,
        population=12,
        turns=1,
        stages="4x1:none,2x4:both",
        slots=4,
        turn_timeout=9.0,
        faults={(3, 1): ["hangs"]},
    )
    told = {1: "stage 1 of 2, after 1 turn", 3: "stage 1 of 2, after 1 turn"}
    assert made.history.turns[3] == []
    assert made.store.left == told
    made.store.left.clear()
    assert made.resumed().go().store.left == told


def test_the_user_and_the_runs_are_told_who_leaves_and_when():
    made = simulate(Counting, population=8, turns=20, stages="wide", workers=2)
    assert "stage 1 of 4 is over: 8 members leave, the others do 4 turns more" in made.said
    why = Counter(made.store.left.values())
    assert why == {
        "stage 1 of 4, after 2 turns": 8,
        "stage 2 of 4, after 6 turns": 4,
        "stage 3 of 4, after 14 turns": 2,
    }
    # Their last turns are there before their runs end.
    assert {turn.member for turn in made.store.told} >= set(made.store.left)


@pytest.mark.parametrize("mode", ["async", "generational"])
def test_a_plan_of_one_stage_is_the_population_without_stages(mode):
    how = {"population": 6, "turns": 5, "mode": mode, "seed": 4, "duration": slowly}
    assert (
        outcome(simulate(Counting, **how, stages="6x5:both"))[0]
        == outcome(simulate(Counting, **how))[0]
    )


def test_more_turns_on_a_resume_make_the_last_stage_longer():
    made = simulate(Counting, population=8, turns=20, stages="wide", workers=2)
    longer = made.controller.settings.resumed(turns=25)
    assert longer.last_turn == 66
    made.history.stages = longer.stage_plan
    made.controller.settings = longer
    more = made.resumed().go()
    done = Counter(len(turns) for turns in more.history.turns.values())
    assert done == {2: 8, 6: 4, 14: 2, 66: 2}
