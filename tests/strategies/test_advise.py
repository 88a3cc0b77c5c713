"""The decision: whom a member is compared with, and what becomes of it."""

import math

import numpy as np
import pytest
from optuna.distributions import FloatDistribution

from pbt_flow.exceptions import StrategyError
from pbt_flow.population.history import Candidate, History
from pbt_flow.population.records import Checkpoint, Donor, Member, Plan, Turn
from pbt_flow.strategies.advise import Outlook, advise, quorum_of, rescuer, should_wait
from pbt_flow.strategies.exploit import BinaryTournament, NoExploit, Truncation, TTest
from pbt_flow.strategies.explore import NoExplore, Perturb
from pbt_flow.strategies.samplers import Uniform

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

    def advise(self, index, exploit=None, explore=None, seed=0, retired=()):
        return advise(
            self.history.members[index],
            self.history,
            living=len(self.history.members) - len(retired),
            retired=retired,
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


def test_a_copy_takes_the_record_that_was_ranked_though_the_donor_has_collapsed_since():
    population = Population(4)
    population.round(1, 2, 3, 4)
    population.turn(3, -100)
    population.turn(0, 5)
    for index in (1, 2):
        population.turn(index, 4)
    # Judged at its own age, where it leads, and not by its first score, which was the worst.
    assert population.advise(0).donor is None
    assert population.advise(3).donor == Donor(member=0, turn=2, copies="both")


def test_where_the_ranked_checkpoint_is_gone_the_best_record_of_the_same_age_is_copied():
    population = Population(4)
    population.round(1, 2, 3, 4)
    population.turn(3, 40)
    population.history.forget(3, 1)
    advised = population.advise(0)
    assert advised.donor == Donor(member=2, turn=1, copies="both")
    assert advised.step == INTERVAL


def test_hyperparameters_are_those_of_the_record_that_was_ranked_though_its_checkpoint_is_gone():
    population = Population(4)
    population.round(1, 2, 3, 4)
    strategy = Truncation(fraction=0.5, copies="hparams")
    drawn = [population.advise(0, strategy, seed=seed).donor for seed in range(20)]
    assert {donor.member for donor in drawn} == {2, 3}
    for index in (1, 2, 3):
        population.history.forget(index, 1)
    assert [population.advise(0, strategy, seed=seed).donor for seed in range(20)] == drawn


def test_where_no_better_record_of_its_age_is_left_a_member_goes_on_rather_than_copy_an_older_one():
    population = Population(4)
    population.round(1, 2, 3, 4)
    population.turn(3, 40)
    for index in (1, 2, 3):
        population.history.forget(index, 1)
    assert population.advise(0).donor is None


def test_nobody_is_judged_before_three_quarters_of_the_members_have_come_as_far():
    population = Population(4)
    for index, score in enumerate([1, 2]):
        population.turn(index, score)
    assert population.advise(0).compared_at is None
    population.turn(2, 3)
    assert population.advise(0).compared_at == INTERVAL
    assert population.advise(0).donor.member == 2


def test_what_a_retired_member_scored_is_compared_and_makes_no_quorum():
    population = Population(8)
    for index, score in enumerate([1, 2, 9, 8, 7, 6]):
        population.turn(index, score)
    # 6 of 8 records are there; of the 4 living, two.
    gone = {2, 3, 4, 5}
    assert population.advise(0, retired=gone).compared_at is None
    population.turn(6, 3)
    assert population.advise(0, retired=gone).compared_at == INTERVAL
    assert population.advise(0, retired=gone).donor.member in {2, 3}


@pytest.mark.parametrize(("living", "quorum"), [(1, 2), (2, 2), (3, 3), (4, 3), (8, 6), (20, 15)])
def test_a_quorum_is_three_quarters_of_the_living_and_two_at_least(living, quorum):
    assert quorum_of(living) == quorum


# --- whom a decision waits for --------------------------------------------------------------------


def waits(population, index, exploit=None, *, behind, arriving=True, waited=0.0, retired=()):
    outlook = Outlook(
        living=8 - len(retired),
        retired=retired,
        behind=behind,
        is_arriving=arriving,
        waited=waited,
    )
    member = population.history.members[index]
    return should_wait(member, population.history, exploit or Truncation(), outlook)


def reported(*scores):
    """A population of 8 of whom the first have done a turn."""
    population = Population(8)
    for index, score in enumerate(scores):
        population.turn(index, score)
    return population


def test_the_first_to_report_waits_for_a_quorum():
    assert waits(reported(1), 0, behind=7)
    assert waits(reported(1, 2, 3, 4, 5), 0, behind=3, arriving=False, waited=math.inf)
    assert not waits(reported(1, 2, 3, 4, 5, 6), 0, behind=2, arriving=False)


def test_with_its_quorum_it_waits_a_median_turn_for_scores_that_are_on_their_way():
    population = reported(1, 2, 3, 4, 5, 6)
    assert waits(population, 0, behind=2, arriving=True, waited=0.99)
    assert not waits(population, 0, behind=2, arriving=True, waited=1.0)
    assert not waits(population, 0, behind=2, arriving=False, waited=0.0)


def test_whoever_is_not_among_the_worst_whatever_comes_does_not_wait():
    """A quarter of 8 is 2: with two worse ones known, nothing can make a member one of them."""
    population = reported(1, 2, 3)
    assert [waits(population, index, behind=5) for index in range(3)] == [True, True, False]
    # A tournament may meet any of those that are missing.
    assert waits(population, 2, BinaryTournament(), behind=5)


def test_records_of_retired_members_are_no_quorum_to_go_on_with():
    population = reported(1, 2, 3, 4, 5, 6)
    assert not waits(population, 0, behind=2, arriving=False)
    assert waits(population, 0, behind=2, arriving=False, retired={2, 3, 4, 5})


def test_random_search_waits_for_nobody():
    assert not waits(reported(1), 0, NoExploit(), behind=7)
    assert not waits(reported(None), 0, NoExploit(), behind=7)


def test_nobody_waits_for_those_that_cannot_come():
    assert not waits(reported(1), 0, behind=0)
    assert not waits(reported(1), 0, behind=4)  # 5 of 8 are no quorum
    assert waits(reported(1), 0, behind=5)


def test_a_member_that_failed_waits_for_a_donor_of_its_age():
    assert waits(reported(None), 0, behind=7)
    assert waits(reported(None, 2, 3, 4), 0, behind=4)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.25, 0.5])
def test_whoever_does_not_wait_for_being_sure_would_copy_nobody_with_all_scores_there(
    seed, fraction
):
    rng = np.random.default_rng(seed)
    # Whole numbers, so that there are ties.
    scores = [int(score) for score in rng.integers(0, 5, size=8)]
    exploit = Truncation(fraction=fraction, ties=bool(seed % 2))
    everyone = reported(*scores)
    for present in range(1, 8):
        some = reported(*scores[:present])
        for index in range(present):
            if not waits(some, index, exploit, behind=8 - present, waited=0.0):
                assert everyone.advise(index, exploit, seed=seed).donor is None


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


def test_a_rescue_does_not_take_the_only_front_runner_who_may_be_the_worst():
    """Its own age has one score, of the worst member; the age before has a quorum."""
    population = Population(8)
    population.round(*range(8))
    population.turn(0, 0.5)
    population.turn(5, None)
    population.turn(5, None)
    donors = {population.advise(5, seed=seed).donor for seed in range(60)}
    assert {donor.member for donor in donors} == {3, 4, 6, 7}
    assert {donor.turn for donor in donors} == {1}
    assert population.advise(5).compared_at is None


def test_after_a_first_failure_nobody_gives_its_own_record_up_for_one_that_is_no_better():
    """All fail at once, since a server is away. A member that fails again is rescued by anyone."""
    population = Population(4)
    population.round(4, 2, 3, 4)
    population.round(None, None, None, None)
    first = [{population.advise(m, seed=s).donor for s in range(20)} for m in range(4)]
    assert first[0] == first[3] == {None}
    assert first[1] == {Donor(member=m, turn=1, copies="both") for m in (0, 3)}
    assert first[2] == {Donor(member=m, turn=1, copies="both") for m in (0, 3)}
    kept = population.advise(0, explore=Perturb())
    assert (kept.checkpoint.turn, kept.hparams) == (1, population.history.members[0].hparams)
    population.round(None, None, None, None)
    assert population.advise(0).donor.member in (2, 3)


def test_a_copy_that_fails_at_once_keeps_what_it_copied():
    population = Population(4)
    population.round(1, 2, 3, 4)
    best = Donor(member=3, turn=1, copies="both")
    population.turn(0, None, donor=best)
    advised = population.advise(0)
    assert (advised.donor, advised.checkpoint) == (None, population.history.turn(3, 1).checkpoint)


def test_a_rescue_without_any_quorum_takes_the_best_record_that_is_known():
    population = Population(8)
    for index, score in enumerate([3, 9, 4]):
        population.turn(index, score)
    population.turn(2, 5)
    population.turn(7, None)
    assert population.advise(7).donor == Donor(member=1, turn=1, copies="both")


def test_so_does_a_rescue_where_nothing_that_was_ranked_by_a_quorum_is_left_to_be_copied():
    """Two members are ahead, and their first checkpoints are gone. The other two fail, and one of
    the two that may rescue the first is member 2.
    """
    population = Population(4)
    population.round(4, 1, 2, 3)
    for index in (1, 2):
        population.turn(index, 5 + index)
        population.history.forget(index, 1)
    for index in (0, 0, 3):
        population.turn(index, None)
    donors = {population.advise(0, seed=seed).donor for seed in range(20)}
    assert donors == {Donor(member=m, turn=n, copies="both") for m, n in [(3, 1), (2, 2)]}


def test_a_rescue_takes_nothing_older_than_the_members_own_effort():
    population = Population(4)
    population.turn(0, None)
    for _ in range(3):
        for index in (1, 2, 3):
            population.turn(index, 9)
    assert population.advise(0).step == INTERVAL


def test_the_rescue_of_a_pair_takes_the_only_other():
    other = Candidate(member=1, fitness=-math.inf)
    assert rescuer([other], np.random.default_rng(0)) == 1


def test_of_equally_good_members_each_is_as_likely_to_rescue():
    others = [Candidate(member=index, fitness=1.0) for index in range(4)]
    drawn = [rescuer(others, np.random.default_rng(seed)) for seed in range(400)]
    assert all(70 <= drawn.count(index) <= 130 for index in range(4))


def test_a_t_test_without_samples_says_what_the_task_must_return():
    population = Population(2)
    population.round(1, 2)
    with pytest.raises(ValueError, match=r"evaluate\(\) must return a sequence"):
        population.advise(0, TTest())


class Wrong:
    """An exploit strategy that does what it must not."""

    copies = "both"

    def __init__(self, answer):
        self.answer = answer

    def __call__(self, me, others, rng):
        if isinstance(self.answer, Exception):
            raise self.answer
        return me.member if self.answer == "me" else self.answer

    def __str__(self):
        return "wrong"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("me", r"exploit wrong let member 0 copy 0, which is none of the others"),
        (99, r"let member 0 copy 99, which is none of the others; it returns"),
        ("member-01", r"let member 0 copy 'member-01', which is none"),
        (RuntimeError("boom\nbang"), r"exploit wrong raised RuntimeError: boom$"),
    ],
)
def test_a_strategy_that_does_what_it_must_not_is_named(answer, told):
    population = Population(4)
    population.round(1, 2, 3, 4)
    with pytest.raises(StrategyError, match=told):
        population.advise(0, exploit=Wrong(answer))


def test_a_move_that_leaves_the_space_names_the_strategy_that_made_it():
    def lost(hparams, space, fresh, rng):
        return {"lr": math.nan}

    population = Population(4)
    population.round(1, 2, 3, 4)
    with pytest.raises(StrategyError, match=r"explore .*lost.*hyperparameter 'lr': nan does not"):
        population.advise(0, explore=lost)
