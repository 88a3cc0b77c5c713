"""A script in a worker: run up to its loop, where it waits for one turn after another.

It runs on a greenlet: in the worker's thread, on a stack of its own. A thread would have other
signals, modes and an end that nobody can force; a generator would take `main()` from the script.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import re
import shutil
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from greenlet import getcurrent

from pbt_flow.exceptions import TaskError
from pbt_flow.joining.member import AT_HEAD, Member
from pbt_flow.joining.randomness import BuildingGreenlet, replaced_seeding, seed_generators
from pbt_flow.joining.source import compile_script
from pbt_flow.space import Hparams
from pbt_flow.utils.import_order import beside_before_here
from pbt_flow.utils.scratch import scratch_folder

_IN_WORKER = "PBT_FLOW_WORKER"
_NO_FOLDER = re.compile(r"Parent directory (.+) does not exist|non-existent directory: '(.+)'")
"""How torch.save says that a folder is missing, and how pandas does; neither names its file."""
_LEVELS = 40
"""Calls between the bottom of a script's stack and the script, each of two frames of C at least."""
_QUOTED = 2000
"""Characters of what a script wrote to stderr before it left, as an argument parser does."""


class ScriptGreenlet(BuildingGreenlet):
    """The greenlet that a script runs on; `join` finds its member there."""

    member: Member


class Script:
    """One member's run of a script, or of a function that joins.

    Args:
        source: The script, or the function.
        arguments: The script's own command line.
        seed: Seeds what it draws before its loop.
        keep_seed: Whether its own seeding stands, so that all members begin alike.
        keep_folder: Whether its loop runs in the folder of the process, and not in one of its own.

    Raises:
        TaskError: It came to no loop.
    """

    def __init__(
        self,
        source: Path | Callable[[], Any],
        arguments: Sequence[str] = (),
        *,
        seed: int,
        keep_seed: bool = False,
        keep_folder: bool = False,
    ) -> None:
        self._is_file = isinstance(source, Path)
        if isinstance(source, Path):
            self.label, self._argv = source.name, [str(source), *arguments]
            self._module = ModuleType("__main__")
            self._module.__file__ = str(source)
            run = _run_of(compile_script(source), self._module)
        else:
            # A function has the words and the main module of its process.
            self.label, self._argv = f"{source.__name__}()", sys.argv
            self._module, run = sys.modules["__main__"], source
        self.member = Member(self.label)
        # Only where nobody else is in the process: a working folder is everybody's.
        self._has_folder = not keep_folder and _IN_WORKER in os.environ
        self._folder: Path | None = None
        self._body = ScriptGreenlet(_deep(run))
        self._body.member = self.member
        seed_generators(seed)
        self._body.seed = None if keep_seed else seed
        weakref.finalize(self, self.member.close)
        self._run_to_loop()
        self._body.seed = None
        self.seeded_by = self._body.seeded_by

    def train(self, hparams: Hparams, steps: int) -> Mapping[str, float]:
        """Let the loop make its passes under these hyperparameters, and prove that they were live.

        Raises:
            TaskError: The script left its loop, or something else was live.
        """
        if self._has_folder:
            self._empty_folder()
        self.member.begin_turn(hparams, steps)
        with self._surroundings(), self._files_explained():
            came_to = self._switch()
        if came_to != AT_HEAD:
            raise TaskError(
                f"{self.label} left its loop (by break or return); it must go on for as long as it "
                "is asked to, since the population decides when training ends"
            )
        return self.member.end_turn()

    def evaluate(self) -> tuple[Any, Mapping[str, float]]:
        """The score, and what the script logged with it."""
        with self._surroundings(), self._files_explained():
            return self.member.evaluate_apart()

    def report(self) -> Mapping[str, float]:
        """What the script reports on data that selection never saw."""
        report = self.member.terms.report
        with self._surroundings(), self._files_explained():
            return {} if report is None else report()

    # --- the greenlet -----------------------------------------------------------------------------

    def _run_to_loop(self) -> None:
        said = _Copy(sys.stderr)
        try:
            with self._surroundings(), replaced_seeding(), contextlib.redirect_stderr(said):
                came_to = self._switch()
        except SystemExit as error:
            words = " ".join(self._argv[1:]) or "no arguments"
            told = said.tail() or f"sys.exit({error.code!r})"
            if not self._is_file:
                raise TaskError(f"{self.label} left before its loop: {told}") from error
            raise TaskError(
                f"{self.label} left before its loop, run with {words}; what it said: {told}\n"
                "Its own arguments stand behind -- on the command line, and in Python in "
                'options={"arguments": [...]}'
            ) from error
        if came_to != AT_HEAD:
            missing = "a loop over pbt.steps() or pbt.batches()"
            if not self.member.objects:
                missing = "a call of pbt_flow.join()"
            raise TaskError(f"{self.label} came to its end without {missing}")

    def _switch(self) -> Any:
        """Let the script go on until it waits at its loop's head, or ends."""
        if self._body.dead:
            raise TaskError(f"{self.label} has ended, and trains no more")
        # It hands control back to whoever asked, which may be another greenlet each time.
        self._body.parent = getcurrent()
        return self._body.switch()

    # --- what a script sees of its process --------------------------------------------------------

    @contextlib.contextmanager
    def _surroundings(self) -> Iterator[None]:
        """The script's own words, main module and folder, for as long as it runs."""
        argv, main = sys.argv, sys.modules["__main__"]
        folder = os.getcwd() if self._folder is not None else None
        file = Path(self._argv[0]) if self._is_file else None
        # Processes that the script starts look for its classes in the main module.
        sys.argv, sys.modules["__main__"] = self._argv, self._module
        try:
            with beside_before_here(file):
                if self._folder is not None:
                    os.chdir(self._folder)
                yield
        finally:
            sys.argv, sys.modules["__main__"] = argv, main
            if folder is not None:
                os.chdir(folder)

    def _empty_folder(self) -> None:
        """Begin a turn in a folder without files: those of the last turn are in no checkpoint."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="member-", dir=scratch_folder()))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
            return
        for entry in self._folder.iterdir():
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()

    @contextlib.contextmanager
    def _files_explained(self) -> Iterator[None]:
        """Say of a file that is not found where the script looked for it.

        Raises:
            TaskError: It looked in the member's own folder.
        """
        try:
            yield
        except (OSError, RuntimeError) as error:
            named = _missing(error)
            if self._folder is None or not named or os.path.isabs(named):
                raise
            raise TaskError(
                f"{self.label}: there is no {named} in the member's own folder, in which its loop "
                "and its evaluation run, and which is empty when a turn begins; open or make it "
                "there, open it before the loop, name it by its whole path, or give "
                "--set keep_folder=true"
            ) from error


def _missing(error: Exception) -> str:
    """The file or folder that is not there; empty where an error is of something else."""
    if isinstance(error, FileNotFoundError) and error.filename:
        return str(error.filename)
    found = _NO_FOLDER.search(str(error))
    return found[1] or found[2] if found else ""


def _run_of(code: Any, module: ModuleType) -> Callable[[], None]:
    """What the greenlet runs of a script. It does not know the greenlet, nor who holds it."""

    def run() -> None:
        exec(code, module.__dict__)

    return run


def _deep(run: Callable[[], Any]) -> Callable[[], None]:
    """What calls `run` from so deep a stack that nobody who walks 64 frames of C leaves it.

    Torch walks them for each error that it raises. Below the bottom of a greenlet's stack are the
    frames of whoever switched to it last, and not those that it began in: the walk would read what
    is no frame, and end the process by SIGSEGV.
    """

    def begin() -> None:
        calls: Iterator[Any] = itertools.starmap(run, [()])
        for _ in range(_LEVELS):
            calls = map(next, [calls])  # Calls of C alone: no line of them is in a traceback.
        next(calls)

    return begin


class _Copy(io.TextIOBase):
    """Passes on what is written, and remembers the end of it."""

    def __init__(self, to: Any) -> None:
        self._to, self._text = to, ""

    def write(self, text: str) -> int:
        self._text = (self._text + text)[-_QUOTED:]
        return int(self._to.write(text))

    def flush(self) -> None:
        self._to.flush()

    def fileno(self) -> int:
        return int(self._to.fileno())

    def isatty(self) -> bool:
        return bool(self._to.isatty())

    def tail(self) -> str:
        """The last line that says something."""
        lines = [line.strip() for line in self._text.splitlines() if line.strip()]
        return lines[-1] if lines else ""
