"""Machines that are simulated on this one, with a Ray cluster on them and servers beside them.

A machine is a network namespace with a cable to a bridge. It has its own host name, processes,
shared memory, temporary folder, home folder and Ray folder: the same paths mean other files on each
machine. Machines that train do not have this project. The servers that all of them reach (MLflow,
PostgreSQL, S3) listen at this machine's end of the bridge.

It takes root, or the same rights, on Linux with iproute2 and util-linux.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from benchmarks.process_tree import children

ROOT = Path(__file__).resolve().parents[1]
_PREFIX = "pbtm"
"""What the names of folders, namespaces, bridges and cables begin with. A name of a network device
has at most 15 characters."""
_MARK = "PBT_SIMULATED_MACHINES"
"""A variable of every process of a network, by which they are found when its owner was killed."""
_PORT = 6379
_OBJECT_STORE = 80_000_000
"""Bytes of a machine's object store: the least that Ray takes is 75 MiB."""
_STARTS = 4
"""How often Ray is started before it is given up. It gives its own processes 30 seconds, which is
too little where the cores have other work, and has no setting for it."""
_FIRST_PROCESS = """
set -e
mount -t tmpfs -o size=512m shm /dev/shm
mount --bind "$1" "$2"
hostname "$3"
if [ -n "$4" ]; then mount -t tmpfs -o ro,size=4k hidden "$4"; fi
touch "$2/ready"
# It waits for ever, and for every process whose parent has ended.
while :; do sleep 3600 & wait $! || :; done
"""


class CannotSimulate(Exception):
    """Machines cannot be simulated here; the message says why."""


def check_possible() -> None:
    """Refuse a machine on which others cannot be simulated.

    Raises:
        CannotSimulate: The message says what is missing.
    """
    if sys.platform != "linux":
        raise CannotSimulate("machines are simulated by Linux namespaces")
    for program in ("ip", "unshare", "nsenter", "setpriv", "mount"):
        if shutil.which(program) is None:
            raise CannotSimulate(f"there is no program {program} (Debian: iproute2, util-linux)")
    if os.geteuid() != 0:
        raise CannotSimulate("only root may make network namespaces")
    if Path(sys.prefix).is_relative_to(ROOT):
        raise CannotSimulate(f"Python is in {sys.prefix}, and the project is hidden on machines")
    name = f"{_PREFIX}-try-{os.getpid()}"
    try:
        _run("ip", "netns", "add", name)
        try:
            _run("ip", "link", "add", f"{_PREFIX}try", "type", "bridge")
            _run("ip", "link", "del", f"{_PREFIX}try")
            _run("ip", "netns", "exec", name, "unshare", "-m", "-u", "-i", "-p", "-f", "true")
        finally:
            _run("ip", "netns", "del", name)
    except CannotSimulate as error:
        raise CannotSimulate(f"the system refuses namespaces ({error})") from None


class Network:
    """Machines that reach each other and this one, until the block ends.

    A run that was killed leaves no process, but names and folders; the next one deletes them.

    Args:
        verdict: Seconds after which Ray declares a machine dead that does not answer. By Ray's
            own setting that takes about a minute.
    """

    def __init__(self, *, verdict: float = 20.0) -> None:
        check_possible()
        remove_leftovers()
        self.verdict = verdict
        self.folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}-", dir="/tmp"))
        # The servers are processes of other users, and their folders lie elsewhere.
        self.folder.chmod(0o755)
        self.tag = self.folder.name.removeprefix(f"{_PREFIX}-")[:6].replace("_", "0")
        self._lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        (self.folder / "tag").write_text(self.tag)
        self.here = self.folder / "here"
        """The folder that each machine has for itself; on this machine it is empty."""
        self.shared = self.folder / "shared"
        """The folder that all machines see."""
        self.here.mkdir()
        self.shared.mkdir()
        self.machines: list[Machine] = []
        self._made = 0
        self._subnet = _free_subnet()
        self._bridge = f"{_PREFIX}{self.tag}"
        self._mark_before = os.environ.get(_MARK)
        # Whatever this process starts from now on is of this network, its servers included.
        os.environ[_MARK] = self.tag
        try:
            _run("ip", "link", "add", self._bridge, "type", "bridge", "forward_delay", "0")
            _run("ip", "addr", "add", f"{self.address}/24", "dev", self._bridge)
            _run("ip", "link", "set", self._bridge, "up")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def address(self) -> str:
        """The address of this machine, which has the servers."""
        return f"{self._subnet}.1"

    @property
    def head(self) -> Machine:
        """The machine with the head of the Ray cluster, on which commands are run."""
        return self.machines[0]

    @property
    def ray_address(self) -> str:
        return f"{self.head.address}:{_PORT}"

    def add(self, *cpus: int) -> list[Machine]:
        """Start machines with so many CPUs each, and Ray on them.

        The first machine of a network is the head, and has the project.
        """
        made = [self.start_machine() for _ in cpus]
        if made[0] is self.head:
            made[0].start_ray(cpus[0])
        others = [(one, n) for one, n in zip(made, cpus, strict=True) if one is not self.head]
        with ThreadPoolExecutor(max(1, len(others))) as threads:
            list(threads.map(lambda pair: pair[0].start_ray(pair[1]), others))
        return made

    def start_machine(self) -> Machine:
        """Start a machine without Ray.

        It ends with the thread that has called this, whatever ends that.
        """
        self._made += 1
        is_head = not self.machines
        name = "head" if is_head else f"node{self._made - 1}"
        address = f"{self._subnet}.{self._made + 1}"
        machine = Machine(self, name, address, self._made, has_project=is_head)
        self.machines.append(machine)
        if not is_head and machine.run(["-c", "import pbt_flow"]).returncode == 0:
            raise CannotSimulate("pbt_flow is installed: it cannot be hidden from machines")
        return machine

    def close(self) -> None:
        """End all processes of the network, and delete what it has made."""
        _remove(self.folder)
        os.close(self._lock)
        if self._mark_before is None:
            os.environ.pop(_MARK, None)
        else:
            os.environ[_MARK] = self._mark_before


class Machine:
    """One simulated machine."""

    def __init__(
        self, network: Network, name: str, address: str, number: int, *, has_project: bool
    ) -> None:
        self.network, self.name, self.address = network, name, address
        self._namespace = f"{_PREFIX}-{network.tag}-{name}"
        self._cable = f"{_PREFIX}{network.tag}{number}"
        self.has_project = has_project
        self.cpus = 0
        self.folder = network.folder / name
        for inner in ("tmp", "home", "ray", "work"):
            (self.folder / inner).mkdir(parents=True)
        _run("ip", "netns", "add", self._namespace)
        other_end = ("peer", "name", "eth0", "netns", self._namespace)
        _run("ip", "link", "add", self._cable, "type", "veth", *other_end)
        _run("ip", "link", "set", self._cable, "master", f"{_PREFIX}{network.tag}", "up")
        for words in (
            ("addr", "add", f"{address}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
            ("link", "set", "lo", "up"),
        ):
            _run("ip", "-n", self._namespace, *words)
        hidden = "" if has_project else str(ROOT)
        # A machine ends with whoever has started it, whatever ends that.
        outer = ["setpriv", "--pdeathsig", "KILL", "ip", "netns", "exec", self._namespace]
        spaces = ["--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"]
        first = ["sh", "-c", _FIRST_PROCESS, "sh", self.folder, network.here, name, hidden]
        self._outer = subprocess.Popen(
            [*outer, "unshare", *spaces, *first],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=(self.folder / "log").open("w"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        wait_until((self.folder / "ready").exists, 20, f"machine {name} does not start")

    @property
    def environment(self) -> dict[str, str]:
        """The variables of each process on the machine."""
        here = self.network.here
        own = {
            "PATH": os.environ["PATH"],
            _MARK: self.network.tag,
            "HOME": f"{here}/home",
            "TMPDIR": f"{here}/tmp",
            "LC_ALL": "C.UTF-8",
            "OMP_NUM_THREADS": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
            # Otherwise each machine would start as many idle workers as it has CPUs.
            "RAY_enable_worker_prestart": "0",
            "RAY_prestart_worker_first_driver": "0",
        }
        return {**own, "PYTHONPATH": str(ROOT)} if self.has_project else own

    @property
    def is_up(self) -> bool:
        return self._outer.poll() is None

    def start_ray(self, cpus: int) -> None:
        """Start Ray on the machine, as part of the network's cluster."""
        self.cpus = cpus
        address = ["--node-ip-address", self.address, "--num-cpus", str(cpus)]
        if self is self.network.head:
            # Four questions without an answer, each given up after two periods, one period apart.
            period = int(1000 * self.network.verdict / 11)
            settings = (
                f'{{"health_check_period_ms": {period}, "health_check_timeout_ms": {2 * period}, '
                f'"health_check_failure_threshold": 4, "health_check_initial_delay_ms": 0}}'
            )
            role = ["--head", "--port", str(_PORT), "--include-dashboard", "false"]
            role += ["--temp-dir", f"{self.network.here}/ray", "--system-config", settings]
        else:
            role = ["--address", self.network.ray_address]
        size = ["--object-store-memory", str(_OBJECT_STORE)]
        for _ in range(_STARTS):
            done = self.run(["-m", "ray.scripts.scripts", "start", *role, *address, *size])
            if done.returncode == 0:
                return
            self.end_ray()
        raise CannotSimulate(f"Ray does not start on {self.name}: {done.stdout[-2000:]}")

    @property
    def has_ray(self) -> bool:
        """Whether Ray's own process lives on the machine."""
        return any(_name_of(pid) == "raylet" for pid in self.processes())

    def end_ray(self) -> None:
        """End whatever is left of Ray on the machine, and what it has started."""
        (first,) = children(self._outer.pid)
        for pid in self.processes():
            if pid != first:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    # --- commands on the machine ---

    def start(
        self, arguments: Sequence[object], output: Path, more: Mapping[str, str] | None = None
    ) -> Command:
        """Start Python with some arguments on the machine, in its working folder."""
        with output.open("a") as file:
            return Command(self._start(arguments, file, more))

    def run(
        self, arguments: Sequence[object], more: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run Python with some arguments on the machine to its end."""
        # A file, since what a command leaves behind would keep a pipe open.
        with tempfile.TemporaryFile("w+") as file:
            process = self._start(arguments, file, more)
            code = process.wait()
            file.seek(0)
            return subprocess.CompletedProcess(process.args, code, file.read(), "")

    def _start(
        self, arguments: Sequence[object], output: IO[str], more: Mapping[str, str] | None
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._entered([sys.executable, *map(str, arguments)]),
            env={**self.environment, **(more or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )

    def _entered(self, command: Sequence[str]) -> list[str]:
        (first,) = children(self._outer.pid)
        spaces = ["--mount", "--uts", "--ipc", "--net", "--pid"]
        work = f"--wdns={self.network.here}/work"
        return ["nsenter", "--target", str(first), *spaces, work, "--", *command]

    def processes(self) -> list[int]:
        """The processes of the machine, by their numbers on this one."""
        listed = _run("ip", "netns", "pids", self._namespace)
        # The outer one only holds the others.
        return [int(pid) for pid in listed.split() if int(pid) != self._outer.pid]

    # --- what happens to machines ---

    def kill(self) -> None:
        """End all of its processes at once, as if the power had failed."""
        self._outer.kill()
        self._outer.wait()
        wait_until(lambda: not self.processes(), 20, f"machine {self.name} does not end")

    def cut(self) -> None:
        """Pull the cable out."""
        _run("ip", "link", "set", self._cable, "down")

    def mend(self) -> None:
        """Put the cable in again."""
        _run("ip", "link", "set", self._cable, "up")

    def suspend(self) -> None:
        """Stop all of its processes, as of a virtual machine that is suspended."""
        # Whatever was started meanwhile is stopped in the next round.
        for _ in range(3):
            self._signal(signal.SIGSTOP)

    def wake(self) -> None:
        """Let all of its processes go on."""
        self._signal(signal.SIGCONT)

    def lose_sight_of(self, other: Machine) -> None:
        """Let nothing that this machine sends reach another one."""
        _run("ip", "-n", self._namespace, "route", "add", "blackhole", f"{other.address}/32")

    def see(self, other: Machine) -> None:
        """Undo `lose_sight_of`."""
        _run("ip", "-n", self._namespace, "route", "del", "blackhole", f"{other.address}/32")

    def _signal(self, number: int) -> None:
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


class Command:
    """A command that runs on a machine."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def poll(self) -> int | None:
        """How it has ended; None if it runs. Of one that was killed it is minus the signal."""
        return self._process.poll()

    def wait(self, timeout: float) -> int:
        return self._process.wait(timeout)

    def send_signal(self, number: int) -> None:
        """Send a signal to the command itself, and not to what has entered the machine for it."""
        for pid in children(self._process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def wait_until(condition: Callable[[], bool], seconds: float, otherwise: str) -> None:
    """Wait for something that other processes do.

    Raises:
        CannotSimulate: It has not happened in time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise CannotSimulate(otherwise)
        time.sleep(0.05)


def remove_leftovers() -> None:
    """Delete what networks have left whose owners were killed."""
    for folder in Path("/tmp").glob(f"{_PREFIX}-*"):
        with contextlib.suppress(OSError):
            lock = os.open(folder / "lock", os.O_RDWR)
            try:
                # Its owner holds the lock for as long as it lives.
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(folder)
            finally:
                os.close(lock)


def _remove(folder: Path) -> None:
    """End the processes of a network, and delete its names and folders."""
    tag = (folder / "tag").read_text()
    deadline = time.monotonic() + 20
    while (found := list(_marked(tag))) and time.monotonic() < deadline:
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    for line in _run("ip", "netns", "list").splitlines():
        if line.startswith(f"{_PREFIX}-{tag}-"):
            # The cable goes with it.
            _run("ip", "netns", "del", line.split()[0])
    with contextlib.suppress(CannotSimulate):
        _run("ip", "link", "del", f"{_PREFIX}{tag}")
    shutil.rmtree(folder, ignore_errors=True)


def _marked(tag: str) -> Iterator[int]:
    """The processes of a network. This process was there before it, and is none of them."""
    mark = f"{_MARK}={tag}".encode()
    for place in Path("/proc").iterdir():
        if place.name.isdecimal() and int(place.name) != os.getpid():
            with contextlib.suppress(OSError):
                # A process that has ended and was not waited for has no environment any more.
                if mark in (place / "environ").read_bytes().split(b"\0"):
                    yield int(place.name)


def _name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _free_subnet() -> str:
    """The first three numbers of addresses that no device of this machine has."""
    taken = _run("ip", "-brief", "address")
    return next(net for number in range(64, 255) if (net := f"10.77.{number}") not in taken)


def _run(*command: str) -> str:
    """Run a command, and return what it has printed.

    Raises:
        CannotSimulate: It has failed.
    """
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        told = " ".join((done.stderr or done.stdout).split())
        raise CannotSimulate(f"{' '.join(command)}: {told}")
    return done.stdout
