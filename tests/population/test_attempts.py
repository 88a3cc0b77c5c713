"""Every order in which workers that wake up, retries and takeovers can write, on the real files.

A worker writes the state of its attempt and then the record, at any moment: before its controller
gives it up, after that, or after another controller has taken over. A controller that has lost the
population may go on as well. Whatever the order, one record counts, and what a controller has
accepted stays as it was for all who come after it.
"""

import dataclasses
from dataclasses import dataclass, replace

import pytest
import torch

from pbt_flow.population import checkpoints
from pbt_flow.population.accepted import NOTHING, Accepted, file_of_claim
from pbt_flow.population.checkpoints import (
    LocalFolders,
    file_digest,
    save_state,
    state_place,
    write_new_file,
)
from pbt_flow.population.records import Plan, Turn
from pbt_flow.population.turn_files import UNNUMBERED, Attempt
from pbt_flow.tracking.deletion import StoredStates

TURNS = 2


@dataclass(frozen=True)
class Job:
    """One attempt at a turn, and how far its worker has come."""

    plan: Plan
    checkpoint: object = None
    done: bool = False
    number: int = 0
    """Which job it is. The state that it writes holds this number, as on a GPU every try has other
    numbers."""


@dataclass(frozen=True)
class Boss:
    """A controller: what it has accepted, and the attempt that it waits for."""

    claim: int
    stage: str = "claimed"
    turns: tuple[Turn, ...] = ()
    given: int | None = None
    """The number of the job that it waits for."""
    cleans: tuple[tuple[int, Attempt], ...] = ()
    """The turns whose other attempts it is about to delete, with the attempt that it accepted. It
    has seen that nobody else had claimed the population."""


@dataclass(frozen=True)
class World:
    files: frozenset = frozenset()
    jobs: tuple[Job, ...] = ()
    bosses: tuple[Boss, ...] = ()

    def key(self):
        """What tells worlds apart: attempts as well, which two equal plans may differ in."""
        return self.files, repr(self.jobs), repr(self.bosses)


class Model:
    """All worlds that can come of one controller, two turns and some attempts."""

    def __init__(self, folder, claims, jobs, *, undead=False, names=True, lists=True):
        """Make the model of a member.

        Args:
            folder: Where the files are.
            claims: How many controllers there are at most.
            jobs: How many attempts they give out at most.
            undead: Whether a controller goes on although another one has claimed the population.
            names: Whether each attempt has names of its own.
            lists: Whether a controller says what it has found.
        """
        self.folder, self.claims, self.jobs = folder, claims, jobs
        self.undead, self.names, self.lists = undead, names, lists
        self.folders = LocalFolders({0: str(folder / "member")})
        self.states = StoredStates(None, "", "", ["member"], self.folders)

    # --- files ---

    def show(self, world):
        """Put the files of a world into the folder."""
        there = {p: p.read_bytes() for p in self.folder.rglob("*") if p.is_file()}
        wanted = {self.folder / name: content for name, content in world.files}
        for path in there.keys() - wanted.keys():
            path.unlink()
        for path, content in wanted.items():
            if there.get(path) != content:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)

    def seen(self, world):
        """The world with the files that now lie in the folder."""
        found = (p for p in self.folder.rglob("*") if p.is_file())
        files = frozenset((str(p.relative_to(self.folder)), p.read_bytes()) for p in found)
        return replace(world, files=files)

    def accepted(self):
        for claim in range(self.claims, 1, -1):
            path = self.folder / "accepted" / file_of_claim(claim)
            if path.exists():
                return Accepted.from_json(path.read_text())
        return NOTHING

    def history(self):
        found, accepted = [], self.accepted()
        while turn := self.folders.record(0, len(found) + 1, accepted):
            found.append(turn)
        return tuple(found)

    # --- what can happen ---

    def next(self, world):
        """Each world that can come next, with what has happened."""
        for place, job in enumerate(world.jobs):
            if not job.done:
                what = "record" if job.checkpoint else "state"
                yield f"job {place} writes its {what}", self.work, place
        for place, boss in enumerate(world.bosses):
            if boss.claim < len(world.bosses) and not self.undead:
                continue
            if boss.stage == "claimed":
                yield f"boss {boss.claim} reads", self.read, place
            elif boss.stage == "has read":
                yield f"boss {boss.claim} says what it found", self.say, place
            if boss.cleans:
                yield f"boss {boss.claim} deletes what does not count", self.clean, place
            if boss.given is not None:
                if world.jobs[boss.given].done:
                    yield f"boss {boss.claim} hears of job {boss.given}", self.hear, place
                yield f"boss {boss.claim} gives job {boss.given} up", self.give_up, place
        if len(world.bosses) < self.claims:
            yield "another boss claims", self.claim, None

    def work(self, world, place):
        job = world.jobs[place]
        plan = job.plan
        if job.checkpoint is None:
            state = {"job": torch.tensor(float(job.number))}
            made = save_state(state, 0, plan.turn, self.folders.root(0), plan.attempt)
            job = replace(job, checkpoint=made)
        else:
            self.folders.commit(self.outcome(job))
            job = replace(job, done=True)
        jobs = (*world.jobs[:place], job, *world.jobs[place + 1 :])
        return replace(world, jobs=jobs)

    def outcome(self, job):
        return Turn(plan=job.plan, status="ok", score=float(job.number), checkpoint=job.checkpoint)

    def claim(self, world, _):
        return replace(world, bosses=(*world.bosses, Boss(claim=len(world.bosses) + 1)))

    def read(self, world, place):
        boss = replace(world.bosses[place], stage="has read", turns=self.history())
        return self.with_boss(world, place, boss)

    def say(self, world, place):
        boss = world.bosses[place]
        if self.lists and boss.claim > 1:
            path = self.folder / "accepted" / file_of_claim(boss.claim)
            path.parent.mkdir(exist_ok=True)
            write_new_file(path, Accepted.found(boss.claim, {0: boss.turns}).to_json())
        return self.give(world, place, replace(boss, stage="trains"), 1)

    def hear(self, world, place):
        boss = world.bosses[place]
        return self.accept(world, place, boss, self.outcome(world.jobs[boss.given]))

    def give_up(self, world, place):
        boss = world.bosses[place]
        plan = world.jobs[boss.given].plan
        found = self.folders.record(0, plan.turn)
        if found is not None and found.plan.attempt == plan.attempt:
            return self.accept(world, place, boss, found)
        return self.give(world, place, boss, plan.attempt.number + 1)

    def accept(self, world, place, boss, turn):
        boss = replace(boss, turns=(*boss.turns, turn))
        if self.names and boss.claim == len(world.bosses):
            boss = replace(boss, cleans=(*boss.cleans, (turn.number, turn.plan.attempt)))
        return self.give(world, place, boss, 1)

    def clean(self, world, place):
        boss = world.bosses[place]
        for turn, attempt in boss.cleans:
            self.states.discard_attempts(0, turn, kept=attempt, claim=boss.claim)
        return self.with_boss(world, place, replace(boss, cleans=()))

    def give(self, world, place, boss, number):
        """Give out the next turn of a boss, unless there are enough turns or jobs."""
        if len(boss.turns) == TURNS or len(world.jobs) == self.jobs:
            return self.with_boss(world, place, replace(boss, given=None))
        start = boss.turns[-1].checkpoint if boss.turns else None
        attempt = Attempt(claim=boss.claim, number=number) if self.names else UNNUMBERED
        turn = len(boss.turns) + 1
        plan = Plan(
            member=0,
            turn=turn,
            seed=0,
            hparams={},
            steps=1,
            trained=turn,
            start=start,
            start_step=turn - 1,
            attempt=attempt,
        )
        job = Job(plan, number=len(world.jobs))
        world = replace(world, jobs=(*world.jobs, job))
        return self.with_boss(world, place, replace(boss, given=job.number))

    def with_boss(self, world, place, boss):
        return replace(world, bosses=(*world.bosses[:place], boss, *world.bosses[place + 1 :]))

    # --- what must hold ---

    def check(self, world):
        counted = self.history()
        own = [boss for boss in world.bosses if boss.stage == "trains"]
        for found, told in zip(counted, own[-1].turns if own else (), strict=False):
            assert dataclasses.asdict(found) == dataclasses.asdict(told), "a commit has changed"
        if own:
            assert len(counted) >= len(own[-1].turns), "a commit is gone"
        before = None
        for turn in counted:
            path = self.folders.root(0) / state_place(turn.checkpoint)
            assert path.is_file(), "the state of a turn that counts is gone"
            assert file_digest(path) == turn.checkpoint.digest, "a state has changed"
            start = turn.plan.start
            assert (start is None) == (before is None)
            if start is not None:
                assert dataclasses.asdict(start) == dataclasses.asdict(before.checkpoint), (
                    "a turn began with a state of an attempt that does not count"
                )
            before = turn

    def explore(self):
        """Go through all worlds, and return how many there are."""
        first = self.claim(World(), None)
        seen, waiting = {first.key()}, [(first, ())]
        while waiting:
            world, past = waiting.pop()
            for what, happens, place in list(self.next(world)):
                self.show(world)
                after = self.seen(happens(world, place))
                if after.key() in seen:
                    continue
                seen.add(after.key())
                try:
                    self.check(after)
                except AssertionError as error:
                    raise AssertionError("\n".join([*past, what, str(error)])) from error
                waiting.append((after, (*past, what)))
        return len(seen)


@pytest.mark.parametrize(
    ("claims", "jobs", "undead"),
    [
        (2, 2, True),
        pytest.param(2, 3, True, marks=pytest.mark.slow),
    ],
)
def test_what_counts_never_changes_whoever_wakes_up_when(tmp_path, claims, jobs, undead):
    assert Model(tmp_path, claims, jobs, undead=undead).explore() > 300


def replaces(partial, path):
    partial.replace(path)


def test_one_name_for_all_attempts_would_not_do(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "_name_durably", replaces)
    with pytest.raises(AssertionError, match="a commit has changed|a state has changed"):
        Model(tmp_path, 2, 2, names=False, lists=False).explore()


def test_nor_would_the_greatest_attempt_without_a_list_of_what_was_accepted(tmp_path):
    """A worker may write a greater attempt after another controller has accepted a lesser one."""
    with pytest.raises(AssertionError, match="a commit has changed"):
        Model(tmp_path, 2, 2, lists=False).explore()
