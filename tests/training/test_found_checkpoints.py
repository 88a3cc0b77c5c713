"""Which states a resume looks for, where a look at each would be requests."""

import copy

import pytest
from simulated import Counting, slowly

from pbt_flow.exceptions import TakenOver
from pbt_flow.testing.simulation import prepare
from pbt_flow.training.log_queue import LogQueue


class Killed:
    """A claim that is lost, as by a kill, once the controller has asked for it so often."""

    asked_to_stop = False
    is_silent = False

    def __init__(self, after):
        self.left = after

    @property
    def lost(self):
        self.left -= 1
        return self.left < 0


def killed(after, **settings):
    """A population whose controller has died, with deletions that it has not come to."""
    how = {"population": 6, "turns": 12, "max_failures": 20, "slots": 3, "duration": slowly}
    faults = {(2, 3): ["raises"], (4, 5): ["raises"], (1, 6): ["dies"]}
    made = prepare(Counting, faults=faults, request=1.5, **{**how, **settings})
    with pytest.raises(TakenOver):
        made.controller.go(Killed(after))
    return made


def gone_on(made, *, sees_states):
    """The same population resumed and trained to the end, with or without a look at every state."""
    made = copy.deepcopy(made)
    made.store.sees_states = sees_states
    made.store.engine = made.engine
    made.controller.make_queue = LogQueue
    more = made.resumed()
    asked = more.store.asked
    return more.go(), asked


@pytest.mark.parametrize("after", [15, 40, 75])
@pytest.mark.parametrize(
    "settings",
    [{"mode": "generational"}, {"mode": "async"}, {"stages": "6x4:both,3x16:both"}],
    ids=["generational", "async", "in stages"],
)
def test_a_resume_that_asks_for_few_states_goes_on_as_one_that_looks_at_all(settings, after):
    made = killed(after, seed=after, **settings)
    done = sum(map(len, made.history.turns.values()))
    all_seen, _ = gone_on(made, sees_states=True)
    few_asked, asked = gone_on(made, sees_states=False)
    assert few_asked.engine.log == all_seen.engine.log
    assert few_asked.history.turns == all_seen.history.turns
    assert few_asked.engine.states.keys() == all_seen.engine.states.keys()
    assert asked <= 5 * 6 or done <= 5 * 6


def test_it_does_not_ask_for_more_however_long_the_population_has_trained():
    counts = []
    for turns in (20, 80):
        made = killed(turns * 6, turns=turns + 40, mode="async", seed=1)
        counts.append(gone_on(made, sees_states=False)[1])
    assert counts[1] <= counts[0] + 12


def test_a_state_that_somebody_has_deleted_is_seen_to_be_gone():
    """It was the best of an age that a straggler has still to pass: nobody copies it."""
    made = killed(40, seed=3, mode="async", keep=1)
    history, index = made.history, made.controller.member_index
    bests = [history.best_at(age) for age in history.ages(up_to=10**6)]
    (best, *_) = [
        turn
        for turn in bests
        if turn is not None and turn.step >= index.undecided() and not index.needs(turn.checkpoint)
    ]
    del made.engine.states[best.member, best.number]
    more, _ = gone_on(made, sees_states=False)
    assert not more.history.has_checkpoint(best)
    assert {len(turns) for turns in more.history.turns.values()} == {12}


def test_a_best_of_a_round_that_is_still_to_be_shown_is_kept_for_it():
    """The controller is killed when round 3 is complete, and nobody has made its samples."""
    made = killed(50, seed=3, samples="rounds", mode="async", keep=1)
    assert {turn.number for turn in made.store.shown} == {1, 2}
    more, _ = gone_on(made, sees_states=False)
    assert {turn.number for turn in more.store.shown} == set(range(1, 13))
