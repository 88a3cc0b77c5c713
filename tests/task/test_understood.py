"""What a task understood of its data, options and environment reaches the user and the record."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from sample_tasks import Regression

from pbt_flow import Diverged, report, resume, run
from pbt_flow.engines.jobs import Probe, WorkerContext
from pbt_flow.engines.worker import Worker
from pbt_flow.exceptions import RecordError
from pbt_flow.population.checkpoints import LocalFolders
from pbt_flow.population.records import Plan, turn_from_json, turn_to_json
from pbt_flow.task import TaskSpec
from pbt_flow.tracking.store import Store

SMALL = {"population": 2, "turns": 2, "interval": 2, "engine": "inline"}


class Says(Regression):
    """Says what it understood, and after an evaluation something else as well."""

    data = "3 classes (cat 12, dog 10, bird 40)"

    def __init__(self, *, seed: int, device: str = "cpu") -> None:
        super().__init__(seed=seed, device=device)
        self.evaluated = False

    def evaluate(self) -> list[float]:
        self.evaluated = True
        return super().evaluate()

    def understood(self) -> Mapping[str, str]:
        told = {"data": self.data, "skipped files": "2 hidden files"}
        return told | ({"episodes": "none ended"} if self.evaluated else {})


class SaysNonsense(Regression):
    """Does not keep to what `understood` is to return."""

    def understood(self) -> Mapping[str, str]:
        return ["data"]  # type: ignore[return-value]


class SaysTooMuch(Regression):
    """Says more than fits on a line, under a name that MLflow does not take."""

    def understood(self) -> Mapping[str, str]:
        return {"what?/where": "one\ntwo  " + "x" * 5000}


class RunsAway(Regression):
    """Notices itself that its numbers are not finite any more."""

    def train(self, hparams, steps):
        raise Diverged("the loss of step 3 is nan")


def worker(task, folder: Path) -> Worker:
    made = Worker(WorkerContext(task=TaskSpec(name=f"{task.__module__}:{task.__name__}"), seed=0))
    made.folders = LocalFolders({0: folder})
    return made


def first_turn() -> Plan:
    hparams = {"lr": 0.1, "batch": 4, "loss": "l2"}
    return Plan(member=0, turn=1, seed=1, hparams=hparams, steps=2, trained=2)


def tags_of(run_id: str) -> dict[str, str]:
    return {k: v for k, v in Store.open(run_id).tags().items() if k.split("/")[0] in TAGS}


TAGS = ("pbt.understood", "pbt.noted", "pbt.understood-on-resume")


def test_a_probe_says_what_the_task_understood(tmp_path):
    told = worker(Says, tmp_path).do(Probe()).understood
    assert told == {"data": Says.data, "skipped files": "2 hidden files"}


def test_a_turn_notes_only_what_was_not_understood_before_it(tmp_path):
    made = worker(Says, tmp_path)
    assert made.do(first_turn()).notes == {"episodes": "none ended"}
    assert worker(Regression, tmp_path / "other").do(first_turn()).notes == {}


def test_notes_survive_the_record_and_a_record_without_them_is_as_it_was(tmp_path):
    turn = worker(Says, tmp_path).do(first_turn())
    plain = json.loads(json.dumps(turn_to_json(turn)))
    assert turn_from_json(plain) == turn
    silent = worker(Regression, tmp_path / "other").do(first_turn())
    assert "notes" not in turn_to_json(silent)
    assert turn_from_json(json.loads(json.dumps(turn_to_json(silent)))) == silent
    with pytest.raises(RecordError, match=r"notes\.episodes cannot be 3"):
        turn_from_json({**plain, "notes": {"episodes": 3}})


def test_a_sentence_is_one_line_of_bounded_length_under_a_name_that_mlflow_takes(tmp_path):
    ((topic, sentence),) = worker(SaysTooMuch, tmp_path).do(Probe()).understood.items()
    assert topic == "what__where"
    assert sentence.startswith("one two xxx")
    assert len(sentence) == 1000


def test_nonsense_is_said_and_stops_nothing(tmp_path):
    made = worker(SaysNonsense, tmp_path)
    assert "understood() must return" in made.do(Probe()).understood["understood"]
    assert made.do(first_turn()).ok


def test_a_task_may_say_itself_that_it_diverged_and_why(tmp_path):
    turn = worker(RunsAway, tmp_path).do(first_turn())
    assert (turn.status, turn.error) == ("diverged", "the loss of step 3 is nan")
    assert turn.score is None


@pytest.mark.slow
def test_the_user_reads_it_once_and_finds_it_on_the_run_and_in_the_report(capfd, tmp_path):
    run_id = run(Says, **SMALL).run_id
    said = capfd.readouterr().err.splitlines()
    assert said.count(f"data: {Says.data}") == 1
    assert said.count("skipped files: 2 hidden files") == 1
    assert sum(line.startswith("episodes: none ended (first seen in turn 1") for line in said) == 1
    before = {
        "pbt.understood/data": Says.data,
        "pbt.understood/skipped files": "2 hidden files",
        "pbt.noted/episodes": "none ended",
    }
    assert tags_of(run_id) == before
    report(run_id, out=str(tmp_path))
    page = (tmp_path / "report" / "index.html").read_text("utf-8")
    assert f"<b>data</b>: {Says.data}" in page
    assert "<b>episodes</b>: none ended" in page
    resume(run_id, turns=3)
    said = capfd.readouterr().err
    assert "data:" not in said
    assert "episodes:" not in said
    assert tags_of(run_id) == before


@pytest.mark.slow
def test_a_resume_says_what_the_task_understands_otherwise(capfd, monkeypatch):
    run_id = run(Says, **SMALL).run_id
    capfd.readouterr()
    began, now = Says.data, "2 classes (test 27, train 27)"
    monkeypatch.setattr(Says, "data", now)
    resume(run_id, turns=3)
    assert f"data: {now}; when the population began: {began}" in capfd.readouterr().err.splitlines()
    assert tags_of(run_id)["pbt.understood/data"] == began
    assert tags_of(run_id)["pbt.understood-on-resume/data"] == now


@pytest.mark.slow
def test_a_note_that_no_controller_heard_of_is_told_by_the_next_one(capfd):
    run_id = run(Says, **SMALL).run_id
    store = Store.open(run_id)
    # As after a kill between a turn's commit and what is told of it.
    store.client.delete_tag(run_id, "pbt.noted/episodes")
    capfd.readouterr()
    resume(run_id)  # in which no turn is trained
    assert capfd.readouterr().err.count("episodes: none ended") == 1
    assert Store.open(run_id).noted() == {"episodes": "none ended"}
