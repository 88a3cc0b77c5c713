"""The decision: whom a member is compared with, and what becomes of it."""

import math

import numpy as np
import pytest
from optuna.distributions import FloatDistribution

from pbt_flow.advise import advise, comparable, rescue
from pbt_flow.exploit import BinaryTournament, Candidate, NoExploit, Truncation, TTest
from pbt_flow.explore import NoExplore, Perturb
from pbt_flow.history import History
from pbt_flow.member import Checkpoint, Donor, Member, Plan, Turn
from pbt_flow.samplers import Uniform

SPACE = {"lr": FloatDistribution(1e-4, 1.0, log=True)}
INTERVAL = 10


class Population:
    """Writes histories: `turn(member, score)` is the member's next turn."""

    def __init__(self, size, direction="maximize"):
        self.history = History(direction=direction)
        self.history.begin(Member(index=i, hparams={"lr": 0.01 * (i + 1)}) for i in range(size))

    def turn(self, index, score, *, donor=None, sample=()):
        member = self.history.members[index]
        start, step, hparams = member.checkpoint, member.step, member.hparams
        if donor is not None:
            record = self.history.turn(donor.member, donor.turn)
            start, step, hparams = record.checkpoint, record.step, record.plan.hparams
        number = member.turn + 1
        plan = Plan(
            member=index,
            turn=number,
            seed=0,
            hparams=hparams,
            steps=INTERVAL,
            start=start,
            start_step=step,
            trained=member.trained + INTERVAL,
            donor=donor,
            compared_at=member.compared_at,
        )
        if score is None:
            turn = Turn(plan=plan, status="failed", error="as arranged")
        else:
            checkpoint = Checkpoint(member=index, turn=number, digest="", size=1)
            turn = Turn(plan=plan, status="ok", score=score, sample=sample, checkpoint=checkpoint)
        self.history.add(turn)

    def round(self, *scores):
        for index, score in enumerate(scores):
            self.turn(index, score)

    def advise(self, index, exploit=None, explore=None, seed=0):
        return advise(
            self.history.members[index],
            self.history,
            living=len(self.history.members),
            space=SPACE,
            exploit=exploit or Truncation(),
            explore=explore or NoExplore(),
            sampler=Uniform(),
            rng=np.random.default_rng(seed),
        )


def test_the_worst_takes_weights_step_and_hyperparameters_of_one_record_of_the_best():
    population = Population(4)
    population.round(1, 2, 3, 4)
    advised = population.advise(0)
    best = population.history.turn(3, 1)
    assert advised.donor == Donor(member=3, turn=1, copies="both")
    assert advised.checkpoint == best.checkpoint
    assert advised.step == best.step
    assert advised.hparams == best.plan.hparams


@pytest.mark.parametrize("index", [1, 2, 3])
def test_everyone_else_goes_on_unchanged(index):
    population = Population(4)
    population.round(1, 2, 3, 4)
    member, advised = population.history.members[index], population.advise(index, explore=Perturb())
    assert advised.donor is None
    assert advised.hparams == member.hparams
    assert advised.checkpoint == member.checkpoint


def test_a_smaller_score_is_better_where_the_task_says_so():
    population = Population(4, direction="minimize")
    population.round(1, 2, 3, 4)
    assert population.advise(3).donor.member == 0
    assert population.advise(0).donor is None


@pytest.mark.parametrize(
    ("copies", "hparams_of", "weights_of"),
    [("both", 3, 3), ("weights", 0, 3), ("hparams", 3, 0)],
)
def test_a_copy_takes_what_the_strategy_says(copies, hparams_of, weights_of):
    population = Population(4)
    population.round(1, 2, 3, 4)
    advised = population.advise(0, Truncation(copies=copies))
    assert advised.hparams == population.history.members[hparams_of].hparams
    assert advised.checkpoint == population.history.members[weights_of].checkpoint
    assert advised.donor.copies == copies


def test_explore_moves_only_what_was_copied():
    population = Population(4)
    population.round(1, 2, 3, 4)
    best = population.history.members[3].hparams["lr"]
    perturb = Perturb(factors=(0.5, 2.0), resample_probability=0)
    moved = population.advise(0, explore=perturb).hparams["lr"]
    assert moved in (pytest.approx(best * 0.5), pytest.approx(best * 2))


def test_the_same_randomness_gives_the_same_advice():
    population = Population(8)
    population.round(*range(8))
    once, again = (population.advise(0, explore=Perturb(), seed=7) for _ in range(2))
    assert once == again
    assert any(population.advise(0, explore=Perturb(), seed=s) != once for s in range(5))


# --- the same age ---------------------------------------------------------------------------------


def test_a_member_that_is_ahead_is_judged_by_its_own_past():
    """On a rising curve it leads only for being older; at the same age it was the worst."""
    population = Population(4)
    population.round(1, 2, 3, 4)
    population.turn(0, 100)
    age, records = comparable(population.history.members[0], population.history, quorum=2)
    assert age == INTERVAL
    assert {index: one.fitness for index, one in records.items()} == {0: 1, 1: 2, 2: 3, 3: 4}
    assert population.advise(0).donor.member == 3


def test_a_straggler_is_compared_with_what_the_others_scored_when_they_were_as_young():
    population = Population(4)
    population.round(4, 1, 2, 3)
    for index in (1, 2, 3):
        population.turn(index, 50 + index)
    assert population.advise(0).donor is None


def test_a_copy_takes_weights_of_the_members_own_age_and_not_of_a_donor_that_ran_ahead():
    population = Population(4)
    population.round(1, 2, 3, 4)
    population.turn(3, 40)
    advised = population.advise(0)
    assert advised.donor.turn == 1
    assert advised.step == INTERVAL


def test_where_the_checkpoint_of_that_age_is_gone_a_straggler_takes_the_oldest_there_is():
    population = Population(4)
    population.round(1, 2, 3, 4)
    population.turn(3, 40)
    population.turn(3, 41)
    population.history.forget(3, 1)
    advised = population.advise(0)
    assert advised.donor.turn == 2
    assert advised.step == 2 * INTERVAL


def test_nobody_is_judged_before_half_of_the_members_have_come_as_far():
    population = Population(4)
    population.turn(0, 1)
    assert comparable(population.history.members[0], population.history, quorum=2) == (None, {})
    population.turn(1, 2)
    age, _ = comparable(population.history.members[0], population.history, quorum=2)
    assert age == INTERVAL


def test_each_age_is_judged_once():
    population = Population(2)
    population.round(1, 2)
    advised = population.advise(1)
    assert advised.compared_at == INTERVAL
    assert comparable(advised, population.history, quorum=2) == (None, {})


def test_a_score_from_before_the_last_copy_is_not_held_against_the_new_weights():
    population = Population(4)
    population.round(1, 2, 3, 4)
    population.turn(0, 1)
    population.turn(0, 9, donor=Donor(member=3, turn=1, copies="both"))
    member = population.history.members[0]
    assert member.step == 2 * INTERVAL
    for index in (1, 2, 3):
        population.turn(index, 5)
    assert population.advise(0).donor is None


# --- ties, failures, edge cases -------------------------------------------------------------------


@pytest.mark.parametrize("exploit", [Truncation(), Truncation(fraction=0.5), BinaryTournament()])
def test_equal_scores_copy_nobody(exploit):
    population = Population(4)
    population.round(5, 5, 5, 5)
    for index in range(4):
        for seed in range(5):
            assert population.advise(index, exploit, seed=seed).donor is None


def test_a_failed_member_is_rescued_by_one_of_the_better_half_whatever_the_strategy():
    population = Population(4)
    population.round(None, 2, 3, 4)
    donors = {population.advise(0, TTest(), seed=seed).donor.member for seed in range(40)}
    assert donors <= {2, 3}
    assert all(population.advise(0, TTest(), seed=s).donor.copies == "both" for s in range(5))


def test_a_failed_member_is_nobodys_donor():
    population = Population(4)
    population.round(1, 2, 3, None)
    donors = {population.advise(0, BinaryTournament(), seed=seed).donor for seed in range(40)}
    assert 3 not in {donor.member for donor in donors if donor}


def test_a_failed_member_of_a_random_search_tries_again_from_its_own_checkpoint():
    population = Population(2)
    population.round(1, 2)
    population.round(None, 3)
    advised = population.advise(0, NoExploit())
    assert advised.donor is None
    assert advised.checkpoint == population.history.turn(0, 1).checkpoint


def test_where_everyone_failed_everyone_tries_again():
    population = Population(3)
    population.round(None, None, None)
    advised = population.advise(0)
    assert advised.donor is None
    assert advised.checkpoint is None


def test_a_rescued_member_rejoins_the_others_at_their_age():
    population = Population(4)
    population.round(None, 2, 3, 4)
    assert population.advise(0).step == INTERVAL


def test_the_rescue_of_a_pair_takes_the_only_other():
    other = Candidate(member=1, fitness=-math.inf)
    assert rescue([other], np.random.default_rng(0)) == 1
    assert rescue([], np.random.default_rng(0)) is None


def test_a_t_test_without_samples_says_what_the_task_must_return():
    population = Population(2)
    population.round(1, 2)
    with pytest.raises(ValueError, match=r"evaluate\(\) must return a sequence"):
        population.advise(0, TTest())
