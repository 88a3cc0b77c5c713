"""Whoever cannot use a cluster is told why in a line, and soon."""

import http.server
import os
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from patience import PATIENCE

from pbt_flow.engines.ray import RayEngine, _Queued, _Seat, _told
from pbt_flow.engines.ray_actor import Place
from pbt_flow.engines.ray_cluster import _reason, attach
from pbt_flow.exceptions import EngineError
from pbt_flow.population.records import Checkpoint, Plan


def test_a_missing_ray_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EngineError, match=r'pip install "ray>=2\.51"'):
        RayEngine()


def test_the_package_and_its_engines_do_not_import_ray():
    code = "import sys, pbt_flow, pbt_flow.engines.ray, pbt_flow.cli; print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def one_line(error):
    text = str(error.value)
    assert "\n" not in text
    return text


def closed_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.mark.parametrize("address", ["127.0.0.1:{}", "ray://127.0.0.1:{}", "localhost:{}"])
def test_an_address_where_nobody_answers_is_refused_at_once(monkeypatch, address):
    pytest.importorskip("ray")
    address = address.format(closed_port())
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(EngineError) as refused:
        attach({}, cpus=1)
    assert f"no Ray cluster answers at {address} (Connection refused)" in one_line(refused)
    assert "ray start --head" in str(refused.value)


def test_an_address_where_another_server_answers_is_refused_at_once(monkeypatch):
    pytest.importorskip("ray")
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), http.server.BaseHTTPRequestHandler
    ) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{web.server_port}")
        with pytest.raises(EngineError) as refused:
            attach({}, cpus=1)
        web.shutdown()
    assert f"what answers at 127.0.0.1:{web.server_port} is no Ray cluster" in one_line(refused)


def test_an_address_that_ray_cannot_read_is_told_in_rays_words(monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", "nowhere")
    with pytest.raises(EngineError) as refused:
        attach({}, cpus=1)
    assert "cannot attach to the Ray cluster at nowhere: " in one_line(refused)


def test_a_cluster_that_does_not_let_rays_client_in_is_told_with_the_way_in():
    """Ray Client is no package of these tests; what it raises there is written down."""
    ray = pytest.importorskip("ray")
    error = ConnectionError("ray client connection timeout")
    told = _reason(ray, error, "ray://10.0.0.1:10001", "")
    assert "ray://10.0.0.1:10001 does not answer Ray Client" in told
    assert "RAY_AUTH_MODE" in told
    assert "a machine of the cluster" in told


@pytest.mark.slow
def test_a_token_that_is_not_there_is_told_with_what_to_set(monkeypatch, tmp_path):
    pytest.importorskip("ray")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
        # Ray reads the variables once in a process.
        code = (
            "from pbt_flow.engines.ray_cluster import attach\n"
            "try: attach({}, cpus=1)\n"
            "except Exception as error: print(type(error).__name__, error)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
        )
    assert done.stdout.startswith("EngineError the Ray cluster at 127.0.0.1")
    assert "refuses the token of this process; set RAY_AUTH_MODE and" in done.stdout
    assert done.stdout.count("\n") == 1


@pytest.mark.slow
def test_a_cluster_that_wants_another_token_refuses_in_a_line(tmp_path):
    pytest.importorskip("ray")
    names = ("head", "mine")
    for name in names:
        (tmp_path / name).write_text(name * 8)
    environments = {
        name: {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(tmp_path / name),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        for name in names
    }
    code = (
        "import os\n"
        "from ray.cluster_utils import Cluster\n"
        "cluster = Cluster(initialize_head=True, head_node_args={'num_cpus': 0,\n"
        "    'include_dashboard': False, 'object_store_memory': 80_000_000})\n"
        "print(cluster.address, flush=True)\n"
        "input()\n"
        "cluster.shutdown()"
    )
    head = subprocess.Popen(
        [sys.executable, "-c", code],
        env=environments["head"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        address = head.stdout.readline().strip()
        code = (
            "from pbt_flow.engines.ray_cluster import attach\n"
            "try: attach({}, cpus=1)\n"
            "except Exception as error: print(type(error).__name__, error)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**environments["mine"], "RAY_ADDRESS": address},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
        )
    finally:
        head.communicate("\n", timeout=PATIENCE)
    assert done.stdout.startswith(f"EngineError the Ray cluster at {address} refuses the token")
    assert done.stderr == ""


# --- which worker takes a job ---


def seat(index, node, members=()):
    place = Place(node=node, host="host", pid=1, gpus="")
    return _Seat(index=index, actor=None, birth=None, place=place, members=set(members))


def begins(member, start=None):
    return Plan(
        member=member, turn=2, seed=0, hparams={}, steps=1, start=start, start_step=1, trained=2
    )


GIVEN = Checkpoint(member=7, turn=1, digest="", size=0)


@pytest.mark.parametrize(
    ("seats", "job", "taken"),
    [
        # The member is warm there, although the checkpoint lies elsewhere.
        ([seat(0, "b"), seat(1, "a", [3, 4, 5])], begins(3, GIVEN), 1),
        # Nobody has it warm: the node that wrote the checkpoint.
        ([seat(0, "a"), seat(1, "b", [4, 5])], begins(3, GIVEN), 1),
        # No checkpoint: whoever has the fewest members.
        ([seat(0, "a", [4]), seat(1, "b", []), seat(2, "b", [5, 6])], begins(3), 1),
    ],
)
def test_a_job_goes_where_its_member_is_warm_and_then_where_its_checkpoint_lies(seats, job, taken):
    pytest.importorskip("ray")
    engine = RayEngine.__new__(RayEngine)
    engine._copies = {(7, 1): {"b"}}
    best = min(seats, key=lambda one: engine._preference(one, job))
    assert best.index == taken


def test_a_seat_is_idle_when_it_lives_is_open_and_has_no_job():
    one = seat(0, "a")
    assert one.is_idle
    one.queued = _Queued(begins(0))
    assert not one.is_idle
    one.queued, one.opening = None, object()
    assert not one.is_idle
    one.opening, one.place = None, None
    assert not one.is_idle


def test_of_rays_page_the_line_with_the_cause_is_told():
    page = (
        "The actor died unexpectedly before finishing this task.\n\tclass_name: RayWorker\n"
        "\tpid: 7\nThe actor is dead because its worker process has died. Worker exit type: "
        "SYSTEM_ERROR Worker exit detail: Worker unexpectedly exits. Some common causes include: "
        "(1) the process was killed by the OOM killer"
    )
    told = _told(RuntimeError(page))
    assert told.startswith("The actor is dead because its worker process has died.")
    assert "common causes" not in told
    assert len(_told(RuntimeError("died " * 200))) == 200
    assert _told(RuntimeError("")) == "RuntimeError"


@pytest.mark.slow
@pytest.mark.parametrize("gpus", [0, 1])
def test_a_ray_of_ones_own_leaves_no_folder_behind(gpus, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    code = (
        "from pathlib import Path\n"
        "from pbt_flow.engines.jobs import WorkerContext\n"
        "from pbt_flow.engines.ray import RayEngine\n"
        "from pbt_flow.task import TaskSpec\n"
        "engine = RayEngine()\n"
        "try:\n"
        f"    task = TaskSpec(name='toy', device='{'cuda' if gpus else 'cpu'}')\n"
        "    engine.start(WorkerContext(task=task, seed=0), slots=1)\n"
        "    print(engine._session.is_dir())\n"
        "except Exception as error: print(error)\n"
        "finally: engine.close()\n"
    )
    # Not pytest's folder: its name is too long for Ray's sockets.
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "RAY_TMPDIR": folder, "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        expected = "Ray finds too few on this machine" if gpus else "True"
        assert expected in done.stdout, done.stderr
        left = [path for path in Path(folder).rglob("*") if "session" in path.name]
        assert left == []
