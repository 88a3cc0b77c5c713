"""The way to a Ray cluster: a driver attaches, or says in one line why it cannot."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pbt_flow.engines.ray_watch import outlive_the_head
from pbt_flow.exceptions import EngineError

_SETTINGS = 4
"""The type of the frame with which each side of HTTP/2 begins (RFC 9113, section 6.5)."""
_FRAME_HEAD = 9
"""The bytes of a frame's head. The fourth is the frame's type."""
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, _SETTINGS, 0, 0, 0, 0, 0])
"""What a client of HTTP/2 says first: the preface, and no settings of its own."""
_REACHES = 5.0
"""Seconds within which the machine of a cluster must answer."""
_OWN = "local"
"""Ray's word for a cluster of one's own, on this machine."""
_TOKEN = (
    "set RAY_AUTH_MODE and RAY_AUTH_TOKEN_PATH as they are on the head "
    "(ray get-auth-token shows a token)"
)


def import_ray() -> Any:
    """Ray.

    Raises:
        EngineError: It is not installed.
    """
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        if error.name not in ("ray", None):
            raise EngineError(f"ray cannot be imported: {error}") from None
        raise EngineError(
            'engine ray needs the package ray, which is not installed; pip install "ray>=2.51"'
        ) from None


def attach(runtime_environment: Mapping[str, Any], *, cpus: int, gpus: float = 0.0) -> Path | None:
    """Attach this process to the cluster that RAY_ADDRESS names, or to one of its own.

    Args:
        runtime_environment: What Ray is to ship.
        cpus: The CPUs of a cluster of one's own, so that all workers find a place in it. A cluster
            that exists knows what it has.
        gpus: The GPUs of a worker, or its share of one. A cluster of one's own never gets more.

    Returns:
        The folder that Ray keeps for a cluster of one's own; None for a cluster that exists.

    Raises:
        EngineError: There is no cluster at the address, or it refuses this process; or no worker
            would ever find a place.
    """
    ray = import_ray()
    if ray.is_initialized():
        raise EngineError(
            "this process is attached to a Ray cluster already; call ray.shutdown() first, and "
            "name the cluster by RAY_ADDRESS"
        )
    address = os.environ.get("RAY_ADDRESS") or _OWN
    outlive_the_head()
    own: dict[str, Any] = {}
    if address == _OWN:
        # A user of one machine has not asked to tell anybody that they use Ray.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        own = {"num_cpus": cpus, "include_dashboard": False}
    else:
        _check_reached(address)
    _silence(ray)
    with _standard_error_held() as printed:
        try:
            context = ray.init(
                address=address,
                runtime_env=dict(runtime_environment),
                log_to_driver=False,
                logging_level=logging.ERROR,
                **own,
            )
        # Ray ends the process with SystemExit where a cluster does not answer any more.
        except (Exception, SystemExit) as error:
            reason = _reason(ray, error, address, printed())
            with contextlib.suppress(Exception):
                ray.shutdown()
            raise EngineError(reason) from None
    session = Path(context.address_info["session_dir"]) if own else None
    if session is not None and gpus > ray.cluster_resources().get("GPU", 0.0):
        ray.shutdown()
        delete_session(session)
        raise EngineError(
            f"a worker is to have {gpus:g} of a GPU, and Ray finds too few on this machine; give "
            "device cpu, or RAY_ADDRESS the address of a cluster that has some"
        )
    return session


def delete_session(folder: Path) -> None:
    """Delete what a cluster of one's own has left on the disk once it has ended.

    Ray keeps the folder of each session for ever: logs, and all the code that was shipped.

    Args:
        folder: The session's folder, as `attach` has returned it.
    """
    shutil.rmtree(folder, ignore_errors=True)
    latest = folder.parent / "session_latest"
    with contextlib.suppress(OSError):
        if latest.is_symlink() and not latest.exists():
            latest.unlink()


def detach(ray: Any, actors: Iterable[Any]) -> None:
    """End some actors, and detach this process from its cluster, which may not answer any more."""
    for actor in actors:
        with contextlib.suppress(Exception):
            ray.kill(actor, no_restart=True)
    ray.shutdown()


def _check_reached(address: str) -> None:
    """Refuse an address where no Ray is: Ray would try for a minute or longer, and then exit.

    Raises:
        EngineError: Nobody answers there, or somebody else.
    """
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not colon or not port.isdecimal():
        # Such as `auto`, which Ray finds out.
        return
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_REACHES) as there:
            speaks_other = _speaks_other(there)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise EngineError(
            f"no Ray cluster answers at {address} ({reason}); start one there with: ray start "
            "--head, or give RAY_ADDRESS the address of one"
        ) from None
    if speaks_other:
        raise EngineError(
            f"what answers at {address} is no Ray cluster, such as a web or an MLflow server; give "
            "RAY_ADDRESS the address that ray start --head has printed, mostly with port 6379"
        )


def _speaks_other(there: socket.socket) -> bool:
    """Whether an answer is no HTTP/2, which a Ray head speaks; no answer in time says nothing."""
    with contextlib.suppress(OSError):
        there.sendall(_HELLO)
        answer = there.recv(_FRAME_HEAD)
        return len(answer) == _FRAME_HEAD and answer[3] != _SETTINGS
    return False


def _silence(ray: Any) -> None:
    """Keep Ray from printing to standard output, which is for a command's result.

    Of every worker that dies the raylet sends a page to all drivers. The engine says it in one
    line. Ray has no public switch for it.
    """
    ray._private.worker._worker_logs_enabled = False


def _reason(ray: Any, error: BaseException, address: str, printed: str) -> str:
    """Why this process cannot attach, in a sentence."""
    where = "a Ray cluster of one's own" if address == _OWN else f"the Ray cluster at {address}"
    refused = getattr(ray.exceptions, "AuthenticationError", ())
    if isinstance(error, refused) or "Unauthenticated" in printed:
        return f"{where} refuses the token of this process; {_TOKEN}"
    told = str(error)
    if "exceeds the maximum size" in told:
        size = told.partition("Package size (")[2].partition(")")[0]
        return (
            f"the task's folder is too large to be sent to the workers ({size}); name what they do "
            "not need in its .gitignore"
        )
    if "ray client connection timeout" in told:
        # A head that wants a token leaves Ray Client without an answer, whatever token it has.
        return (
            f"{where} does not answer Ray Client; where it wants a token (RAY_AUTH_MODE), run the "
            "command on a machine of the cluster"
        )
    first = " ".join(told.split()).partition(". ")[0]
    if isinstance(error, SystemExit):
        first = "it does not answer"
    return f"cannot attach to {where}: {first}"


@contextlib.contextmanager
def _standard_error_held() -> Iterator[Callable[[], str]]:
    """Hold back what is printed as an error in the block, also by parts that are not Python.

    Yields:
        A function that returns what was printed.
    """
    with tempfile.TemporaryFile() as file:
        before = os.dup(2)
        os.dup2(file.fileno(), 2)

        def read() -> str:
            file.seek(0)
            return file.read().decode(errors="replace")

        try:
            yield read
        finally:
            os.dup2(before, 2)
            os.close(before)


def free_share(ray: Any, *, cpus: float, gpus: float) -> str:
    """Why the cluster has no place for one more worker, in a sentence without a subject.

    Args:
        ray: Ray, whose driver is attached.
        cpus: The CPUs of a worker.
        gpus: The GPUs of a worker, or its share of one.
    """
    there, free = ray.cluster_resources(), ray.available_resources()
    for kind, wanted in (("GPU", gpus), ("CPU", cpus)):
        if wanted and there.get(kind, 0.0) == 0.0:
            return f"the cluster has no {kind}"
        if free.get(kind, 0.0) < wanted:
            return f"the cluster has no free {kind}"
    return "they are being started, or no machine alone has room for one"
