"""The records: a member follows from its turns, and a turn from its JSON."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbt_flow.exceptions import PBTError, RecordError
from pbt_flow.population.records import (
    Checkpoint,
    Donor,
    Member,
    Plan,
    Source,
    Turn,
    derive_seed,
    turn_from_json,
    turn_to_json,
)

# --- records to start from ------------------------------------------------------------------------


def checkpoint(member: int, turn: int) -> Checkpoint:
    return Checkpoint(member=member, turn=turn, digest=f"{member:032x}{turn:032x}", size=10)


def ok(plan: Plan, score: float = 1.0) -> Turn:
    return Turn(plan=plan, status="ok", score=score, checkpoint=checkpoint(plan.member, plan.turn))


STANDING = Member(
    index=2,
    hparams={"lr": 0.1},
    checkpoint=checkpoint(2, 3),
    step=30,
    turn=3,
    trained=30,
    donor=Donor(member=5, turn=1, copies="both"),
    copied_after=1,
    compared_at=20,
    score=0.5,
)
OWN_PLAN = Plan(
    member=2,
    turn=4,
    seed=9,
    hparams={"lr": 0.2},
    steps=10,
    start=checkpoint(2, 3),
    start_step=30,
    trained=40,
    compared_at=30,
)
COPIED_PLAN = dataclasses.replace(
    OWN_PLAN,
    start=checkpoint(7, 5),
    start_step=50,
    donor=Donor(member=7, turn=5, copies="both"),
)

# --- a member after a turn ------------------------------------------------------------------------


def test_after_a_turn_that_went_well_a_member_stands_on_its_new_state() -> None:
    assert STANDING.after(ok(OWN_PLAN, score=0.75)) == Member(
        index=2,
        hparams={"lr": 0.2},
        checkpoint=checkpoint(2, 4),
        step=40,
        turn=4,
        trained=40,
        donor=None,
        copied_after=1,
        compared_at=30,
        score=0.75,
        failures=0,
    )


@pytest.mark.parametrize("status", ["failed", "diverged", "lost"])
def test_after_a_turn_that_failed_a_member_stands_where_the_turn_began(status: Any) -> None:
    failed = Turn(plan=OWN_PLAN, status=status, error="why")
    assert STANDING.after(failed) == Member(
        index=2,
        hparams={"lr": 0.2},
        checkpoint=checkpoint(2, 3),
        step=30,
        turn=4,
        trained=40,
        donor=None,
        copied_after=1,
        compared_at=30,
        score=None,
        failures=1,
    )


def test_after_a_copy_a_member_has_the_age_of_the_donors_weights() -> None:
    after = STANDING.after(ok(COPIED_PLAN))
    assert (after.step, after.trained) == (60, 40)
    assert after.donor == COPIED_PLAN.donor
    assert after.copied_after == 3
    assert after.checkpoint == checkpoint(2, 4)


def test_after_a_copy_that_failed_a_member_stands_on_the_donors_state() -> None:
    after = STANDING.after(Turn(plan=COPIED_PLAN, status="failed"))
    assert after.checkpoint == checkpoint(7, 5)
    assert (after.step, after.trained, after.copied_after) == (50, 40, 3)


def test_a_member_that_failed_from_the_start_has_nothing_to_stand_on() -> None:
    fresh = Member(index=0, hparams={"lr": 0.1})
    plan = Plan(member=0, turn=1, seed=0, hparams={"lr": 0.1}, steps=10, trained=10)
    after = fresh.after(Turn(plan=plan, status="failed"))
    assert (after.checkpoint, after.step, after.turn, after.trained) == (None, 0, 1, 10)


def test_failures_are_counted_in_a_row() -> None:
    member, counts = Member(index=0, hparams={"lr": 0.1}), []
    for turn, good in enumerate([False, False, True, False], start=1):
        plan = Plan(member=0, turn=turn, seed=0, hparams={"lr": 0.1}, steps=10, trained=10 * turn)
        member = member.after(ok(plan) if good else Turn(plan=plan, status="failed"))
        counts.append(member.failures)
    assert counts == [1, 2, 0, 1]


def test_a_member_is_compared_at_the_age_of_its_weights_or_of_its_effort_if_they_failed() -> None:
    assert STANDING.after(ok(COPIED_PLAN)).age == 60
    assert STANDING.after(Turn(plan=COPIED_PLAN, status="failed")).age == 40


@pytest.mark.parametrize(("member", "turn"), [(2, 3), (2, 5), (1, 4)])
def test_only_the_next_turn_of_the_same_member_can_follow(member: int, turn: int) -> None:
    plan = dataclasses.replace(OWN_PLAN, member=member, turn=turn)
    with pytest.raises(
        ValueError,
        match=f"turn {turn} of member {member} cannot follow turn 3 of member 2",
    ):
        STANDING.after(ok(plan))


def test_records_cannot_be_changed_nor_made_by_position() -> None:
    turn = ok(OWN_PLAN)
    for record, field in ((STANDING, "step"), (OWN_PLAN, "steps"), (turn, "score")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(record, field, 0)
    with pytest.raises(TypeError):
        Checkpoint(1, 2, "", 3)  # type: ignore[misc]


def test_the_step_of_a_turn_is_the_age_that_it_left_behind() -> None:
    assert ok(OWN_PLAN).step == 40
    assert Turn(plan=OWN_PLAN, status="lost").step == 30
    assert (
        Turn(plan=OWN_PLAN, status="ok", started=100.0, seconds={"a": 1.5, "b": 2}).ended == 103.5
    )


@pytest.mark.parametrize(
    ("score", "direction", "fitness"),
    [(0.5, "maximize", 0.5), (0.5, "minimize", -0.5), (None, "maximize", -math.inf)],
)
def test_greater_fitness_is_better_and_no_score_is_worst(
    score: float | None, direction: Any, fitness: float
) -> None:
    assert Turn(plan=OWN_PLAN, status="ok", score=score).fitness(direction) == fitness


# --- seeds ----------------------------------------------------------------------------------------


def test_every_population_member_and_turn_has_its_own_seed() -> None:
    keys = [(seed, member, turn) for seed in range(6) for member in range(20) for turn in range(30)]
    assert len({derive_seed(*key) for key in keys}) == len(keys)


@given(st.integers(0, 2**63), st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_seed_fits_every_generator_and_is_the_same_again(
    seed: int, member: int, turn: int
) -> None:
    derived = derive_seed(seed, member, turn)
    assert type(derived) is int
    assert 0 <= derived < 2**32
    assert derived == derive_seed(seed, member, turn)


# --- turn.json ------------------------------------------------------------------------------------

_numbers = st.floats(allow_nan=False, allow_infinity=False)
_counts = st.integers(0, 10**9)
_names = st.text(min_size=1, max_size=8)
_values = st.one_of(_numbers, st.integers(), st.text(max_size=5), st.booleans(), st.none())
_checkpoints = st.builds(
    Checkpoint, member=_counts, turn=_counts, digest=st.text("0123456789abcdef"), size=_counts
)
_plans = st.builds(
    Plan,
    member=_counts,
    turn=_counts,
    seed=_counts,
    hparams=st.dictionaries(_names, _values, max_size=4),
    steps=_counts,
    start=st.none() | _checkpoints,
    start_step=_counts,
    trained=_counts,
    donor=st.none()
    | st.builds(
        Donor,
        member=_counts,
        turn=_counts,
        copies=st.sampled_from(["both", "weights", "hparams"]),
        hparams_of=st.none() | st.builds(Source, member=_counts, turn=_counts),
    ),
    compared_at=st.none() | _counts,
)
_common: dict[str, Any] = {
    "plan": _plans,
    "metrics": st.dictionaries(_names, _numbers, max_size=4),
    "evaluation": st.dictionaries(_names, _numbers, max_size=4),
    "started": st.floats(0, 4e9),
    "seconds": st.dictionaries(_names, st.floats(0, 1e6), max_size=4),
}
_turns = st.one_of(
    st.builds(
        Turn,
        status=st.just("ok"),
        score=_numbers,
        sample=st.lists(_numbers, max_size=10).map(tuple),
        checkpoint=_checkpoints,
        **_common,
    ),
    st.builds(
        Turn,
        status=st.sampled_from(["failed", "diverged", "lost"]),
        error=st.text(max_size=30),
        **_common,
    ),
)


@given(_turns)
def test_a_turn_comes_back_from_json_as_it_was(turn: Turn) -> None:
    back = turn_from_json(json.loads(json.dumps(turn_to_json(turn), allow_nan=False)))
    assert back == turn
    assert list(back.plan.hparams) == list(turn.plan.hparams)
    for there, here in zip(turn.plan.hparams.values(), back.plan.hparams.values(), strict=True):
        assert type(there) is type(here)


def test_a_donor_of_one_source_is_written_as_ever_and_one_of_two_has_both() -> None:
    plain = json.loads(json.dumps(turn_to_json(ok(COPIED_PLAN))))
    # What programs wrote, and read, before there were two.
    assert plain["plan"]["donor"] == {"member": 7, "turn": 5, "copies": "both"}
    assert turn_from_json(plain) == ok(COPIED_PLAN)
    donor = Donor(member=7, turn=5, copies="weights", hparams_of=Source(member=1, turn=4))
    turn = ok(dataclasses.replace(COPIED_PLAN, donor=donor))
    plain = json.loads(json.dumps(turn_to_json(turn)))
    assert plain["plan"]["donor"]["hparams_of"] == {"member": 1, "turn": 4}
    assert turn_from_json(plain) == turn
    assert donor.sources == (Source(member=7, turn=5), Source(member=1, turn=4))
    del plain["plan"]["donor"]["turn"]
    with pytest.raises(RecordError, match=r"turn.plan.donor has missing or unknown .*'turn'"):
        turn_from_json(plain)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", ["metrics", "evaluation"])
def test_a_metric_that_is_not_finite_is_null_in_json_and_comes_back_as_nan(
    kind: str, value: float
) -> None:
    turn = dataclasses.replace(ok(OWN_PLAN), **{kind: {"loss": value, "steps": 3.0}})
    plain = json.loads(json.dumps(turn_to_json(turn), allow_nan=False))
    assert plain[kind] == {"loss": None, "steps": 3.0}
    assert math.isnan(getattr(turn_from_json(plain), kind)["loss"])


GOOD: dict[str, Any] = json.loads(
    json.dumps(
        turn_to_json(
            dataclasses.replace(
                ok(COPIED_PLAN, score=0.5),
                sample=(0.25, 0.75),
                metrics={"loss": 1.0},
                seconds={"train": 2.0},
                started=1000.0,
            )
        )
    )
)


def changed(path: str, value: Any = None, *, delete: bool = False) -> dict[str, Any]:
    """The good record with one field changed or deleted."""
    plain = copy.deepcopy(GOOD)
    *parents, last = path.split(".")
    place = plain
    for parent in parents:
        place = place[parent]
    if delete:
        del place[last]
    else:
        place[last] = value
    return plain


def test_the_good_record_is_good() -> None:
    assert turn_from_json(GOOD).plan == COPIED_PLAN


_REQUIRED = [
    "version",
    "plan",
    "status",
    "metrics",
    "evaluation",
    "checkpoint",
    "sample",
    *(f"plan.{name}" for name in ("member", "turn", "seed", "hparams", "steps", "trained")),
    *(f"plan.{name}" for name in ("start", "donor")),
    *(f"plan.donor.{name}" for name in ("member", "turn", "copies")),
    *(f"checkpoint.{name}" for name in ("member", "turn", "digest", "size")),
    *(f"plan.start.{name}" for name in ("member", "turn", "digest", "size")),
]


@pytest.mark.parametrize("path", _REQUIRED)
def test_a_record_with_a_missing_field_is_refused(path: str) -> None:
    with pytest.raises(RecordError, match="turn record"):
        turn_from_json(changed(path, delete=True))


@pytest.mark.parametrize(
    "path", ["extra", "plan.extra", "plan.donor.extra", "plan.start.extra", "checkpoint.path"]
)
def test_a_record_with_an_unknown_field_is_refused(path: str) -> None:
    with pytest.raises(RecordError, match="not a turn record: .* missing or unknown fields"):
        turn_from_json(changed(path, 1))


@pytest.mark.parametrize("plain", [None, 3, "text", [], [1, 2], {}, {"version": 1}])
def test_what_is_no_record_at_all_is_refused(plain: Any) -> None:
    with pytest.raises(RecordError, match="turn record"):
        turn_from_json(plain)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_a_record_of_another_version_says_so(version: Any) -> None:
    with pytest.raises(RecordError, match=f"version {version!r}, and this program reads version 1"):
        turn_from_json(changed("version", version))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *((f"plan.{name}", -1) for name in ("member", "turn", "steps", "start_step", "trained")),
        *((f"plan.{name}", "1") for name in ("member", "turn", "steps", "start_step", "trained")),
        *((f"plan.{name}", True) for name in ("member", "turn", "steps", "trained")),
        *((f"plan.{name}", 1.0) for name in ("member", "turn", "steps", "trained")),
    ],
)
def test_a_count_that_is_no_whole_number_from_nought_is_refused(path: str, value: Any) -> None:
    with pytest.raises(RecordError, match=f"not a turn record: turn.{path} cannot be {value!r}"):
        turn_from_json(changed(path, value))


@pytest.mark.parametrize(
    "path", ["checkpoint.member", "checkpoint.turn", "plan.start.member", "plan.start.turn"]
)
@pytest.mark.parametrize("value", ["../../7", "1", 1.5, None, True, [1]])
def test_a_checkpoint_is_named_by_two_whole_numbers(path: str, value: Any) -> None:
    with pytest.raises(RecordError, match=f"not a turn record: turn.{path} cannot be"):
        turn_from_json(changed(path, value))


@pytest.mark.parametrize(
    "plain",
    [
        changed("score"),
        changed("checkpoint"),
        changed("status", "failed"),
        {**changed("status", "failed"), "score": None},
        {**changed("status", "failed"), "checkpoint": None},
    ],
)
def test_a_turn_is_ok_iff_it_has_a_score_and_a_checkpoint(plain: dict[str, Any]) -> None:
    with pytest.raises(RecordError, match="that is ok has both a score and a checkpoint"):
        turn_from_json(plain)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metrics", None),
        ("metrics", [1.0]),
        ("metrics.loss", "high"),
        ("metrics.loss", [1.0]),
        ("sample", None),
        ("sample", 3),
        ("sample", ["a"]),
        ("plan", None),
        ("plan", []),
        ("plan.hparams", None),
        ("plan.hparams", "lr"),
        ("plan.donor", 3),
        ("plan.start", "state.pt"),
        ("checkpoint", "state.pt"),
        ("status", "fine"),
        ("status", None),
        ("score", "0.5"),
        ("score", True),
        ("score", math.nan),
        ("score", math.inf),
        ("sample", "12"),
        ("sample", [math.nan]),
        ("sample", ["1"]),
        ("sample", [10**400]),
        ("metrics.loss", "1"),
        ("metrics.loss", 10**400),
        ("error", None),
        ("error", 3),
        ("started", "now"),
        ("started", None),
        ("seconds", None),
        ("seconds", 2.0),
        ("seconds.train", "2"),
        ("plan.seed", "9"),
        ("plan.seed", -1),
        ("plan.seed", 1.5),
        ("plan.compared_at", "30"),
        ("plan.hparams", [["lr", 0.1]]),
        ("plan.donor.member", "7"),
        ("plan.donor.turn", None),
        ("plan.donor.copies", "all"),
        ("checkpoint.digest", 5),
        ("checkpoint.digest", None),
        ("checkpoint.size", "10"),
        ("checkpoint.size", -1),
        ("plan.start.turn", -1),
    ],
)
def test_a_field_of_the_wrong_kind_is_refused(path: str, value: Any) -> None:
    with pytest.raises(RecordError, match="turn record"):
        turn_from_json(changed(path, value))


@pytest.mark.parametrize("status", ["fine", "OK", None, 3])
def test_a_status_that_there_is_not_is_refused(status: Any) -> None:
    with pytest.raises(RecordError):
        turn_from_json({**GOOD, "status": status, "score": None, "checkpoint": None})


@given(st.sampled_from(_REQUIRED), st.sampled_from([None, [], {}, "x", -1, 0.5, True, [[]]]))
def test_a_damaged_record_is_read_or_refused_and_nothing_else(path: str, value: Any) -> None:
    with contextlib.suppress(RecordError):
        turn_from_json(changed(path, value))


@pytest.mark.parametrize("read", [turn_from_json])
def test_reading_leaves_the_plain_record_as_it_was(read: Callable[[Any], Turn]) -> None:
    plain = copy.deepcopy(GOOD)
    read(plain)
    assert plain == GOOD


def test_a_record_error_is_one_that_a_user_can_mend() -> None:
    assert issubclass(RecordError, PBTError)
    assert issubclass(RecordError, ValueError)
