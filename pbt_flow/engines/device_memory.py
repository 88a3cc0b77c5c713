"""How much memory of its accelerator a worker may fill with members that wait for their next turn.

A member that stays in memory need not be built and restored for its next turn. How much a task
takes is not known before it has trained, and other workers may share the accelerator. So a worker
keeps what there is room for, by what its tasks have needed until now, and gives way to the turn
that trains where that was too much: memory decides how fast a turn begins, and never its outcome.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

_EXHAUSTED = (
    # The allocators of torch for CPUs and for accelerators, those of CUDA's libraries, and XLA's.
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "alloc_failed",
    "resource_exhausted",
)


class CrowdedOut(Exception):
    """A job has found no memory while other members were there. It has had no effect."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory is exhausted, on an accelerator or on the machine."""
    if isinstance(error, MemoryError):
        return True
    told = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in told for words in _EXHAUSTED)


class Readings(Protocol):
    """What an accelerator and torch's allocator tell of memory, in bytes."""

    def name(self) -> str:
        """That of the accelerator."""
        ...

    def total(self) -> int: ...

    def free(self) -> int:
        """What no process has taken."""
        ...

    def allocated(self) -> int:
        """What tensors of this process take."""
        ...

    def reserved(self) -> int:
        """What this process has taken: tensors, and what the allocator keeps for the next ones."""
        ...

    def peak(self) -> int:
        """The most that tensors have taken since `forget_peak`."""
        ...

    def forget_peak(self) -> None: ...


class CudaReadings:
    """The readings of the GPU that is the worker's own."""

    def __init__(self, device: str) -> None:
        self._device = device

    def name(self) -> str:
        import torch

        return torch.cuda.get_device_name(self._device)

    def total(self) -> int:
        return self._information()[1]

    def free(self) -> int:
        return self._information()[0]

    def _information(self) -> tuple[int, int]:
        import torch

        return torch.cuda.mem_get_info(self._device)

    def allocated(self) -> int:
        import torch

        return torch.cuda.memory_allocated(self._device)

    def reserved(self) -> int:
        import torch

        return torch.cuda.memory_reserved(self._device)

    def peak(self) -> int:
        import torch

        return torch.cuda.max_memory_allocated(self._device)

    def forget_peak(self) -> None:
        import torch

        # There is nothing to forget, and torch refuses it, before the GPU is used first.
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.reset_peak_memory_stats(self._device)


class DeviceMemory:
    """The memory of one worker's accelerator.

    Args:
        readings: What is known of it; None where nothing is, as on a CPU: there is always room.
        sharers: How many workers share the accelerator. Each may fill an equal part of it.
    """

    def __init__(self, readings: Readings | None = None, *, sharers: int = 1) -> None:
        self._readings = readings
        self._sharers = sharers
        self._need = 0
        """The most bytes that a job has taken: its model, and what training takes beside it."""

    @classmethod
    def of(cls, device: str, *, sharers: int = 1) -> DeviceMemory:
        """That of a device, as torch names it."""
        readings = CudaReadings(device) if device.startswith("cuda") else None
        return cls(readings, sharers=sharers)

    def place(self) -> str:
        """Where the worker trains and who else does there, as a sentence; empty on a CPU."""
        if self._readings is None:
            return ""
        size = f"{self._readings.name()} ({self._readings.total() / 2**30:.0f} GiB)"
        alone = "each worker has a GPU to itself" if self._sharers == 1 else ""
        return f"{alone or f'up to {self._sharers} workers share a GPU'}; the first: {size}"

    @contextmanager
    def watched(self, own_part: float) -> Iterator[None]:
        """Learn what a job needs.

        Args:
            own_part: The part of what is in memory before it that belongs to the job.
        """
        if self._readings is None:
            yield
            return
        before = self._readings.allocated()
        self._readings.forget_peak()
        try:
            yield
        finally:
            others = before - int(own_part * before)
            self._need = max(self._need, self._readings.peak() - others)

    def has_room(self) -> bool:
        """Whether one more member can be built and trained beside those that are there."""
        readings = self._readings
        if readings is None or not self._need:
            return True
        allocated = readings.allocated()
        in_reach = readings.free() + readings.reserved() - allocated
        own_part = readings.total() // self._sharers - allocated
        return min(in_reach, own_part) >= self._need

    def give_back(self) -> None:
        """Free what nobody uses any more, for this worker and for those beside it."""
        # A task in a reference cycle would keep its memory until some later collection.
        gc.collect()
        if self._readings is not None:
            import torch

            torch.cuda.empty_cache()
