"""Checkpoints: what was written comes back whole, or is refused; nothing in a file ever runs."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import hashlib
import io
import json
import os
import pickle
import shutil
import stat
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pbt_flow.exceptions import CheckpointError, RecordError
from pbt_flow.population.checkpoints import (
    LocalFolders,
    file_digest,
    load_state,
    read_record,
    save_record,
    save_state,
)
from pbt_flow.population.records import Checkpoint, Plan, Turn, turn_to_json
from pbt_flow.population.turn_files import OUTPUT, RECORD, STATE, Attempt, turn_folder
from pbt_flow.testing import assert_same

STATE_AFTER: dict[str, Any] = {
    "model": OrderedDict(weight=torch.arange(6.0).reshape(2, 3), bias=torch.tensor([0.1])),
    "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]},
    "half": torch.tensor([1.5], dtype=torch.bfloat16),
    "seen": 12,
    "names": ("a", None, True, 1.5),
}


def turn_of(member: int, number: int, checkpoint: Checkpoint | None) -> Turn:
    plan = Plan(
        member=member, turn=number, seed=0, hparams={"lr": 0.1}, steps=10, trained=10 * number
    )
    if checkpoint is None:
        return Turn(plan=plan, status="failed", error="why")
    return Turn(plan=plan, status="ok", score=1.0, checkpoint=checkpoint)


def files(root: Path) -> list[str]:
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())


def planted(content: bytes, root: Path, turn: int = 1) -> Checkpoint:
    """A checkpoint file that somebody else wrote, with a reference whose digest is right."""
    folder = root / turn_folder(turn)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STATE).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    return Checkpoint(member=0, turn=turn, digest=digest, size=len(content))


# --- writing and reading a state ------------------------------------------------------------------


def test_a_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    checkpoint = save_state(STATE_AFTER, member=3, turn=12, root=tmp_path)
    assert_same(load_state(checkpoint, tmp_path), STATE_AFTER)


@pytest.mark.parametrize(
    "value",
    [
        torch.tensor(1.0),
        torch.zeros(0),
        torch.zeros(2, 0, 3),
        torch.tensor([1 + 2j]),
        torch.tensor([True]),
        torch.arange(6).reshape(2, 3).T,
        torch.nn.Parameter(torch.ones(2)),
        torch.Generator().manual_seed(0).get_state(),
        torch.Size([2, 3]),
        torch.float16,
        torch.device("cpu"),
        2**70,
        -0.0,
        float("inf"),
        b"bytes",
        "text\n\u00e9",
        {1, 2},
        [],
        {},
        {(0, "a"): None},
    ],
    ids=lambda value: repr(value)[:24],
)
def test_tensors_and_plain_values_of_any_kind_come_back(tmp_path: Path, value: Any) -> None:
    checkpoint = save_state({"value": value}, member=0, turn=1, root=tmp_path)
    loaded = load_state(checkpoint, tmp_path)["value"]
    assert type(loaded) is type(value)
    assert_same(loaded, value)


def test_a_checkpoint_is_one_file_and_its_reference_tells_whose_and_which(tmp_path: Path) -> None:
    checkpoint = save_state(STATE_AFTER, member=3, turn=12, root=tmp_path)
    assert files(tmp_path) == ["turns/000012/state.pt"]
    content = (tmp_path / "turns/000012/state.pt").read_bytes()
    assert checkpoint == Checkpoint(
        member=3, turn=12, digest=hashlib.sha256(content).hexdigest(), size=len(content)
    )


def test_what_was_loaded_can_be_changed_without_changing_the_file(tmp_path: Path) -> None:
    checkpoint = save_state(STATE_AFTER, member=0, turn=1, root=tmp_path)
    load_state(checkpoint, tmp_path)["model"]["weight"].zero_()
    assert_same(load_state(checkpoint, tmp_path), STATE_AFTER)


def test_the_same_state_has_the_same_digest(tmp_path: Path) -> None:
    first, again = (save_state(STATE_AFTER, 0, 1, tmp_path / name) for name in "ab")
    assert first == again
    other = save_state({**STATE_AFTER, "seen": 13}, 0, 1, tmp_path / "c")
    assert other.digest != first.digest


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_the_digest_is_sha_256_of_all_blocks(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    (tmp_path / "file").write_bytes(content)
    assert file_digest(tmp_path / "file") == hashlib.sha256(content).hexdigest()


# --- what is refused when it is saved -------------------------------------------------------------


class Plain:
    """An object that only a pickle that runs code could bring back."""


class Refuses:
    """An object that cannot be written."""

    def __reduce__(self) -> Any:
        raise OSError("no space left on device")


def _some_function() -> None:
    pass


@pytest.mark.parametrize(
    "thing",
    [
        Plain(),
        _some_function,
        Plain,
        Path("x"),
        os.system,
        np.zeros(2),
        np.float64(1.0),
        torch.nn.Linear(1, 1),
        functools.partial(print),
    ],
    ids=lambda thing: str(thing)[:20],
)
@pytest.mark.parametrize("depth", [0, 2])
def test_a_state_that_only_code_could_bring_back_is_refused_at_once(
    tmp_path: Path, thing: Any, depth: int
) -> None:
    state = {"deep": {"deeper": [thing]}} if depth else {"thing": thing}
    with pytest.raises(
        CheckpointError, match=r"state_dict\(\) must hold tensors and plain values only"
    ):
        save_state({**STATE_AFTER, **state}, member=0, turn=1, root=tmp_path)
    assert files(tmp_path) == []


@pytest.mark.parametrize("state", [[1, 2], torch.zeros(2), 3, None], ids=repr)
def test_a_state_that_is_no_dict_is_refused_at_once(tmp_path: Path, state: Any) -> None:
    with pytest.raises(CheckpointError):
        save_state(state, member=0, turn=1, root=tmp_path)


def test_a_state_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    # The disk is well: what raised this is in the state.
    reason = r"state_dict\(\) cannot be written: OSError: no space left on device"
    with pytest.raises(CheckpointError, match=reason):
        save_state({**STATE_AFTER, "last": Refuses()}, member=0, turn=1, root=tmp_path)
    assert files(tmp_path) == []


def test_a_state_that_cannot_be_written_leaves_the_earlier_one_as_it_was(tmp_path: Path) -> None:
    checkpoint = save_state(STATE_AFTER, member=0, turn=1, root=tmp_path)
    for state in ({"last": Refuses()}, {"thing": Plain()}):
        with pytest.raises(CheckpointError):
            save_state(state, member=0, turn=1, root=tmp_path)
    assert files(tmp_path) == ["turns/000001/state.pt"]
    assert_same(load_state(checkpoint, tmp_path), STATE_AFTER)


def test_a_place_that_cannot_be_written_to_leaves_nothing_behind(tmp_path: Path) -> None:
    # A folder stands where the state belongs, so that the last step, the rename, fails.
    (tmp_path / turn_folder(1) / STATE).mkdir(parents=True)
    with pytest.raises(OSError, match=STATE):
        save_state(STATE_AFTER, member=0, turn=1, root=tmp_path)
    assert files(tmp_path) == []


# --- what is refused when it is loaded ------------------------------------------------------------


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    checkpoint = save_state(STATE_AFTER, member=4, turn=7, root=tmp_path)
    (tmp_path / turn_folder(7) / STATE).unlink()
    with pytest.raises(
        CheckpointError, match=r"member 4, turn 7 \(.*turns/000007/state.pt\): there is no such"
    ):
        load_state(checkpoint, tmp_path)


def test_any_flipped_bit_is_noticed(tmp_path: Path) -> None:
    checkpoint = save_state(STATE_AFTER, member=4, turn=7, root=tmp_path)
    path = tmp_path / turn_folder(7) / STATE
    content = path.read_bytes()
    for place in range(0, len(content), 97):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        with pytest.raises(CheckpointError, match="the file was altered or cut short; its SHA-256"):
            load_state(checkpoint, tmp_path)
    path.write_bytes(content)
    load_state(checkpoint, tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_noticed(tmp_path: Path, share: float) -> None:
    checkpoint = save_state(STATE_AFTER, member=4, turn=7, root=tmp_path)
    path = tmp_path / turn_folder(7) / STATE
    path.write_bytes(path.read_bytes()[: int(share * checkpoint.size)])
    with pytest.raises(CheckpointError, match=r"member 4, turn 7 .*altered or cut short"):
        load_state(checkpoint, tmp_path)


def test_the_state_of_another_turn_in_its_place_is_noticed(tmp_path: Path) -> None:
    checkpoint = save_state(STATE_AFTER, member=0, turn=1, root=tmp_path)
    save_state({"seen": 13}, member=0, turn=2, root=tmp_path)
    (tmp_path / turn_folder(2) / STATE).replace(tmp_path / turn_folder(1) / STATE)
    with pytest.raises(CheckpointError, match="altered or cut short"):
        load_state(checkpoint, tmp_path)


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return open, (self.path, "w")


def _torch_file(thing: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(thing, buffer)
    return buffer.getvalue()


_NOT_OF_TORCH = pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")


@_NOT_OF_TORCH
@pytest.mark.parametrize(
    "content",
    [
        lambda evil: pickle.dumps(evil, protocol=4),
        lambda evil: pickle.dumps({"model": evil}, protocol=2),
        lambda evil: _torch_file(evil),
        lambda evil: _torch_file({**STATE_AFTER, "model": {"weight": evil}}),
    ],
    ids=["a pickle", "a pickled dict", "a checkpoint", "deep in a checkpoint"],
)
def test_a_pickle_with_code_in_it_is_refused_and_does_not_run(tmp_path: Path, content: Any) -> None:
    trace = tmp_path / "it ran"
    dangerous = content(Evil(trace))
    checkpoint = planted(dangerous, tmp_path)
    with pytest.raises(CheckpointError, match=r"member 0, turn 1 .*: refused: "):
        load_state(checkpoint, tmp_path)
    assert not trace.exists()
    # The trap does spring where it is opened without care.
    with contextlib.suppress(RuntimeError):
        torch.load(io.BytesIO(dangerous), weights_only=False)
    assert trace.exists()


def _altered(content: bytes, part: str, instead: bytes | None) -> bytes:
    """A checkpoint's archive with one of its files replaced, or left out."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            if part not in name:
                new.writestr(name, old.read(name))
            elif instead is not None:
                new.writestr(name, instead)
    return buffer.getvalue()


_GOOD = _torch_file(STATE_AFTER)


@_NOT_OF_TORCH
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"PK", id="short"),
        pytest.param(b"not a checkpoint at all", id="text"),
        pytest.param(pickle.dumps({"plain": 1}, protocol=4), id="a pickle"),
        pytest.param(_GOOD[:-100], id="cut"),
        pytest.param(_altered(_GOOD, "data.pkl", None), id="no index"),
        pytest.param(_altered(_GOOD, "data/0", None), id="no tensor"),
        pytest.param(_altered(_GOOD, "data.pkl", b"\x80\x02c"), id="a broken index"),
        pytest.param(
            _altered(_GOOD, "data.pkl", b"\x80\x02X\x01\0\0\0\xff."),
            id="an index with a broken text",
        ),
        pytest.param(_altered(_GOOD, "data.pkl", b"\x80\x02h\x07."), id="no such memo"),
        pytest.param(_altered(_GOOD, "data.pkl", b"\x80\x02s."), id="an empty stack"),
    ],
)
def test_what_is_no_checkpoint_is_refused_though_its_digest_is_right(
    tmp_path: Path, content: bytes
) -> None:
    with pytest.raises(CheckpointError, match=r"member 0, turn 1 .*: refused: "):
        load_state(planted(content, tmp_path), tmp_path)


@pytest.mark.parametrize("thing", [[1, 2], torch.zeros(2), 3, None], ids=repr)
def test_a_checkpoint_that_holds_no_dict_is_refused(tmp_path: Path, thing: Any) -> None:
    checkpoint = planted(_torch_file(thing), tmp_path)
    with pytest.raises(CheckpointError, match=f"holds a {type(thing).__name__}, not a dict"):
        load_state(checkpoint, tmp_path)


# --- the record -----------------------------------------------------------------------------------


def test_a_record_comes_back_from_its_folder(tmp_path: Path) -> None:
    for turn in (
        turn_of(2, 1, Checkpoint(member=2, turn=1, digest="d", size=1)),
        turn_of(2, 2, None),
    ):
        save_record(turn, tmp_path)
        text = (tmp_path / turn_folder(turn.number) / RECORD).read_text()
        assert read_record(text, 2, turn.number) == turn
    assert files(tmp_path) == [
        "turns/000001/turn.json",
        "turns/000002/error.txt",  # the second went wrong
        "turns/000002/turn.json",
    ]


def at(attempt: Attempt, turn: Turn) -> Turn:
    """A turn as another attempt at it wrote it."""
    own = turn.checkpoint and dataclasses.replace(turn.checkpoint, attempt=attempt)
    plan = dataclasses.replace(turn.plan, attempt=attempt)
    return dataclasses.replace(turn, plan=plan, checkpoint=own)


def test_what_a_turn_printed_lies_beside_its_record_and_not_beside_the_next_attempts(
    tmp_path: Path,
) -> None:
    turn = turn_of(2, 1, Checkpoint(member=2, turn=1, digest="d", size=1))
    save_record(turn, tmp_path, "epoch 1\nepoch 2\n")
    assert files(tmp_path) == ["turns/000001/output.txt", "turns/000001/turn.json"]
    assert (tmp_path / turn_folder(1) / OUTPUT).read_text() == "epoch 1\nepoch 2\n"
    save_record(at(Attempt(claim=1, number=2), turn), tmp_path, " \n")
    assert files(tmp_path) == [
        "turns/000001/output.txt",
        "turns/000001/turn-1.2.json",
        "turns/000001/turn.json",
    ]


def test_no_file_is_written_over_another_one(tmp_path: Path) -> None:
    """Whoever comes second has no right to the name, and is told so."""
    one = Attempt(claim=2, number=1)
    checkpoint = save_state(STATE_AFTER, 2, 1, tmp_path, one)
    turn = at(one, turn_of(2, 1, checkpoint))
    save_record(turn, tmp_path, "epoch 1")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    with pytest.raises(FileExistsError):
        save_state({"seen": 13}, 2, 1, tmp_path, one)
    with pytest.raises(FileExistsError):
        save_record(dataclasses.replace(turn, score=2.0), tmp_path)
    with pytest.raises(FileExistsError):
        save_record(dataclasses.replace(turn, score=2.0), tmp_path, "another epoch 1")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


def test_where_there_are_no_links_a_file_is_not_written_over_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    checkpoint = save_state(STATE_AFTER, 2, 1, tmp_path)
    with pytest.raises(FileExistsError):
        save_state({"seen": 13}, 2, 1, tmp_path)
    assert_same(load_state(checkpoint, tmp_path), STATE_AFTER)
    assert files(tmp_path) == ["turns/000001/state.pt"]


def test_a_link_whose_answer_was_lost_is_taken_for_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def link_twice(partial: Path, path: Path) -> None:
        link(partial, path)
        link(partial, path)

    monkeypatch.setattr(os, "link", link_twice)
    checkpoint = save_state(STATE_AFTER, 2, 1, tmp_path)
    assert_same(load_state(checkpoint, tmp_path), STATE_AFTER)


def test_the_digest_of_a_state_is_the_same_in_every_attempt(tmp_path: Path) -> None:
    attempts = [Attempt(), Attempt(claim=1, number=1), Attempt(claim=12, number=3)]
    made = [save_state(STATE_AFTER, 2, 1, tmp_path, attempt) for attempt in attempts]
    assert len({checkpoint.digest for checkpoint in made}) == 1
    assert [checkpoint.attempt for checkpoint in made] == attempts
    assert files(tmp_path) == [
        "turns/000001/state-1.1.pt",
        "turns/000001/state-12.3.pt",
        "turns/000001/state.pt",
    ]


def test_a_record_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    turn = turn_of(0, 1, None)
    unwritable = dataclasses.replace(turn, plan=dataclasses.replace(turn.plan, hparams={"a": {1}}))  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="not JSON serializable"):
        save_record(unwritable, tmp_path, "epoch 1")
    assert files(tmp_path) == []


def test_a_record_that_cannot_be_named_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / turn_folder(1) / RECORD).mkdir(parents=True)
    with pytest.raises(OSError, match=RECORD):
        save_record(turn_of(0, 1, None), tmp_path, "epoch 1")
    assert files(tmp_path) == []


def text_of(turn: Turn) -> str:
    return json.dumps(turn_to_json(turn))


def test_a_record_under_the_name_of_another_attempt_is_refused(tmp_path: Path) -> None:
    folders = LocalFolders({0: str(tmp_path)})
    folders.commit(at(Attempt(claim=1, number=1), turn_of(0, 1, None)))
    (tmp_path / "turns/000001/turn-1.1.json").rename(tmp_path / "turns/000001/turn-1.2.json")
    with pytest.raises(RecordError, match=r"is of attempt 1\.1, and its name says 1\.2"):
        folders.record(0, 1)
    turn = turn_of(0, 1, Checkpoint(member=0, turn=1, digest="d", size=1))
    plan = dataclasses.replace(turn.plan, attempt=Attempt(claim=1, number=1))
    with pytest.raises(RecordError, match="a checkpoint of another attempt as its own"):
        read_record(text_of(dataclasses.replace(turn, plan=plan)), 0, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("{} {}", "not JSON"),
        (text_of(turn_of(0, 1, None))[:-10], "not JSON"),
        ("[]", "turn record"),
        ("null", "turn record"),
        (
            text_of(turn_of(1, 1, None)),
            "of member 1, turn 1, and not of member 0, turn 1, in whose folder it stands",
        ),
        (
            text_of(turn_of(0, 2, None)),
            "of member 0, turn 2, and not of member 0, turn 1, in whose folder it stands",
        ),
        (
            text_of(turn_of(0, 1, Checkpoint(member=3, turn=1, digest="d", size=1))),
            "claims a checkpoint of another turn as its own",
        ),
        (
            text_of(turn_of(0, 1, Checkpoint(member=0, turn=2, digest="d", size=1))),
            "claims a checkpoint of another turn as its own",
        ),
    ],
)
def test_a_record_that_does_not_belong_into_its_folder_is_refused(text: str, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        read_record(text, member=0, turn=1)


@given(st.text(max_size=60))
def test_any_text_is_a_record_or_refused(text: str) -> None:
    with pytest.raises(RecordError):
        read_record(text, 0, 1)


def test_a_deeply_nested_text_is_refused() -> None:
    with pytest.raises(RecordError):
        read_record("[" * 100_000, 0, 1)


# --- folders that all workers see -----------------------------------------------------------------


def test_a_committed_turn_is_found_in_its_members_folder(tmp_path: Path) -> None:
    folders = LocalFolders({0: str(tmp_path / "a"), 1: str(tmp_path / "b")})
    assert folders.record(1, 1) is None
    turn = turn_of(1, 1, save_state(STATE_AFTER, 1, 1, folders.root(1)))
    assert folders.record(1, 1) is None, "a state without a record is a turn that never happened"
    folders.commit(turn)
    assert folders.record(1, 1) == turn
    assert folders.record(0, 1) is None
    assert turn.checkpoint is not None
    assert_same(load_state(turn.checkpoint, folders.fetch(turn.checkpoint)), STATE_AFTER)
    assert files(tmp_path) == ["b/turns/000001/state.pt", "b/turns/000001/turn.json"]


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe\x00", b'{"version": 1', text_of(turn_of(5, 9, None)).encode()],
    ids=["empty", "no text", "cut", "another's"],
)
def test_a_record_that_cannot_be_trusted_is_named_with_its_path(
    tmp_path: Path, content: bytes
) -> None:
    folders = LocalFolders({0: str(tmp_path)})
    folders.commit(turn_of(0, 1, None))
    (tmp_path / turn_folder(1) / RECORD).write_bytes(content)
    with pytest.raises(RecordError, match=r"turns/000001/turn\.json: "):
        folders.record(0, 1)


def test_files_are_readable_for_all_whom_the_umask_lets(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        folders = LocalFolders({0: str(tmp_path)})
        folders.commit(turn_of(0, 1, save_state(STATE_AFTER, 0, 1, folders.root(0))))
    finally:
        os.umask(old)
    for name in (STATE, RECORD):
        mode = (tmp_path / turn_folder(1) / name).stat().st_mode
        assert stat.S_IMODE(mode) == 0o644


@pytest.mark.parametrize(
    "name", ["000002 (copy)", "backup", "2", "\u0660\u0660\u0660\u0660\u0660\u0662"]
)
def test_a_folder_that_is_no_turns_is_not_taken_for_the_last_turn(
    tmp_path: Path, name: str
) -> None:
    folders = LocalFolders({0: str(tmp_path)})
    folders.commit(turn_of(0, 1, None))
    shutil.copytree(tmp_path / turn_folder(1), tmp_path / "turns" / name)
    assert folders.last(0) == 1
