"""A worker proves before its first turn that the others find its turns, or says why not."""

import dataclasses
from pathlib import Path

import pytest
from single_turns import plan

from pbt_flow.engines.inline import InlineEngine
from pbt_flow.engines.jobs import WorkerContext
from pbt_flow.engines.processes import ProcessEngine
from pbt_flow.exceptions import EngineError, StorageError
from pbt_flow.population.checkpoints import LocalFolders
from pbt_flow.population.reach import Token, prove_folder_is_shared
from pbt_flow.task import TaskSpec
from pbt_flow.utils.machines import Machine, this_machine

ELSEWHERE = Machine(host="head", boot="another", mounts="another")


def seen_from_elsewhere(folders: LocalFolders) -> LocalFolders:
    """The folders as a worker on another machine than the controller gets them."""
    assert folders.token is not None
    return dataclasses.replace(folders, token=dataclasses.replace(folders.token, machine=ELSEWHERE))


def prove(folders: LocalFolders) -> None:
    assert folders.token is not None
    prove_folder_is_shared(folders.root(0), folders.token, 0.0)


def test_a_shared_folder_is_proved_and_nothing_stays_in_it(tmp_path):
    folders = LocalFolders({0: str(tmp_path / "m0"), 1: str(tmp_path / "m1")}).leave_token()
    (token,) = (tmp_path / "m0").iterdir()
    prove(seen_from_elsewhere(folders))
    assert list((tmp_path / "m0").iterdir()) == [token]
    folders.remove_token()
    folders.remove_token()
    assert not list((tmp_path / "m0").iterdir())
    assert not (tmp_path / "m1").exists()


def test_a_folder_of_another_machine_is_refused_and_not_made(tmp_path):
    folders = seen_from_elsewhere(LocalFolders({0: str(tmp_path / "m0")}).leave_token())
    for own in (tmp_path / "nothing", tmp_path / "own"):
        there = LocalFolders({0: str(own)}, token=folders.token)
        with pytest.raises(StorageError) as told:
            prove(there)
        said = str(told.value)
        here = this_machine().host
        assert said.startswith(f"a worker on {here} does not see {own} of head, where turns are ")
        assert "mount it there at the same path, or begin the population in a store" in said
        assert not (tmp_path / "nothing").exists()
        (tmp_path / "own").mkdir(exist_ok=True)


def test_a_network_file_system_that_remembers_too_long_is_asked_again(tmp_path):
    folders = seen_from_elsewhere(LocalFolders({0: str(tmp_path)}).leave_token())
    assert folders.token is not None
    path, now = tmp_path / folders.token.name, [0.0]
    text = path.read_text()
    path.unlink()

    def pause(seconds):
        now[0] += seconds
        if now[0] >= 3:
            path.write_text(text)

    prove_folder_is_shared(tmp_path, folders.token, 5.0, clock=lambda: now[0], pause=pause)
    assert now == [3.0]
    path.unlink()
    now[0] = -10.0
    with pytest.raises(StorageError, match="does not see"):
        prove_folder_is_shared(tmp_path, folders.token, 5.0, clock=lambda: now[0], pause=pause)
    assert now == [-5.0]


def test_a_folder_that_only_the_controller_can_write_is_refused(tmp_path, monkeypatch):
    folders = seen_from_elsewhere(LocalFolders({0: str(tmp_path)}).leave_token())
    write = Path.write_text

    def refused(self, text, *others, **more):
        if self.parent == tmp_path:
            raise PermissionError(13, "Permission denied", str(self))
        return write(self, text, *others, **more)

    monkeypatch.setattr(Path, "write_text", refused)
    with pytest.raises(StorageError, match=r"cannot write to .*Permission denied.*by the user of"):
        prove(folders)


def test_tokens_of_controllers_that_were_killed_are_deleted_by_the_next(tmp_path):
    LocalFolders({0: str(tmp_path)}).leave_token()
    LocalFolders({0: str(tmp_path)}).leave_token()
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_cannot_be_written_is_told_by_the_first_turn(tmp_path):
    (tmp_path / "m0").write_text("a file in the folder's place")
    folders = LocalFolders({0: str(tmp_path / "m0")}).leave_token()
    assert folders.token is None
    folders.prove_reach(0.0)
    folders.remove_token()


@pytest.mark.parametrize("make", [InlineEngine, ProcessEngine])
def test_an_engine_runs_no_turn_in_a_worker_that_does_not_see_the_folder(make, tmp_path):
    token = Token(name=".reach-x", machine=ELSEWHERE)
    (tmp_path / token.name).mkdir()  # no token at all would be looked for again and again
    engine = make()

    def begin():
        engine.start(WorkerContext(task=TaskSpec(name="sample_tasks:Regression"), seed=1))
        engine.open(LocalFolders({0: str(tmp_path)}, token=token))
        engine.submit(plan())
        while not engine.wait(60):  # a worker that is ready ends the wait as well
            pass

    said = f"a worker on {this_machine().host} cannot read {tmp_path}, where turns"
    try:
        with pytest.raises(EngineError, match=said):
            begin()
    finally:
        engine.close()
