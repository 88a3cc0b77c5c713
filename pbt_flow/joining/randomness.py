"""The random numbers that a script shares with its process: Python's, NumPy's and torch's."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from greenlet import getcurrent, greenlet


@dataclass(frozen=True, kw_only=True)
class RandomState:
    """Where the global generators stand: Python's, NumPy's, torch's, and those of its GPUs."""

    python: Any
    numpy: Any
    torch: Any
    gpus: tuple[Any, ...] = ()
    """Empty where the process has not used a GPU yet."""

    @classmethod
    def now(cls) -> RandomState:
        """Where they stand now."""
        import torch

        used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        return cls(
            python=random.getstate(),
            numpy=np.random.get_state(legacy=False),  # noqa: NPY002 - scripts use it
            torch=torch.default_generator.get_state(),
            gpus=tuple(torch.cuda.get_rng_state_all()) if used else (),
        )

    def restore(self) -> None:
        """Let them go on from there."""
        import torch

        random.setstate(self.python)
        np.random.set_state(self.numpy)  # noqa: NPY002 - scripts use it
        torch.default_generator.set_state(self.torch)
        if self.gpus:
            torch.cuda.set_rng_state_all(self.gpus)


def seed_generators(seed: int) -> None:
    """Seed the three global generators, and torch's of each accelerator."""
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - scripts use it
    torch.manual_seed(seed)


@contextlib.contextmanager
def preserved() -> Iterator[None]:
    """The generators go on afterwards as if nothing had been drawn in between."""
    before = RandomState.now()
    try:
        yield
    finally:
        before.restore()


class OwnRandomness:
    """Random numbers that are drawn beside those of the script, from a seed of their own.

    What is drawn inside of `with` neither depends on what the script draws outside, nor changes it.
    """

    def __init__(self, seed: int) -> None:
        with preserved():
            seed_generators(seed)
            self._own = RandomState.now()

    def __enter__(self) -> None:
        self._outside = RandomState.now()
        self._own.restore()

    def __exit__(self, *error: object) -> None:
        self._own = RandomState.now()
        self._outside.restore()


class BuildingGreenlet(greenlet):  # type: ignore[misc]
    """A greenlet in which a script may be running up to its loop.

    While it does, the script's own seeding is replaced by `seed`: a script seeds itself with a
    constant, and all members of a population would begin with the same weights.
    """

    seed: int | None = None
    """What the script's own seeding is mixed with; None where it is left alone."""
    seeded_by: str = ""
    """The first call by which the script has seeded itself, such as `torch.manual_seed(1)`."""


@contextlib.contextmanager
def replaced_seeding() -> Iterator[None]:
    """Let the seeding of a script that is being built come to other seeds for each member.

    A module that the script imports may keep a replaced function for ever. Outside of a building
    script such a function does what the library's does.
    """
    import torch

    places: list[tuple[Any, str, str]] = [
        (random, "seed", "random.seed"),
        (np.random, "seed", "numpy.random.seed"),
        (torch, "manual_seed", "torch.manual_seed"),
        (torch.random, "manual_seed", "torch.manual_seed"),
        (torch.cuda, "manual_seed", "torch.cuda.manual_seed"),
        (torch.cuda, "manual_seed_all", "torch.cuda.manual_seed_all"),
    ]
    before = [getattr(owner, name) for owner, name, _ in places]
    for (owner, name, shown), theirs in zip(places, before, strict=True):
        setattr(owner, name, _mixed(theirs, shown))
    try:
        yield
    finally:
        for (owner, name, _), theirs in zip(places, before, strict=True):
            setattr(owner, name, theirs)


def _mixed(theirs: Callable[..., Any], shown: str) -> Callable[..., Any]:
    """A library's function that seeds, for a script that may be a member's."""

    def seed(*given: Any, **named: Any) -> Any:
        script = getcurrent()
        if not isinstance(script, BuildingGreenlet) or script.seed is None:
            return theirs(*given, **named)
        said = [*map(repr, given), *(f"{name}={value!r}" for name, value in named.items())]
        script.seeded_by = script.seeded_by or f"{shown}({', '.join(said)})"
        # The script's seed counts as well: two different ones stay different.
        digest = hashlib.sha256(f"{script.seed} {said}".encode()).digest()
        return theirs(int.from_bytes(digest[:4], "big"))

    return seed
