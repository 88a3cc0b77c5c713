"""How much it takes to read a population whose artifacts are elsewhere.

A call of MLflow's access to artifacts is a request or two to a server, and a call of its client is
one.
"""

import functools
from collections import Counter

import pytest
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.tracking import MlflowClient
from test_journal import forged, plain, segments

import pbt_flow
from pbt_flow.population.turn_files import RECORD, file_place
from pbt_flow.tracking.journal import Seal
from pbt_flow.tracking.store import Store

COMPARED = 2
"""How many newest records are looked at beside a journal that has every turn."""
OF_ARTIFACTS = ("list_artifacts", "download_artifacts", "log_artifact")
SIZES = ({"population": 3, "turns": 3}, {"population": 6, "turns": 3})


@pytest.fixture
def asked(monkeypatch):
    """A function that returns what another one asks MLflow for, by the name of each call."""

    def counting(patch, owner, name, found):
        original = getattr(owner, name)

        @functools.wraps(original)
        def counted(*arguments, **named):
            found[name] += 1
            return original(*arguments, **named)

        patch.setattr(owner, name, counted)

    def asked_by(call):
        found = Counter()
        with monkeypatch.context() as patch:
            # As if the artifacts of all runs were on another machine.
            for module in ("store", "journal"):
                patch.setattr(f"pbt_flow.tracking.{module}.local_path", lambda uri: None)
            patch.setattr("pbt_flow.tracking.turn_reading._MOST_COMPARED", COMPARED)
            for name in OF_ARTIFACTS:
                counting(patch, LocalArtifactRepository, name, found)
            for name, method in list(vars(MlflowClient).items()):
                if callable(method) and not name.startswith("_") and name not in OF_ARTIFACTS:
                    counting(patch, MlflowClient, name, found)
            call()
        return found

    return asked_by


def unsealed(result):
    """A population as its controller leaves it that is killed."""
    MlflowClient().delete_tag(result.run_id, "pbt.journal")
    return result


@pytest.mark.slow
def test_what_has_ended_is_read_with_as_much_whatever_the_number_of_members(asked, trained):
    few, many = (asked(lambda one=one: pbt_flow.load(one.run_id)) for one in trained(*SIZES))
    assert few == many
    assert few["download_artifacts"] <= COMPARED + 4


@pytest.mark.slow
def test_of_a_killed_one_each_member_takes_a_look_at_its_turns_and_its_newest_record(
    asked, trained
):
    killed = [unsealed(result) for result in trained(*SIZES)]
    few, many = (asked(lambda one=one: pbt_flow.load(one.run_id)) for one in killed)
    assert many - few == Counter(list_artifacts=3, download_artifacts=3)


@pytest.mark.slow
def test_each_turn_that_the_journal_lacks_takes_a_look_and_its_record(asked, trained):
    result = trained(*SIZES)[0]
    unsealed(result)
    whole = asked(lambda: pbt_flow.load(result.run_id))
    for path in segments(result.run_id):
        path.unlink()
    turns = result.history.turns
    Store.open(result.run_id).log_records([*turns[0], *turns[1], turns[2][0]])
    lacking = asked(lambda: pbt_flow.load(result.run_id))
    # The newest folder of member 2 is looked into to see whether its turn has happened.
    assert lacking - whole == Counter(list_artifacts=2 + 1, download_artifacts=2)


def claimed_again(result):
    MlflowClient().log_param(result.run_id, "lease/0002", "elsewhere:1:0-0-0:00000000")


def running_again(result):
    MlflowClient().update_run(result.run_id, status="RUNNING")


def of_fewer_turns(result):
    for path in segments(result.run_id):
        path.unlink()
    Store.open(result.run_id).log_records(result.history.turns[0])


def not_a_seal(result):
    MlflowClient().set_tag(result.run_id, "pbt.journal", '[{"claim": 1}]')


@pytest.mark.slow
@pytest.mark.parametrize("harm", [claimed_again, running_again, of_fewer_turns, not_a_seal])
def test_where_the_journal_may_lack_turns_every_members_records_are_looked_at(harm, asked, trained):
    result, found = trained(*SIZES)[1], {}
    harm(result)
    looked = asked(lambda: found.update(Store.open(result.run_id).read_turns(print)))
    assert {member: len(turns) for member, turns in found.items()} == dict.fromkeys(range(6), 3)
    assert looked["download_artifacts"] >= 6


@pytest.mark.slow
def test_a_whole_journal_that_contradicts_a_record_is_not_believed(asked, trained):
    result = trained(*SIZES)[0]
    turns, loaded = result.history.turns, []
    for path in segments(result.run_id):
        path.unlink()
    store = Store.open(result.run_id)
    store.log_records([*turns[0][:-1], forged(turns[0][-1]), *turns[1], *turns[2]])
    store.seal_journal(1, result.turns)
    with pytest.warns(UserWarning, match="the journal has turn 3 of member 0, whose record is"):
        asked(lambda: loaded.append(pbt_flow.load(result.run_id)))
    assert plain(loaded[0].history) == plain(result.history)


def test_the_newest_record_of_a_killed_one_that_is_gone_is_told(asked, trained):
    result = trained(*SIZES)[0]
    newest = result.history.turns[1][-1]
    place = file_place(RECORD, newest.number, newest.plan.attempt)
    (Store.open(unsealed(result).run_id).folders.root(1) / place).unlink()
    said, found = [], {}
    asked(lambda: found.update(Store.open(result.run_id).read_turns(said.append)))
    assert [len(found[member]) for member in sorted(found)] == [3, 2, 3]
    assert [text for text in said if "the journal has turn 3 of member 1, whose record is" in text]


def test_a_resume_seals_the_journal_again_with_its_own_claim(trained):
    result = trained(*SIZES)[0]
    client = MlflowClient()
    assert Seal.of(client.get_run(result.run_id).data.tags).claim == 1
    pbt_flow.resume(result.run_id, turns=4, quiet=True)
    seal = Seal.of(client.get_run(result.run_id).data.tags)
    assert (seal.claim, seal.turns) == (2, 12)
    assert seal.digest == Store.open(result.run_id).journal.read().digest
