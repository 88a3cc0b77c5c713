"""Going on with a population: what a resume keeps, and what it refuses to take for true."""

import dataclasses
import json
import math
import re
import shutil
import signal
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from sample_tasks import Regression

import pbt_flow
from pbt_flow import compare, report
from pbt_flow.cli.main import main
from pbt_flow.commands.summary import summary
from pbt_flow.engines import InlineEngine
from pbt_flow.exceptions import ComparisonError, EngineError, RecordError, SettingsError, StoreError
from pbt_flow.population.checkpoints import LocalFolders
from pbt_flow.population.records import turn_to_json
from pbt_flow.population.turn_files import Attempt
from pbt_flow.tracking.journal import JOURNAL
from pbt_flow.tracking.lease import claim
from pbt_flow.tracking.store import Store

pytestmark = pytest.mark.usefixtures("database")


def run(task=Regression, **settings):
    return pbt_flow.run(task, **{"engine": "inline", "quiet": True, "turns": 2, **settings})


def resume(result, **changes):
    return pbt_flow.resume(result.run_id, engine="inline", quiet=True, **changes)


def turns(result):
    return {len(turns) for turns in result.history.turns.values()}


def member_run(result, member):
    return Store.open(result.run_id).manifest.members[member]


def folder(result, member, turn):
    place = MlflowClient().get_run(member_run(result, member)).info.artifact_uri
    return Path(place, "turns", f"{turn:06d}")


class Interrupts(Regression):
    """Presses Ctrl-C in the fifth turn of this process."""

    count = 0

    def train(self, hparams, steps):
        Interrupts.count += 1
        if Interrupts.count == 4 * 2 + 5:
            signal.raise_signal(signal.SIGINT)
        return super().train(hparams, steps)


def test_the_command_that_an_interrupted_resume_prints_goes_on_with_its_settings(monkeypatch):
    monkeypatch.setattr(Interrupts, "count", 0)
    result = run("test_resume:Interrupts", population=4)
    stopped = resume(result, turns=4, max_failures=5)
    assert stopped.status == "interrupted"
    assert summary(stopped).endswith(f"python -m pbt_flow resume {result.run_id}")
    ended = pbt_flow.resume(result.run_id, quiet=True)
    assert (ended.status, turns(ended)) == ("finished", {4})
    tags = MlflowClient().get_run(result.run_id).data.tags
    assert json.loads(tags["pbt.settings"]) == {"turns": 4, "max_failures": 5}


def test_the_seconds_of_a_resume_stand_beside_the_turns_that_it_has_done():
    first = run(population=3)
    assert (first.turns, first.turns_before) == (6, 0)
    assert re.match(r"\nfinished: 3 members, 6 turns in \d+ s\n", summary(first))
    again = resume(first, turns=3)
    assert (again.turns, again.turns_before) == (9, 6)
    assert re.match(r"\nfinished: 3 members, 9 turns, the last 3 in \d+ s\n", summary(again))
    assert pbt_flow.load(first.run_id).turns_told == again.turns_told
    assert again.to_json()["turns_before"] == 6
    assert re.search(r"9 turns, the last 3 in \d+ s", again._repr_html_())
    # What only tells the end anew has trained nothing in its seconds.
    assert summary(resume(first)).startswith("\nfinished: 3 members, 9 turns\n")


def test_no_cluster_is_asked_for_what_is_left_when_every_turn_is_done(monkeypatch):
    asked = []

    def cluster(threads):
        asked.append(threads)
        raise EngineError("no cluster here")

    monkeypatch.setattr("pbt_flow.engines.ray.RayEngine", cluster)
    # A worker of this machine is enough for the end; here it is this process.
    monkeypatch.setattr("pbt_flow.commands.launch.ProcessEngine", lambda *_: InlineEngine())
    result = run(population=2)
    again = pbt_flow.resume(result.run_id, engine="ray", quiet=True)
    assert (again.status, turns(again), asked) == ("finished", {2}, [])
    # The settings still say where the population trains.
    with pytest.raises(EngineError):
        pbt_flow.resume(result.run_id, turns=3, quiet=True)
    assert asked == [1]


@pytest.mark.slow
def test_a_limit_that_a_resume_lifts_stays_lifted():
    result = run(population=2, target=1e9, seconds=600.0, turns=2)
    assert result.reason == "the target 1e+09 is reached"
    command = ["resume", result.run_id, "--engine", "inline"]
    assert main([*command, "--target", "none", "--seconds=none"]) == 0
    tag = json.loads(MlflowClient().get_run(result.run_id).data.tags["pbt.settings"])
    assert tag == {"target": None, "seconds": None}
    assert turns(pbt_flow.load(result.run_id)) == {2}
    assert turns(resume(result, turns=3)) == {3}
    assert turns(resume(result, turns=4, target=1e9)) == {3}


@pytest.mark.slow
def test_budgets_are_compared_as_they_are_after_a_resume():
    longer, control = run(), run(exploit="none")
    compare([longer.run_id, control.run_id])
    resume(longer, turns=3)
    with pytest.raises(ComparisonError, match="their turns is 3 and 2"):
        compare([longer.run_id, control.run_id])
    with pytest.raises(ComparisonError, match="their turns is 3 and 2"):
        report(longer.run_id, control=control.run_id)
    with pytest.raises(ComparisonError, match="their interval is "):
        run(interval=7, control=control.run_id)


def test_a_tag_cannot_change_what_defines_a_population(trained):
    (result,) = trained()
    MlflowClient().set_tag(result.run_id, "pbt.settings", '{"interval": 5}')
    with pytest.raises(SettingsError, match="interval cannot change on resume"):
        pbt_flow.load(result.run_id)


def test_what_cannot_change_is_refused_by_the_command_with_the_reason(trained, capsys):
    (result,) = trained()
    assert main(["resume", result.run_id, "--interval", "4"]) == 2
    assert "interval cannot change on resume, since it defines" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("turn", [2, 3])
def test_a_record_that_somebody_deleted_is_missed_and_nothing_trained_over_it(turn, trained):
    (result,) = trained({"turns": 3})
    (folder(result, 1, turn) / "turn-1.1.json").unlink()
    if turn == 2:
        # The journal has it, and nothing is missing.
        assert pbt_flow.load(result.run_id).history.turns == result.history.turns
    forget_journal(result)
    if turn == 2:
        with pytest.raises(RecordError, match="no record in turns/000002, and turn 3 has one"):
            pbt_flow.load(result.run_id)
    with pytest.raises(RecordError, match=rf"in turns/00000{turn}, .*bring the file back"):
        resume(result, turns=4)
    kept = folder(result, 1, 3) / "state-1.1.pt"
    assert kept.is_file()
    assert not folder(result, 1, 4).exists()


@pytest.mark.slow
def test_a_deleted_record_of_a_finalist_is_missed_by_all_who_read(trained, capsys):
    (result,) = trained({"turns": 3})
    judged = next(one for one in result.history.fresh if one.turn == 3)
    (folder(result, judged.member, 3) / "turn-1.1.json").unlink()
    missed = f"member {judged.member} has no record of its turn 3, which was judged at the end"
    with pytest.warns(UserWarning, match="missing or another"), pytest.raises(RecordError) as told:
        pbt_flow.load(result.run_id)
    assert missed in str(told.value)
    for command in ("show", "report"):
        with pytest.warns(UserWarning, match="missing or another"):
            assert main([command, result.run_id]) != 0
        assert missed in capsys.readouterr().err


def test_a_turn_that_is_committed_while_somebody_reads_is_not_taken_for_a_gap(trained, monkeypatch):
    (result,) = trained({"turns": 3})
    path, read = folder(result, 1, 3) / "turn-1.1.json", LocalFolders.record
    text = path.read_text()
    path.unlink()

    def record(self, member, turn, *given):
        found = read(self, member, turn, *given)
        if (member, turn) == (1, 3):
            path.write_text(text)  # its worker is done just now
        return found

    monkeypatch.setattr(LocalFolders, "record", record)
    found, _ = Store.open(result.run_id).reader.of_member(1)
    assert [turn.number for turn in found] == [1, 2]


def forget_journal(result):
    """Leave the population with its records alone, as those of earlier versions are."""
    shutil.rmtree(Path(MlflowClient().get_run(result.run_id).info.artifact_uri, JOURNAL))


def write_as_earlier_versions(result):
    """Give all files of the population the names and the content that they had without attempts."""
    forget_journal(result)
    for member in result.history.turns:
        for record in folder(result, member, 1).parent.rglob("turn-*.json"):
            plain = json.loads(record.read_text())
            for holder in (plain["plan"], plain["plan"]["start"], plain["checkpoint"]):
                if holder is not None:
                    del holder["attempt"]
            (record.parent / "turn.json").write_text(json.dumps(plain, indent=1))
            record.unlink()
        for state in folder(result, member, 1).parent.rglob("state-*.pt"):
            state.rename(state.parent / "state.pt")


def test_a_population_of_an_earlier_version_is_read_and_goes_on(trained):
    (result,) = trained({"turns": 3})
    write_as_earlier_versions(result)
    assert pbt_flow.load(result.run_id).history.turns == result.history.turns
    resumed = resume(result, turns=5)
    assert resumed.status == "finished"
    attempts = [[str(t.plan.attempt) for t in own] for own in resumed.history.turns.values()]
    assert attempts == [["0.0", "0.0", "0.0", "2.1", "2.1"]] * len(attempts)
    starts = [own[3].plan.start for own in resumed.history.turns.values()]
    assert {str(start.attempt) for start in starts} == {"0.0"}
    assert pbt_flow.load(result.run_id).history.turns == resumed.history.turns
    # A record that is read is written again as it was.
    path = folder(result, 0, 2) / "turn.json"
    again = turn_to_json(Store.open(result.run_id).record(0, 2))
    assert json.loads(json.dumps(again)) == json.loads(path.read_text())


def test_a_controller_that_has_lost_the_population_deletes_nothing_of_it(trained):
    (result,) = trained()
    left = folder(result, 1, 2) / "state-1.7.pt"
    left.write_bytes(b"what its successor may have accepted")
    store, kept = Store.open(result.run_id), Attempt(claim=1, number=1)
    MlflowClient().log_param(result.run_id, "lease/0002", "elsewhere:1:0-0-0:00000000")
    store.discard_attempts({(1, 2): kept}, claim=1)
    assert left.exists()
    # The successor itself may, and leaves alone what is not of a turn or of a claim that is over.
    others = [folder(result, 1, 2) / name for name in ("notes.txt", "state-3.1.pt")]
    # What a worker has left that was killed as it gave its file the name.
    (folder(result, 1, 2) / ".state.pt.1-1-0a1b").touch()
    for other in others:
        other.touch()
    store.discard_attempts({(1, 2): kept}, claim=2)
    there = sorted(path.name for path in folder(result, 1, 2).iterdir())
    assert there == ["notes.txt", "state-1.1.pt", "state-3.1.pt", "turn-1.1.json"]


def test_what_was_found_and_is_gone_is_missed(trained):
    (result,) = trained({"turns": 3})
    resume(result)  # says what it has found
    (folder(result, 1, 3) / "turn-1.1.json").unlink()
    with pytest.raises(RecordError, match="turns/000003, and an earlier controller found 3 turns"):
        pbt_flow.load(result.run_id)


def test_a_list_of_what_was_found_that_somebody_altered_is_refused_with_its_place(trained):
    (result,) = trained()
    resume(result)
    place = Path(MlflowClient().get_run(result.run_id).info.artifact_uri, "accepted", "0002.json")
    place.write_text("[]")
    with pytest.raises(RecordError, match=r"accepted/0002\.json: not a list of accepted turns"):
        pbt_flow.load(result.run_id)


def test_an_end_that_does_not_hold_any_more_is_not_told(trained):
    (result,) = trained()
    # As after a resume that was ended where it could not say so.
    Store.open(result.run_id).begin()
    MlflowClient().set_terminated(result.run_id, "FAILED")
    assert pbt_flow.load(result.run_id).status == "failed"


class Hopeless(Regression):
    def train(self, hparams, steps):
        raise ZeroDivisionError("as ever")


@pytest.mark.slow
def test_where_everybody_has_failed_nothing_is_said_to_be_done(capsys):
    result = run(Hopeless, population=2, turns=4)
    capsys.readouterr()
    pbt_flow.resume(result.run_id)
    said = capsys.readouterr().err
    assert "every member has failed too often" in said
    assert "nothing is left to train" not in said


def test_a_claim_is_heard_before_it_can_be_read(trained):
    (result,) = trained()
    refused = []

    class Slow(MlflowClient):
        """Another controller comes the moment that the claim is written."""

        def log_param(self, run_id, key, value):
            super().log_param(run_id, key, value)
            try:
                claim(MlflowClient(), run_id).release()
            except StoreError as error:
                refused.append(str(error))

    lease = claim(Slow(), result.run_id)
    lease.release()
    assert len(refused) == 1
    assert "is running" in refused[0]


class NoNumber(Regression):
    def report(self):
        return {"quality": math.nan}


def test_a_report_that_is_no_number_comes_back_as_it_was():
    result = run(NoNumber, population=2)
    loaded = pbt_flow.load(result.run_id)
    assert math.isnan(loaded.winner.report["quality"])
    assert loaded.headline == result.headline
    report(result.run_id)


@pytest.mark.slow
def test_half_a_control_is_none(trained):
    result, control = trained({}, {"exploit": "none"})
    half = dataclasses.replace(control, status="interrupted")
    from pbt_flow.commands.run import _beside

    beside = _beside(result, half)
    text = summary(beside)
    assert f"python -m pbt_flow resume {control.run_id}" in text
    assert f"python -m pbt_flow report {result.run_id} --control {control.run_id}" in text
    assert pbt_flow.load(result.run_id).control is None


def test_a_copy_is_tagged_with_what_it_copied():
    result = run(turns=4, exploit="truncation:fraction=0.5")
    copied = 0
    for member, done in result.history.turns.items():
        donors = [turn.plan.donor for turn in done if turn.plan.donor]
        tag = MlflowClient().get_run(member_run(result, member)).data.tags.get("pbt.copied")
        if donors:
            copied += 1
            assert tag == f"member-{donors[-1].member:02d} turn {donors[-1].turn}"
        else:
            assert tag is None
    assert copied


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_is_named(trained, tmp_path, capsys):
    result, control = trained({}, {"exploit": "none"})
    (tmp_path / "file").touch()
    for command in (["report", result.run_id], ["compare", result.run_id, control.run_id]):
        assert main([*command, "--out", str(tmp_path / "file")]) == 1
        assert f"cannot write to the folder {tmp_path / 'file'}" in capsys.readouterr().err


def test_a_population_whose_controller_was_killed_does_not_say_that_it_runs(trained):
    (result,) = trained()
    client = MlflowClient()
    owner = client.get_run(result.run_id).data.params["lease/0001"].split(":")
    client.set_tag(result.run_id, "pbt.status", "running")
    client.update_run(result.run_id, status="RUNNING")
    client.set_tag(result.run_id, "pbt.heartbeat", "1.0")
    assert pbt_flow.load(result.run_id).status == "running"  # its controller is this process
    owner[1] = "4194305"  # a number that no process has
    client.log_param(result.run_id, "lease/0002", ":".join(owner))
    assert pbt_flow.load(result.run_id).status == "interrupted"


def test_a_resume_to_fewer_turns_than_were_done_is_refused_and_changes_nothing(trained):
    (result,) = trained({"turns": 3})
    with pytest.raises(SettingsError, match=r"turns=2 is less than what was done: .* has done 3"):
        resume(result, turns=2)
    assert pbt_flow.load(result.run_id).status == "finished"
    assert resume(result).turns == 6


def test_a_refused_resume_is_not_greeted_first(capsys):
    result = run()
    lease = claim(MlflowClient(), result.run_id)
    try:
        with pytest.raises(StoreError, match="is running"):
            pbt_flow.resume(result.run_id)
    finally:
        lease.release()
    assert f"population {result.run_id} at" not in capsys.readouterr().err
