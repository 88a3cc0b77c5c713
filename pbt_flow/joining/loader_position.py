"""The place in a loader at which a member stands, as part of its state.

A turn may end in the middle of an epoch, and the member go on elsewhere or under another's weights.
Therefore the order of an epoch and whatever the loader draws follow from a seed of the epoch, apart
from what the script draws. Whoever takes over the state passes over the batches that were trained.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import Any

from pbt_flow.exceptions import TaskError
from pbt_flow.joining.randomness import OwnRandomness


class LoaderPosition:
    """Gives the batches of a loader, epoch after epoch, from any place on."""

    def __init__(self) -> None:
        self._seed: int | None = None
        """The seed of the epoch under way; None before the first."""
        self._done = 0
        """Batches of this epoch that were given."""
        self._batches: Iterator[Any] | None = None
        """None where the place was taken over and nothing was asked for since."""

    def state(self) -> dict[str, int | None]:
        return {"seed": self._seed, "done": self._done}

    def load(self, state: dict[str, Any]) -> None:
        self._seed, self._done, self._batches = state["seed"], state["done"], None

    def close(self) -> None:
        """Let go of the loader's processes, if it has any."""
        self._batches = None

    def next_batch(self, loader: Iterable[Any]) -> Any:
        """The next batch; where an epoch is over, the first of another one.

        Raises:
            TaskError: There is nothing in the loader.
        """
        if self._seed is None:
            self._begin_epoch()
        batch = self._try_next(loader)
        if batch is _NONE:
            self._begin_epoch()
            batch = self._try_next(loader)
        if batch is _NONE:
            raise TaskError(f"batches(): the {type(loader).__name__} that was given is empty")
        self._done += 1
        return batch

    def _begin_epoch(self) -> None:
        # From the turn's own randomness: of two members with one donor each draws another order.
        self._seed, self._done, self._batches = random.getrandbits(32), 0, None

    def _try_next(self, loader: Iterable[Any]) -> Any:
        if self._batches is None:
            self._batches = self._continue(loader)
        with self._randomness:
            return next(self._batches, _NONE)

    def _continue(self, loader: Iterable[Any]) -> Iterator[Any]:
        """The batches of the epoch under way, without those that were given."""
        assert self._seed is not None
        for generator in generators_of(loader):
            generator.manual_seed(self._seed)
        end_processes(loader)
        self._randomness = OwnRandomness(self._seed)
        with self._randomness:
            batches = iter(loader)
            # Whoever else goes through the loader, as an evaluation does, begins with others.
            end_processes(loader)
            # They are loaded, and not only counted: what a loader draws for one batch may depend on
            # all before it.
            for _ in range(self._done):
                next(batches, _NONE)
        return batches


_NONE = object()


def end_processes(loader: Any) -> None:
    """Let a loader begin with fresh processes when it is gone through next, as a copy has to.

    With `persistent_workers` a loader keeps those of the epoch before. They go on drawing where
    they were, and no checkpoint holds that. A loader without them is left as it is.
    """
    if getattr(loader, "persistent_workers", False):
        loader._iterator = None


def generators_of(loader: Any) -> list[Any]:
    """The generators of its own that a loader draws from; the process' seeds do not reach them."""
    samplers = [getattr(loader, name, None) for name in ("sampler", "batch_sampler")]
    inner = [getattr(sampler, "sampler", None) for sampler in samplers]
    holders = [loader, *samplers, *inner]
    found = [getattr(holder, "generator", None) for holder in holders]
    return [one for one in found if hasattr(one, "manual_seed")]
