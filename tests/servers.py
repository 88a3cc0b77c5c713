"""Real servers on loopback for the tests: MLflow's, and a PostgreSQL to put behind it."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlflow.tracking import MlflowClient


class Server:
    """A tracking server that can be killed and started again with what it knows."""

    def __init__(
        self, folder: Path, artifacts: list[str], database: str = "sqlite:///server.db"
    ) -> None:
        self.port = free_port()
        folder.mkdir()
        self.folder, self.artifacts, self.database = folder, artifacts, database
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--port", str(self.port)]
        places = ["--workers", "1", "--backend-store-uri", self.database, *self.artifacts]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                [*command, *places],
                cwd=self.folder,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until(self.answers, 120, "the server does not start")

    def answers(self) -> bool:
        assert self.process.poll() is None, (self.folder / "log").read_text()
        try:
            urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
        except OSError:
            return False
        return True

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def until(condition: Callable[[], bool], seconds: float, otherwise: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, otherwise


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def check(result: Any, turns: int) -> None:
    """Every turn's point is in MLflow, once, and every run has finished."""
    client = MlflowClient(result.tracking_uri)
    assert client.get_run(result.run_id).info.status == "FINISHED"
    members = client.search_runs(
        [client.get_run(result.run_id).info.experiment_id],
        f"tags.`mlflow.parentRunId` = '{result.run_id}'",
    )
    assert len(members) == result.members
    for member in members:
        own = result.history.turns[int(member.data.tags["pbt.member"])]
        assert len(own) == turns
        points = client.get_metric_history(member.info.run_id, "score")
        assert [(p.step, p.value) for p in points] == [(t.plan.trained, t.score) for t in own]
        assert member.info.status == "FINISHED"


class Postgres:
    """A database server with nothing in it, which ends with the test.

    Raises:
        OSError: There is no PostgreSQL on this machine, or it cannot be started.
    """

    def __init__(self) -> None:
        programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
        path = os.pathsep.join([os.environ["PATH"], *map(str, programs)])
        initdb, postgres = (shutil.which(name, path=path) for name in ("initdb", "postgres"))
        if initdb is None or postgres is None:
            raise OSError("there is no initdb and postgres here (Debian: apt install postgresql)")
        # Not in pytest's folder, which is root's alone: the server refuses to be root.
        self.folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self.owner: dict[str, Any] = {}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)
            self.owner = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        data, port = self.folder / "data", free_port()
        command = [initdb, "-D", data, "-A", "trust", "-U", "tester", "--no-sync", "-E", "UTF8"]
        done = subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, **self.owner
        )
        if done.returncode:
            shutil.rmtree(self.folder)
            raise OSError(f"initdb: {done.stderr.strip()}")
        options = ["-p", str(port), "-k", self.folder, "-h", "127.0.0.1", "-F"]
        with (self.folder / "log").open("w") as log:
            self.process = subprocess.Popen(
                [postgres, "-D", data, *options],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                **self.owner,
            )
        self.place = f"//tester@127.0.0.1:{port}/postgres"
        self.uri = f"postgresql+psycopg2:{self.place}"
        until(self.answers, 60, "PostgreSQL does not start")

    def answers(self) -> bool:
        import psycopg2

        assert self.process.poll() is None, self.log()
        try:
            psycopg2.connect(f"postgresql:{self.place}").close()
        except psycopg2.OperationalError:
            return False
        return True

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait()
        shutil.rmtree(self.folder)
