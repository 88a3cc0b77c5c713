"""Which machine this process runs on, as far as its files are concerned."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine, or a container on one. Two processes on equal machines see the same files."""

    host: str
    """Its name, for people."""
    boot: str = ""
    """The id of its last boot, since two machines may have one name; empty where none is told."""
    mounts: str = ""
    """The mount namespace, since containers on one machine may have its name and not its files;
    empty where none is told."""


def this_machine() -> Machine:
    """The machine that this process runs on."""
    boot = mounts = ""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        mounts = os.readlink("/proc/self/ns/mnt")
    except OSError:
        # Only Linux tells them. A machine of another kind goes by its name.
        pass
    return Machine(host=platform.node(), boot=boot, mounts=mounts)
