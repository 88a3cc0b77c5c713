"""A look at a Ray cluster every few seconds, by a thread of its own: which machines are alive?

Ray asks the head of the cluster. While that does not answer, the question holds up whoever has
asked, and after a minute Ray ends the process, without an exception. So the engine lets a thread
ask, and finds out by the silence.

Ray's own process on this machine, the raylet, may die as well. Ray ends whoever talks to it then.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import socket
import sys
import threading
import time
from typing import Any

_LOOK_EVERY = 2.0
"""Seconds between two looks."""
_FRESH_WITHIN = 5.0
"""Seconds for which an answer is waited for that somebody needs now."""
_RAYS_PATIENCE = "RAY_gcs_rpc_server_reconnect_timeout_s"
"""Ray's own setting: seconds without the head after which Ray ends this process."""


def outlive_the_head() -> None:
    """Let this process decide itself what becomes of it when the head is silent.

    Ray reads the setting once, when it attaches to a cluster. What a user has set is left alone.
    """
    os.environ.setdefault(_RAYS_PATIENCE, "3600")


class ClusterWatch:
    """Knows which nodes of a cluster are alive, and since when the head has been silent.

    Args:
        ray: Ray, whose driver is attached to the cluster.
    """

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._own = ray.get_runtime_context().get_node_id()
        self._raylet = _connected_to_raylet(ray)
        self._changed = threading.Condition()
        self._answers = 0
        self._alive = self._ask()
        self._heard = time.monotonic()
        self._wanted, self._asking, self._ended = False, False, False
        threading.Thread(target=self._ask_again_and_again, daemon=True).start()

    @property
    def alive(self) -> set[str]:
        """The nodes that were alive at the last answer, by Ray's ids."""
        with self._changed:
            return self._alive

    @property
    def silent_for(self) -> float:
        """Seconds since the head has answered last."""
        with self._changed:
            return time.monotonic() - self._heard

    @property
    def has_lost_this_machine(self) -> bool:
        """Whether Ray has ended on the machine of this process, or was declared dead."""
        with self._changed:
            return self._own not in self._alive or self._raylet_has_ended()

    def _raylet_has_ended(self) -> bool:
        if self._raylet is None:
            return False
        try:
            # Nothing ever comes but the end.
            return self._raylet.recv(1) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def is_alive(self, node: str) -> bool:
        """Whether a node is alive, by an answer to a question that is asked now.

        Where none comes, the last one counts.
        """
        with self._changed:
            # A question that is under way may have been asked before the node died.
            enough = self._answers + (2 if self._asking else 1)
            self._wanted = True
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: self._answers >= enough or self._ended, timeout=_FRESH_WITHIN
            )
            return node in self._alive

    def _ask_again_and_again(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted or self._ended, timeout=_LOOK_EVERY)
                if self._ended:
                    return
                self._wanted, self._asking = False, True
            alive = None
            try:
                alive = self._ask()
            except Exception:
                # Such as an answer that did not come in time. The silence goes on.
                time.sleep(_LOOK_EVERY)
            with self._changed:
                self._asking = False
                if alive is not None:
                    self._answers += 1
                    self._alive, self._heard = alive, time.monotonic()
                self._changed.notify_all()

    def _ask(self) -> set[str]:
        return {node["NodeID"] for node in self._ray.nodes() if node["Alive"]}

    def close(self) -> None:
        """Ask no more. A question that is under way is not waited for."""
        with self._changed:
            self._ended = True
            if self._raylet is not None:
                self._raylet.close()
                self._raylet = None
            self._changed.notify_all()


def _connected_to_raylet(ray: Any) -> socket.socket | None:
    """A connection to Ray's own process on this machine, which ends with it.

    The head learns of its death later, when this process may have been ended for it. None where Ray
    does not say how its process is reached.
    """
    with contextlib.suppress(AttributeError, OSError):
        made = socket.socket(socket.AF_UNIX)
        made.connect(ray._private.worker._global_node.raylet_socket_name)
        made.setblocking(False)
        return made
    return None


def flush_before_rays_end() -> None:
    """Write out what was printed before Ray's own hook runs at the end of this process.

    Where Ray has ended on this machine, that hook ends the process at once, with exit code 1.
    """
    for stream in (sys.stdout, sys.stderr):
        # Hooks run in the reverse of their order, and Ray's was made when it was imported.
        atexit.register(stream.flush)
