"""MF-PBT: who copies and who receives a migrant, by known answers and in whole populations."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulated import Counting, slowly, turns_of

from pbt_flow.exceptions import SettingsError, StrategyError
from pbt_flow.population.history import Candidate, History
from pbt_flow.population.lineage import Node, count_copies, hparams_parent, weights_parent
from pbt_flow.population.records import Checkpoint, Donor, Member, Plan, Source, Turn
from pbt_flow.settings import Settings
from pbt_flow.strategies.advise import Outlook, advise, should_wait
from pbt_flow.strategies.exploit import groups_of, in_stage
from pbt_flow.strategies.explore import Resample
from pbt_flow.strategies.multiple_frequencies import MultipleFrequencies
from pbt_flow.strategies.samplers import Uniform
from pbt_flow.strategies.sources import Sources
from pbt_flow.testing.simulation import simulate

FITNESS = (0.1, 0.5, 0.3, 0.7, 0.9, 0.2, 0.6, 0.4)
"""Of members 0 to 3, which decide after each turn, and 4 to 7, after every fifth."""


def decide(
    exploit: MultipleFrequencies, fitness: Sequence[float | None], *, age: int
) -> list[tuple[int, int, bool]]:
    """Of each member whose weights and hyperparameters it goes on with, and whether it explores.

    A member without a fitness has no score of this age.
    """
    groups = groups_of(exploit, len(fitness))
    there = [
        Candidate(member=member, fitness=value, group=groups[member], age=age)
        for member, value in enumerate(fitness)
        if value is not None
    ]
    taken = []
    for me in there:
        others = sorted((c for c in there if c is not me), key=lambda c: c.fitness)
        chosen = exploit(me, others, np.random.default_rng(me.member))
        if chosen is None:
            taken.append((me.member, me.member, False))
        elif isinstance(chosen, Sources):
            weights = me.member if chosen.weights is None else chosen.weights
            hparams = me.member if chosen.hparams is None else chosen.hparams
            taken.append((weights, hparams, chosen.explores))
        else:
            taken.append((chosen, chosen, True))
    return taken


@pytest.mark.parametrize(
    ("age", "weights", "hparams", "explored"),
    [
        (5, [3, 1, 4, 3, 4, 4, 6, 3], [3, 1, 4, 3, 4, 4, 6, 4], {0, 5}),
        (4, [3, 1, 4, 3, 4, 5, 6, 7], [3, 1, 4, 3, 4, 5, 6, 7], {0}),
    ],
)
def test_two_sub_populations_of_four_decide_as_those_of_the_paper(age, weights, hparams, explored):
    taken = decide(MultipleFrequencies(), FITNESS, age=age)
    assert [one[0] for one in taken] == weights
    assert [one[1] for one in taken] == hparams
    assert {member for member, one in enumerate(taken) if one[2]} == explored


def test_the_same_holds_whatever_the_chance_and_the_scale_of_the_scores():
    fitness = [1000 * value - 5e6 for value in FITNESS]
    expected = decide(MultipleFrequencies(), FITNESS, age=5)
    assert decide(MultipleFrequencies(), fitness, age=5) == expected


def test_a_migrant_is_taken_once_and_who_is_better_leaves_it_to_the_next():
    """Members 0 to 7 are ranked in their order: 0, 1 | 2, 3 | 4, 5 | 6, 7; so are 8 to 15."""
    first = [0.9, 0.8, 0.7, 0.65, 0.6, 0.5, 0.4, 0.3]
    # The best migrant is worse than member 4, and better than member 5.
    taken = decide(MultipleFrequencies(), [*first, 0.55, *[0.1 - n / 100 for n in range(7)]], age=1)
    assert [one[0] for one in taken[:8]] == [0, 1, 2, 3, 4, 8, 0, 1]
    # Both take one, each another.
    taken = decide(MultipleFrequencies(), [*first, 0.95, 0.7, *[0.0] * 6], age=1)
    assert [one[0] for one in taken[:8]] == [0, 1, 2, 3, 8, 9, 0, 1]


def test_from_an_equally_fast_sub_population_weights_come_alone():
    taken = decide(MultipleFrequencies(periods=(2, 2)), FITNESS, age=4)
    assert taken == [
        (3, 3, True),
        (1, 1, False),
        (4, 2, False),
        (3, 3, False),
        (4, 4, False),
        (4, 4, True),
        (6, 6, False),
        (3, 7, False),
    ]


@pytest.mark.parametrize(
    ("fitness", "weights"),
    [
        # The middle one of three counts as the third quarter.
        ((0.1, None, 0.3, 0.7, 0.9, 0.2, 0.6, 0.4), [3, 4, 3]),
        ((0.1, None, None, 0.7, 0.9, 0.2, 0.6, 0.4), [3, 3]),
        # One that is alone takes what is better elsewhere.
        ((0.1, None, None, None, 0.9, 0.2, 0.6, 0.4), [4]),
        ((0.1, 0.5, 0.3, 0.7, None, None, None, None), [3, 1, 2, 3]),
    ],
)
def test_where_scores_are_missing_quarters_are_those_of_who_is_there(fitness, weights):
    there = sum(value is not None for value in fitness[:4])
    taken = decide(MultipleFrequencies(), fitness, age=1)
    assert [one[0] for one in taken[:there]] == weights


def test_equal_scores_copy_nobody():
    taken = decide(MultipleFrequencies(), [1.0] * 8, age=5)
    assert taken == [(member, member, False) for member in range(8)]


@pytest.mark.parametrize(
    ("periods", "population", "way_out"),
    [
        ((1, 5), 20, "population=16 or 24, or 5 periods"),
        ((1, 5), 10, "population=8 or 16"),
        ((1, 5), 4, "population=8"),
        ((1, 5, 25), 8, "population=12, or 2 periods"),
        ((1, 5, 25), 16, "population=12 or 24, or 2 or 4 periods"),
    ],
)
def test_sizes_that_have_no_quarters_are_refused_with_the_way_out(periods, population, way_out):
    exploit = MultipleFrequencies(periods=periods)
    with pytest.raises(SettingsError, match=rf"got population={population}; take {way_out}$"):
        Settings.for_task(Counting, exploit=exploit, population=population)


@pytest.mark.parametrize("periods", [(), (1,), (0, 5), (1, -5)])
def test_periods_that_are_none_are_refused(periods):
    written = "/".join(map(str, periods))
    with pytest.raises(StrategyError, match=rf"each at least 1, got '{written}'; write them"):
        Settings.for_task(Counting, exploit=f"mfpbt:periods={written}", population=8)


@pytest.mark.parametrize("stages", ["wide", "narrow", "8x3:both,4x6:both"])
def test_stages_would_break_the_sub_populations_up_and_are_refused(stages):
    with pytest.raises(SettingsError, match="sub-populations, and stages .* take stages none"):
        Settings.for_task(Counting, exploit="mfpbt", population=8, turns=6, stages=stages)


def test_what_it_copies_cannot_be_set():
    with pytest.raises(StrategyError, match="always copies both, and a stage is to copy hparams"):
        in_stage(MultipleFrequencies(), "hparams")


def test_the_sub_populations_are_said_in_a_sentence():
    said = MultipleFrequencies(periods=(1, 2, 3, 11, 25)).describe(20)
    assert said == (
        "5 sub-populations: members 0 to 3 decide after each turn, members 4 to 7 after every 2nd "
        "turn, members 8 to 11 after every 3rd turn, members 12 to 15 after every 11th turn, "
        "members 16 to 19 after every 25th turn"
    )


# --- the decision ---------------------------------------------------------------------------------


def history_of(fitness: Sequence[float | None], turns: int = 1) -> History:
    """Eight members, two sub-populations, each with so many turns; None for a failed last one."""
    history = History(direction="maximize")
    history.begin(
        Member(index=index, hparams={"gain": 1 + index, "count": 1, "kind": "a"}, group=index // 4)
        for index in range(8)
    )
    for number in range(1, turns + 1):
        for index, value in enumerate(fitness):
            report(history, index, value if number == turns else 0.0)
    return history


def report(history: History, index: int, score: float | None) -> None:
    """The next turn of a member."""
    member = history.members[index]
    plan = Plan(
        member=index,
        turn=member.turn + 1,
        seed=0,
        hparams=member.hparams,
        steps=5,
        start=member.checkpoint,
        start_step=member.step,
        trained=member.trained + 5,
    )
    if score is None:
        history.add(Turn(plan=plan, status="failed"))
        return
    checkpoint = Checkpoint(member=index, turn=plan.turn, digest="", size=1)
    history.add(Turn(plan=plan, status="ok", score=score, checkpoint=checkpoint))


def advised(history: History, index: int, seed: int = 0) -> Member:
    return advise(
        history.members[index],
        history,
        living=8,
        space=Counting.space,
        exploit=MultipleFrequencies(),
        explore=Resample(),
        sampler=Uniform(),
        rng=np.random.default_rng(seed),
    )


@pytest.mark.parametrize(
    ("turns", "member", "donor"),
    [
        (5, 0, Donor(member=3, turn=5, copies="both")),
        (5, 1, None),
        (5, 2, Donor(member=4, turn=5, copies="both")),
        (5, 7, Donor(member=3, turn=5, copies="weights", hparams_of=Source(member=4, turn=5))),
        (4, 7, None),
        (4, 5, None),
    ],
)
def test_a_decision_records_both_sources_and_moves_only_what_its_own_kind_gave(
    turns, member, donor
):
    history = history_of(FITNESS, turns)
    before, after = history.members[member], advised(history, member)
    assert after.donor == donor
    if donor is None:
        assert (after.hparams, after.checkpoint) == (before.hparams, before.checkpoint)
        return
    given = history.turn(donor.member, donor.turn)
    assert (after.checkpoint, after.step) == (given.checkpoint, given.step)
    first, *others = donor.sources
    giver = others[0] if others else first
    hparams = history.turn(giver.member, giver.turn).plan.hparams
    # `Resample` moves everything.
    assert (after.hparams == hparams) == (member != 0)
    assert after.group == before.group


def test_lineage_tells_the_two_parents_apart_and_counts_both_as_copied():
    history = history_of(FITNESS, 5)
    member = advised(history, 7)
    plan = Plan(
        member=7,
        turn=6,
        seed=0,
        hparams=member.hparams,
        steps=5,
        start=member.checkpoint,
        start_step=member.step,
        trained=30,
        donor=member.donor,
    )
    turn = Turn(plan=plan, status="failed")
    history.add(turn)
    assert weights_parent(turn) == Node(3, 5)
    assert hparams_parent(turn) == Node(4, 5)
    assert count_copies(history) == {3: 1, 4: 1}


def test_where_a_checkpoint_is_gone_the_best_of_the_same_sub_population_takes_its_place():
    history = history_of((0.1, 0.5, 0.3, 0.7, 0.9, 0.2, 0.8, 0.4), 5)
    history.forget(3, 5)
    # Not member 4, which is the best of all and of the other sub-population.
    assert advised(history, 0).donor == Donor(member=1, turn=5, copies="both")
    history.forget(4, 5)
    assert advised(history, 2).donor == Donor(member=6, turn=5, copies="both")


def test_a_rescue_comes_from_the_members_own_sub_population_if_it_can():
    history = history_of((0.1, 0.2, 0.3, None, 10, 11, 12, 13), 3)
    donors = {advised(history, 3, seed).donor.member for seed in range(20)}
    assert donors == {1, 2}
    alone = history_of((None, None, None, None, 10, 11, 12, 13), 1)
    # Four of eight are no quorum: then it is the best that is known, wherever it comes from.
    assert advised(alone, 3).donor == Donor(member=7, turn=1, copies="both")


def waits(history: History, index: int) -> bool:
    there = len(history.at(history.members[index].age).records)
    outlook = Outlook(living=8, behind=8 - there, is_arriving=True)
    return should_wait(history.members[index], history, MultipleFrequencies(), outlook)


def test_who_is_not_due_waits_for_nobody_and_who_is_not_among_the_worse_half_neither():
    def after(turns: int, present: Sequence[int]) -> History:
        history = history_of([0.0] * 8, turns - 1) if turns > 1 else history_of([])
        for index in present:
            report(history, index, FITNESS[index])
        return history

    fourth, fifth = after(4, [0, 2, 5, 7]), after(5, [0, 2, 3, 5, 7])
    assert [waits(fourth, index) for index in (0, 2, 5, 7)] == [True, True, False, False]
    # Two of member 3's own four are worse. Of member 7's only one is known to be.
    assert [waits(fifth, index) for index in (0, 2, 3, 5, 7)] == [True, True, False, True, True]


# --- whole populations ----------------------------------------------------------------------------

PERIODS = {8: "1/2", 12: "1/3/3", 16: "1/2"}


@given(
    population=st.sampled_from(list(PERIODS)),
    slots=st.sampled_from([1, 2, 5, None]),
    turns=st.integers(1, 8),
    mode=st.sampled_from(["async", "generational"]),
    keep=st.integers(1, 2),
    faults=st.dictionaries(
        st.tuples(st.integers(0, 15), st.integers(1, 8)),
        st.lists(st.sampled_from(["raises", "nan", "dies", "hangs"]), min_size=1, max_size=2),
        max_size=5,
    ),
    seed=st.integers(0, 1000),
)
def test_hyperparameters_never_come_from_a_faster_sub_population(
    population, slots, turns, mode, keep, faults, seed
):
    exploit = f"mfpbt:periods={PERIODS[population]}"
    made = simulate(
        Counting,
        population=population,
        slots=slots,
        turns=turns,
        mode=mode,
        keep=keep,
        faults=faults,
        seed=seed,
        duration=slowly,
        exploit=exploit,
    )
    history = made.history
    periods = [int(period) for period in PERIODS[population].split("/")]

    def period(member: int) -> int:
        return periods[member * len(periods) // population]

    for turn in turns_of(made):
        plan = turn.plan
        assert turn.step <= plan.trained
        donor = plan.donor
        if donor is None:
            continue
        before = history.turn(turn.member, turn.number - 1)
        given_by = history.turn(donor.member, donor.turn)
        assert (plan.start, plan.start_step) == (given_by.checkpoint, given_by.step)
        if not before.ok:
            continue  # a rescue
        assert plan.start_step // 5 % period(turn.member) == 0
        assert all(
            history.turn(source.member, source.turn).step == before.step == plan.compared_at
            for source in donor.sources
        )
        assert given_by.score > before.score
        is_migrant = history.members[donor.member].group != history.members[turn.member].group
        if donor.hparams_of is not None:
            assert is_migrant
            giver = donor.hparams_of
            assert history.members[giver.member].group == history.members[turn.member].group
            assert plan.hparams == history.turn(giver.member, giver.turn).plan.hparams
        elif donor.copies == "both" and is_migrant:
            assert period(donor.member) > period(turn.member)
            assert plan.hparams == given_by.plan.hparams
        elif donor.copies == "weights":
            assert is_migrant
            assert plan.hparams == before.plan.hparams


def test_generations_do_not_depend_on_workers_and_weights_migrate_in_both_directions():
    def outcome(**how):
        made = simulate(
            Counting,
            population=8,
            turns=12,
            exploit="mfpbt:periods=1/2",
            mode="generational",
            seed=3,
            **how,
        )
        return [(turn.plan, turn.score) for turn in turns_of(made)]

    alone = outcome(slots=1)
    assert sorted(outcome(slots=5, duration=slowly), key=repr) == sorted(alone, key=repr)
    donors = [(plan.member, plan.donor) for plan, _ in alone if plan.donor is not None]
    assert any(donor.hparams_of is not None for member, donor in donors if member >= 4)
    assert any(donor.member >= 4 for member, donor in donors if member < 4)


@pytest.mark.parametrize("mode", ["async", "generational"])
def test_one_that_is_resumed_after_a_kill_goes_on_with_the_same_sub_populations(mode):
    how = {"population": 8, "turns": 9, "exploit": "mfpbt:periods=1/2", "seed": 5, "mode": mode}
    there = simulate(Counting, slots=2, **how)
    half = simulate(Counting, slots=2, seconds=15.0, **how)
    assert 0 < len(turns_of(half)) < len(turns_of(there))
    anew = half.resumed()
    assert [member.group for member in anew.history.members.values()] == [0] * 4 + [1] * 4
    anew.controller.settings = anew.controller.settings.changed({"seconds": None})
    anew.go()
    assert len(turns_of(anew)) == 72
    if mode == "generational":
        mine = {(t.member, t.number): (t.plan, t.score) for t in turns_of(anew)}
        assert mine == {(t.member, t.number): (t.plan, t.score) for t in turns_of(there)}


def test_sources_that_name_nobody_or_a_stranger_are_refused():
    with pytest.raises(ValueError, match="sources must name a member; to take nothing"):
        Sources(weights=None, hparams=None)

    class Names(MultipleFrequencies):
        def __call__(self, me, others, rng):
            return Sources(weights=others[0].member, hparams=me.member)

    history = history_of(FITNESS)
    with pytest.raises(StrategyError, match=re.escape("hparams=1, explores=True), which is none")):
        advise(
            history.members[1],
            history,
            living=8,
            space=Counting.space,
            exploit=Names(),
            explore=Resample(),
            sampler=Uniform(),
            rng=np.random.default_rng(0),
        )


def test_a_straggler_finds_the_best_of_each_sub_population_at_its_own_age():
    """Nothing else of that age is left when it comes there; the others are nine turns ahead."""
    gains = [0.1, 0.5, 0.6, 0.7, 10.0, 9.0, 8.0, 7.0]
    made = simulate(
        Counting,
        population=8,
        slots=8,
        turns=16,
        keep=1,
        exploit="mfpbt:periods=1/50",
        explore="none",
        initial=[{"gain": gain, "count": 1, "kind": "a"} for gain in gains],
        duration=lambda plan, rng: 9.0 if plan.member == 0 else 1.0,
    )
    first, second = (made.history.turn(0, number).plan.donor for number in (2, 3))
    assert (first.member < 4, first.turn) == (True, 1)
    assert (second.member >= 4, second.turn) == (True, 2)
