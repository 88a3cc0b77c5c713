"""The journal of a population: what is read from it, and what is not believed."""

import dataclasses
import gzip
import json
import math
import warnings
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from sample_tasks import Regression

import pbt_flow
from pbt_flow.population.checkpoints import LocalFolders
from pbt_flow.population.records import turn_from_json, turn_to_json
from pbt_flow.tracking.journal import JOURNAL
from pbt_flow.tracking.store import Store


def segments(run_id):
    return sorted(Path(MlflowClient().get_run(run_id).info.artifact_uri, JOURNAL).glob("*"))


def plain(history):
    """Every turn as its record has it: a number that is none is equal to itself there."""
    return {
        member: [json.dumps(turn_to_json(turn)) for turn in turns]
        for member, turns in history.turns.items()
    }


@pytest.fixture
def reads(monkeypatch):
    """The records that are read one by one, as member and turn."""
    found, record = [], LocalFolders.record

    def counted(self, member, turn, *others):
        found.append((member, turn))
        return record(self, member, turn, *others)

    monkeypatch.setattr(LocalFolders, "record", counted)
    return found


def test_of_each_member_only_the_newest_record_is_read(trained, reads):
    (result,) = trained()
    reads.clear()
    loaded = pbt_flow.load(result.run_id)
    assert plain(loaded.history) == plain(result.history)
    newest = [(member, len(turns)) for member, turns in result.history.turns.items()]
    assert sorted(reads) == newest
    assert len(segments(result.run_id)) == 1


def test_a_population_without_a_journal_is_read_from_its_records(trained, reads):
    (result,) = trained()
    for path in segments(result.run_id):
        path.unlink()
    reads.clear()
    loaded = pbt_flow.load(result.run_id)
    assert plain(loaded.history) == plain(result.history)
    assert len(set(reads)) >= sum(map(len, result.history.turns.values()))


@pytest.mark.slow
def test_what_the_journal_lacks_is_read_from_its_records_and_a_resume_writes_it(trained, reads):
    (result,) = trained({"population": 3, "turns": 3})
    for path in segments(result.run_id):
        path.unlink()
    store = Store.open(result.run_id)
    turns = result.history.turns
    # Of one member everything, of the next all but its last turn, and a turn behind a gap.
    store.log_records([*turns[0], *turns[1][:-1], turns[2][-1]])
    reads.clear()
    loaded = pbt_flow.load(result.run_id)
    assert plain(loaded.history) == plain(result.history)
    assert sorted(set(reads)) == [
        (0, len(turns[0])),
        *[(1, n) for n in range(len(turns[1]) - 1, len(turns[1]) + 1)],
        *[(m, n) for m in range(2, len(turns)) for n in range(1, len(turns[m]) + 2)],
    ]
    pbt_flow.resume(result.run_id, quiet=True)
    reads.clear()
    assert plain(pbt_flow.load(result.run_id).history) == plain(result.history)
    assert sorted(reads) == [(member, len(own)) for member, own in turns.items()]


def test_writing_the_same_turns_again_makes_no_other_segment(trained):
    (result,) = trained()
    before = segments(result.run_id)
    store, turns = Store.open(result.run_id), result.history.turns[0]
    store.log_records(turns)
    once = segments(result.run_id)
    store.log_records(turns)
    assert segments(result.run_id) == once
    assert len(once) == len(before) + 1


def forged(turn):
    return dataclasses.replace(turn, score=turn.score + 1)


@pytest.mark.parametrize("kept", [True, False])
def test_a_journal_that_contradicts_a_record_or_itself_is_not_believed_of_that_member(
    trained, kept
):
    """Of member 0 the last turn is another one, beside the true segment or in its place."""
    (result,) = trained()
    if not kept:
        for path in segments(result.run_id):
            path.unlink()
    turns = result.history.turns
    Store.open(result.run_id).log_records([*turns[0][:-1], forged(turns[0][-1]), *turns[1]])
    told = (
        "contradicts itself on turns"
        if kept
        else "has turn 2 of member 0, whose record is missing or another one"
    )
    with pytest.warns(UserWarning, match=f"the journal {told}"):
        loaded = pbt_flow.load(result.run_id)
    assert plain(loaded.history) == plain(result.history)


DAMAGES = {
    "cut": "the file was cut short: its end is missing",
    "bomb": "it unpacks to more than 1 MiB, which no file of a journal does",
    "altered": "the file was altered",
    "renamed": "the file was altered: its name is not the digest",
    "no record": "the file was altered",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_segment_that_is_damaged_is_not_read_and_the_user_is_told(trained, damage, monkeypatch):
    (result,) = trained()
    (path,) = segments(result.run_id)
    whole = path.read_bytes()
    if damage == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "bomb":
        monkeypatch.setattr("pbt_flow.tracking.journal._MOST_BYTES", 1 << 20)
        path.write_bytes(gzip.compress(b" " * (1 << 21)))
    elif damage == "altered":
        path.write_bytes(whole[:40] + bytes([whole[40] ^ 1]) + whole[41:])
    elif damage == "renamed":
        path.rename(path.with_name(f"{'0' * 32}.jsonl.gz"))
    else:
        path.write_bytes(b"no gzip")
    with pytest.warns(UserWarning, match=rf"journal/.* is not read: {DAMAGES[damage]}"):
        loaded = pbt_flow.load(result.run_id)
    assert plain(loaded.history) == plain(result.history)


def test_a_metric_that_is_no_number_contradicts_nothing(trained):
    (result,) = trained()
    turn = dataclasses.replace(result.history.turns[0][0], metrics={"loss": math.nan})
    store = Store.open(result.run_id)
    again = turn_from_json(json.loads(json.dumps(turn_to_json(turn))))
    store.log_records([turn, result.history.turns[1][0]])
    store.log_records([again])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        read = store.journal.read()
    assert [doubt for doubt in read.doubts if "member 0" in doubt]  # beside the true record
    assert not [doubt for doubt in read.doubts if "member 1" in doubt]
    assert told == []


def test_a_long_population_has_a_segment_for_some_hundreds_of_turns(database, monkeypatch):
    monkeypatch.setattr("pbt_flow.training.store_queues._SEGMENTS", (3, 3))
    result = pbt_flow.run(Regression, engine="inline", population=2, turns=5, quiet=True)
    assert len(segments(result.run_id)) == 4
    loaded = pbt_flow.load(result.run_id)
    assert plain(loaded.history) == plain(result.history)
