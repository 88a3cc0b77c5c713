"""A script that joins, as a task like any other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pbt_flow.exceptions import OptionError, TaskError
from pbt_flow.joining import Member, Script, preserved
from pbt_flow.space import Hparams
from pbt_flow.task.base import Task
from pbt_flow.task.files import add_siblings
from pbt_flow.task.options import options_of

if TYPE_CHECKING:
    from torch import nn


class _Told:
    """A declaration of a task that its script says when it is run, read when it is asked for.

    Most processes build models and ask for none of it: they run the script once less.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, task: Task | None, kind: type[ScriptTask]) -> Any:
        return kind.told()[self.name]


class ScriptTask(Task):
    """One model in training by a script.

    A script is built by running it up to its loop. `task_of` makes a class for each script.
    """

    path: ClassVar[Path]
    told_with: ClassVar[tuple[str, ...]] = ()
    """The script's arguments where it is run only to learn what it declares."""

    space = _Told("space")
    direction = _Told("direction")
    report_direction = _Told("report_direction")
    defaults = _Told("defaults")

    def __init__(
        self,
        *,
        seed: int,
        device: str = "cpu",
        arguments: tuple[str, ...] = (),
        keep_seed: bool = False,
        keep_folder: bool = False,
    ) -> None:
        """Run the script up to its loop.

        Args:
            seed: Seeds what the script draws before its loop.
            device: The accelerator that `cuda` means for the script; of which device its model is,
                it says itself.
            arguments: The script's own command line.
            keep_seed: Whether its own seeding stands, so that all members begin alike.
            keep_folder: Whether its loop runs in the folder of the worker, and not in one of the
                member's own.
        """
        super().__init__(seed=seed, device=device)
        add_siblings(self.path)
        self._begin(self.path, arguments, keep_seed=keep_seed, keep_folder=keep_folder)

    def _begin(
        self,
        source: Path | Callable[[], Any],
        arguments: tuple[str, ...] = (),
        *,
        keep_seed: bool,
        keep_folder: bool,
    ) -> None:
        """Run what trains up to its loop."""
        _use(self.device)
        self._script = Script(
            source, arguments, seed=self.seed, keep_seed=keep_seed, keep_folder=keep_folder
        )
        self._arguments = arguments
        self._metrics: Mapping[str, float] = {}

    @classmethod
    def told(cls) -> Mapping[str, Any]:
        """What the script declares, found out by running it up to its loop."""
        try:
            changed = cls.path.stat().st_mtime_ns
        except OSError as error:
            raise TaskError(f"script {cls.path} cannot be read: {error}") from error
        return _told(cls.path, cls.told_with, changed)

    @property
    def _member(self) -> Member:
        return self._script.member

    def reseed(self, seed: int) -> None:
        super().reseed(seed)
        if self.device != "cpu" or _uses_accelerator():
            import torch

            torch.manual_seed(seed)

    def train(self, hparams: Hparams, steps: int) -> Mapping[str, float]:
        _use(self.device)
        return self._script.train(hparams, steps)

    def evaluate(self) -> Any:
        score, self._metrics = self._script.evaluate()
        return score

    def metrics(self) -> Mapping[str, float]:
        return self._metrics

    def report(self) -> Mapping[str, float]:
        return self._script.report()

    def state_dict(self) -> dict[str, Any]:
        return self._member.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._member.load_state_dict(state)

    def model(self) -> nn.Module | None:
        modules = self._member.modules()
        return modules[0] if modules else None

    def understood(self) -> Mapping[str, str]:
        member = self._member
        words = f", run with {' '.join(self._arguments)}" if self._arguments else ""
        kinds = [f"{name} ({type(one).__name__})" for name, one in member.objects.items()]
        found = {
            "script": f"{self._script.label}{words}; a checkpoint holds {', '.join(kinds)}",
            "hyperparameters": member.hyperparameters.describe(),
        }
        if member.unnamed:
            found["not in checkpoints"] = (
                f"{', '.join(member.unnamed)}: has a state and is not named in join(...), so that "
                "a copy and a resume go on without it"
            )
        if member.carried:
            found["begins anew"] = (
                f"{', '.join(member.carried)}: carried by the loop from pass to pass and held by "
                "no checkpoint, so that a copy and a resume begin with what was before the loop; "
                "what must go on belongs in a dict that join(...) names, or is pbt.step"
            )
        if member.passes is not None and member.step > member.passes:
            found["loop"] = (
                f"the script's own loop is of {member.passes} passes, and a member trains on past "
                "its end; a schedule of the script goes on as it does there, so give it the passes "
                "of the longest member"
            )
        if self._script.seeded_by:
            found["seed"] = (
                f"{self._script.seeded_by} of the script comes to another seed for each member. A "
                "split of the data that has a seed or a generator of its own is the same in all; "
                "one that has none is another in each, so that members are validated on different "
                "data: give it one, or --set keep_seed=true"
            )
        return found


@lru_cache(maxsize=64)
def task_of(path: Path, arguments: tuple[str, ...] = ()) -> type[ScriptTask]:
    """The task of a script.

    Args:
        path: The script.
        arguments: What it is run with to learn what it declares.
    """
    name = "".join(letter if letter.isalnum() else "_" for letter in path.stem)
    return type(name, (ScriptTask,), {"path": path, "told_with": arguments, "__module__": __name__})


def with_options(kind: type[Task], options: Any) -> type[Task]:
    """The task of a script under some options: it may declare another space for each of them."""
    takes = issubclass(kind, ScriptTask) and "arguments" in options_of(kind)
    if not takes or not isinstance(options, Mapping):
        return kind
    assert issubclass(kind, ScriptTask)
    try:
        given = options_of(kind)["arguments"].read(options.get("arguments", ()))
    except OptionError as error:
        raise TaskError(f"task {kind.__name__}: {error}") from None
    return task_of(kind.path, tuple(given))


@lru_cache(maxsize=64)
def _told(path: Path, arguments: tuple[str, ...], changed: int) -> Mapping[str, Any]:
    """What a script says of itself when it has come to its loop; its model is dropped.

    Args:
        path: The script.
        arguments: Its own command line.
        changed: When the file was written last: in a notebook it may be edited between two runs.
    """
    add_siblings(path)
    with preserved():
        return terms_of(Script(path, arguments, seed=0))


def terms_of(script: Script) -> Mapping[str, Any]:
    """What a script that stands at its loop's head declares.

    Raises:
        TaskError: Its loop has no pass.
    """
    terms, passes = script.member.terms, script.member.passes
    defaults: dict[str, Any] = {"interval": terms.interval}
    if passes is not None:
        if not passes:
            raise TaskError(f"{script.label}: its loop has no pass, and nothing would be trained")
        defaults["turns"] = -(-passes // terms.interval)
    return {
        "space": terms.space,
        "direction": terms.direction,
        "report_direction": terms.report_direction,
        "defaults": defaults,
    }


def _use(device: str) -> None:
    """Let `cuda` mean this worker's accelerator."""
    if device.startswith("cuda"):
        import torch

        # A worker's own GPU is called `cuda`, without a number: it sees no other.
        torch.cuda.set_device(torch.device(device).index or 0)


def _uses_accelerator() -> bool:
    import torch

    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
