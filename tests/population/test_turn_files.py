"""How the files of a turn are named, and which attempt a name belongs to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbt_flow.exceptions import RecordError
from pbt_flow.population.accepted import Accepted, claim_of_file, file_of_claim
from pbt_flow.population.turn_files import (
    ERROR,
    OUTPUT,
    RECORD,
    STATE,
    UNNUMBERED,
    Attempt,
    attempts_with_record,
    file_name,
    owner_of,
    partial_name,
    read_name,
)

numbered = st.builds(Attempt, claim=st.integers(1, 10**6), number=st.integers(0, 99))
attempts = st.just(UNNUMBERED) | numbered


@given(st.sampled_from([STATE, RECORD, ERROR, OUTPUT]), attempts)
def test_a_name_tells_whose_it_is(kind: str, attempt: Attempt) -> None:
    assert read_name(file_name(kind, attempt)) == (kind, attempt)
    assert owner_of(file_name(kind, attempt)) == attempt
    partial = partial_name(kind, attempt)
    assert owner_of(partial) == attempt
    assert read_name(partial) is None, "what is not whole is nobody's record"
    assert partial != partial_name(kind, attempt)


@pytest.mark.parametrize(
    "name",
    ["turn-01.1.json", "turn-1.json", "turn-1.1.json.bak", "turn-1.1 (copy).json", "state.json",
     "turn-\u0661.1.json", "turn-0.0.json", "", ".", ".turn.json", "notes.txt", "turn-1.1.json\n",
     ".state.pt.1-1-", ".notes.txt.1-1-ab"],
)  # fmt: skip
def test_other_names_are_left_alone(name: str) -> None:
    assert read_name(name) is None
    assert owner_of(name) is None


def test_what_an_earlier_version_had_not_finished_is_known() -> None:
    assert owner_of(".state.pt.4194305") == UNNUMBERED


def test_later_claims_are_greater_and_within_one_later_tries() -> None:
    names = ["turn-2.1.json", "turn-1.10.json", "turn.json", "turn-1.9.json", "state-3.1.pt"]
    assert [str(one) for one in attempts_with_record(names)] == ["0.0", "1.9", "1.10", "2.1"]


# --- what a controller found ----------------------------------------------------------------------


def accepted() -> Accepted:
    one, two = Attempt(claim=1, number=1), Attempt(claim=2, number=1)
    return Accepted(claim=3, attempts={0: [UNNUMBERED, one, one, two], 1: []})


@pytest.mark.parametrize(
    ("member", "turn", "there", "counts"),
    [
        (0, 2, ["1.1"], "1.1"),
        (0, 2, ["1.1", "1.2", "2.7"], "1.1"),  # a greater one of a claim that is over
        (0, 2, ["1.2"], None),  # that which was found is gone
        (0, 5, ["1.1", "2.9"], None),  # written after the look
        (0, 5, ["2.9", "3.1", "3.2"], "3.2"),
        (0, 5, ["3.1", "4.1"], "4.1"),  # the next controller has no list yet
        (1, 1, ["2.1"], None),
        (7, 1, ["3.1"], "3.1"),
        (0, 5, [], None),
    ],
)
def test_what_was_found_counts_and_later_only_what_the_claim_gave_out(
    member: int, turn: int, there: list[str], counts: str | None
) -> None:
    found = [Attempt(claim=int(one[0]), number=int(one[2])) for one in there]
    chosen = accepted().choose(member, turn, found)
    assert (chosen and str(chosen)) == counts


def test_a_list_comes_back_from_its_text_and_one_that_is_not_whole_is_none() -> None:
    text = accepted().to_json()
    assert Accepted.from_json(text) == accepted()
    for length in range(len(text)):
        assert Accepted.from_json(text[:length]) is None


@pytest.mark.parametrize(
    "text",
    ["[]", "null", "3", "{}", '{"version": 2, "claim": 1, "members": {}}',
     '{"version": 1, "claim": -1, "members": {}}', '{"version": 1, "claim": 1, "members": []}',
     '{"version": 1, "claim": 1, "members": {"0": [[1, 1]]}}',
     '{"version": 1, "claim": 1, "members": {"0": [[1, 1, 1.5]]}}'],
)  # fmt: skip
def test_a_list_that_no_controller_writes_is_refused(text: str) -> None:
    with pytest.raises(RecordError, match="not a list of accepted turns"):
        Accepted.from_json(text)


def test_the_files_of_claims_are_told_from_others() -> None:
    for claim in (1, 12, 12_345):
        assert claim_of_file(file_of_claim(claim)) == claim
    for name in ("0002.txt", "2.json", "notes.json", "0002.json.bak", ".0002.json.ab"):
        assert claim_of_file(name) is None
