"""A population on machines of their own, without this project, two of which are away for long.

The machines are network namespaces of this one: `benchmarks/simulated_machines.py` makes them, and
`benchmarks/machines.py` lets more happen to them, with every kind of store.
"""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from patience import until
from servers import Server, check

import pbt_flow
from benchmarks.machines import count_files
from benchmarks.simulated_machines import (
    ROOT,
    CannotSimulate,
    Network,
    check_possible,
    remove_leftovers,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def network():
    pytest.importorskip("ray", reason="ray is not installed")
    try:
        check_possible()
    except CannotSimulate as error:
        pytest.skip(f"no machines can be simulated here: {error}")
    with Network(verdict=8.0) as made:
        yield made


def test_a_machine_has_a_name_and_folders_of_its_own_and_not_this_project(network):
    code = "import os, socket; print(socket.gethostname(), os.getcwd(), os.listdir('.'))"
    with_project, without = network.start_machine(), network.start_machine()
    for machine in (with_project, without):
        (machine.folder / "work" / f"of-{machine.name}").touch()
    for machine in (with_project, without):
        told = machine.run(["-c", code]).stdout.split()
        assert told == [machine.name, f"{network.here}/work", f"['of-{machine.name}']"]
    assert with_project.run(["-c", "import pbt_flow"]).returncode == 0
    assert "No module named 'pbt_flow'" in without.run(["-c", "import pbt_flow"]).stdout
    connect = f"import socket; socket.create_connection(('{without.address}', 9), timeout=1)"
    assert "Connection refused" in with_project.run(["-c", connect]).stdout
    without.cut()
    assert "Connection refused" not in with_project.run(["-c", connect]).stdout


def test_what_a_killed_network_leaves_is_deleted_by_the_next_one(network):
    code = (
        "import time\n"
        "from benchmarks.simulated_machines import Network\n"
        "with Network() as network:\n"
        "    network.start_machine()\n"
        "    print(network.folder, flush=True)\n"
        "    time.sleep(3600)\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    folder = Path(owner.stdout.readline().strip())
    tag = (folder / "tag").read_text()
    remove_leftovers()
    assert folder.is_dir(), "it is not left over: its owner lives"
    owner.kill()
    owner.communicate()

    def names() -> str:
        listed = [["ip", "netns", "list"], ["ip", "-brief", "link"]]
        return "".join(subprocess.run(one, capture_output=True, text=True).stdout for one in listed)

    assert tag in names()
    remove_leftovers()
    assert tag not in names()
    assert not folder.exists()
    assert network.folder.is_dir()


def digests(folder: Path, client: MlflowClient, result: pbt_flow.Result):
    """Of each member the digests of its files behind the server, by their places."""
    parent = client.get_run(result.run_id)
    runs = client.search_runs(
        [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{result.run_id}'"
    )
    found = {}
    for run in runs:
        root = folder / run.info.artifact_uri.partition(":/")[2]
        found[int(run.data.tags["pbt.member"])] = {
            path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in root.rglob("*")
            if path.is_file()
        }
    return found


@pytest.fixture
def server(network, monkeypatch):
    """A server that all machines reach. It alone sees its artifacts."""
    place = ["--artifacts-destination", str(network.folder / "kept")]
    made = Server(network.folder / "server", place, host=network.address)
    made.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", made.uri)
    yield made
    made.kill()


def test_machines_that_were_declared_dead_go_on_and_every_turn_is_there_once(network, server):
    """One is cut off in the middle of a turn, and one is suspended; both come back afterwards."""
    log, said = network.shared / "log", network.folder / "said"
    network.add(0, 1, 1, 1)
    command = network.head.start(
        [
            *("-m", "pbt_flow", "run", "--engine", "ray", "--workers", 3, "--population", 3),
            *("--task", f"{ROOT}/benchmarks/unrepeatable.py:Unrepeatable", "--turns", 8),
            *("--interval", 1, "--set", f"log={log}", "--set", "seconds=1"),
        ],
        said,
        {"MLFLOW_TRACKING_URI": server.uri, "RAY_ADDRESS": network.ray_address},
    )

    def trained_on() -> list[str]:
        assert command.poll() is None, said.read_text()
        return list(dict.fromkeys(log.read_text().split())) if log.exists() else []

    def are_missed() -> bool:
        assert command.poll() is None, said.read_text()
        told = said.read_text()
        return all(f"on {one.name} was taken away" in told for one in (first, second))

    until(lambda: len(trained_on()) >= 2, "no two machines train")
    first, second = (one for one in network.machines if one.name in trained_on()[:2])
    first.cut()
    second.suspend()
    until(are_missed, "nobody misses the machines")
    # Whoever was declared dead is back, and what it has trained meanwhile, or does now, does not
    # count.
    first.mend()
    second.wake()
    assert command.wait(180) == 0, said.read_text()
    result = pbt_flow.load(said.read_text().split("population ")[1].split()[0])
    check(result, 8)
    assert all(turn.ok for turns in result.history.turns.values() for turn in turns)
    kept = digests(network.folder / "kept", MlflowClient(), result)
    dangling, wrong, _, states = count_files(result.history, kept)
    assert (dangling, wrong) == (0, 0)
    assert states >= result.members
