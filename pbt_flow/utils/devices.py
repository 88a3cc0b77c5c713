"""Which accelerators this machine has for workers, and which of them a worker is to use."""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping

from pbt_flow.utils.cores import count_cores
from pbt_flow.utils.reasons import reason_of

_VISIBLE = "CUDA_VISIBLE_DEVICES"
"""The variable by which CUDA, and ROCm as well, leave a process some of the machine's GPUs. It is
read once, when the process uses a GPU for the first time."""


def count_devices(device: str, environ: Mapping[str, str] = os.environ) -> int:
    """How many accelerators a device's name stands for on this machine; 0 if there are none.

    Args:
        device: As torch names it. With a number, as in `cuda:1`, it is one accelerator; without, it
            stands for all that this process may use.
        environ: The environment of this process.
    """
    kind, _, number = device.partition(":")
    if number or kind == "cpu":
        return 1
    if kind == "cuda" and _VISIBLE in environ:
        # Schedulers set it. It spares the controller an import of torch.
        return len(visible_devices(environ[_VISIBLE]))
    import torch

    try:
        found: int = torch.get_device_module(kind).device_count()
    # A kind that torch does not know, or a build that has nothing of it.
    except (RuntimeError, AttributeError, AssertionError):
        return 0
    return found


def visible_devices(variable: str) -> list[str]:
    """The GPUs that `CUDA_VISIBLE_DEVICES` names, as numbers or as identifiers.

    >>> visible_devices("2,GPU-8932f937,-1,0")
    ['2', 'GPU-8932f937']
    """
    names = list[str]()
    for name in variable.split(","):
        # CUDA sees none from the first entry on that is no GPU.
        if name.strip() in ("", "-1", "NoDevFiles") or name.strip() in names:
            break
        names.append(name.strip())
    return names


def take_device(device: str, index: int, environ: MutableMapping[str, str] = os.environ) -> str:
    """Choose the accelerator of a worker, and return its name in the worker's process.

    Of several GPUs a worker sees its own alone, under the name `cuda`: code that says no more than
    that, as most scripts and libraries do, is then on the right one, and cannot take memory of
    another. Workers take the GPUs in turn, so that more workers than GPUs share them evenly.

    Call it before the process uses a GPU.

    Args:
        device: What was asked for, as torch names it.
        index: The number of the worker among all workers of its machine.
        environ: The environment of this process, which is changed.
    """
    kind, _, number = device.partition(":")
    if kind == "cpu" or not (number.isdecimal() or not number):
        return device
    import torch

    count = count_devices(kind, {})
    chosen = int(number) if number else index % max(1, count)
    if chosen >= count:
        # There is none; torch's own words say so when the first model is built.
        return device
    if kind == "cuda" and not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        names = visible_devices(environ.get(_VISIBLE, ",".join(map(str, range(count)))))
        before = environ.get(_VISIBLE)
        environ[_VISIBLE] = names[chosen]
        if count_devices(kind, {}) == 1:
            return kind
        # The driver was asked before, by a task that was imported: it does not look again.
        if before is None:
            del environ[_VISIBLE]
        else:
            environ[_VISIBLE] = before
    return f"{kind}:{chosen}"


def device_error(device: str) -> str:
    """Why a device cannot be used by this process, as a sentence; empty if it can.

    A task that puts nothing there would train on the CPU, and nobody would be told. And after some
    errors, an access outside of a tensor for one, CUDA refuses everything in the same process.
    """
    if device == "cpu":
        return ""
    import torch

    try:
        torch.device(device)
    except RuntimeError:
        kinds = [kind for kind in ("cuda", "mps", "xpu") if count_devices(kind, {})]
        there = f"there are cpu, {', '.join(kinds)}" if kinds else "there is cpu"
        return (
            f"the device {device} cannot be used here: torch knows none of that name, and calls a "
            f"GPU cuda, mps or xpu; here {there}"
        )
    try:
        # What is copied back has been waited for, so that errors of earlier work come out here.
        torch.zeros(1, device=device).cpu()
    # torch raises RuntimeError, AssertionError or NotImplementedError, as the build has it.
    except Exception as error:
        told = reason_of(error, with_module=False)
        return f"the device {device} cannot be used here ({told}); give another, such as cpu"
    return ""


def usable_device(device: str) -> str:
    """A device, or the CPU where this process cannot use it: a model can be looked at anywhere."""
    return "cpu" if device_error(device) else device


def usual_workers(device: object) -> int:
    """How many workers there are if nobody says: one a core, or one an accelerator.

    A core feeds an accelerator, and a second worker there shares its memory: that is left to the
    user, who knows how much a model takes.

    Args:
        device: What was given as the device, unchecked.
    """
    if not isinstance(device, str) or device == "cpu" or not device:
        return count_cores()
    return max(1, count_devices(device))
