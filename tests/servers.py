"""Real servers on loopback for the tests: MLflow's, and a PostgreSQL and an S3 to put behind it."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient
from patience import until

LOOPBACK = "127.0.0.1"
TROUBLE = ("locked", "does not take", "Training goes on", "Traceback", "Error")
"""What a user reads of a store that does not take what it is told."""


class Server:
    """A tracking server that can be killed and started again with what it knows."""

    def __init__(
        self,
        folder: Path,
        artifacts: list[str],
        database: str = "sqlite:///server.db",
        environment: Mapping[str, str] | None = None,
        host: str = LOOPBACK,
    ) -> None:
        self.port, self.environment = free_port(), environment or {}
        folder.mkdir()
        self.folder, self.artifacts, self.database = folder, artifacts, database
        self.host, self.uri = host, f"http://{host}:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--port", str(self.port)]
        command += ["--host", self.host]
        places = ["--workers", "1", "--backend-store-uri", self.database, *self.artifacts]
        environment = {
            **os.environ,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            **self.environment,
        }
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                [*command, *places],
                cwd=self.folder,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until(self.answers, "the server does not start")

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

    Args:
        host: The address at which it answers. It asks nobody for a password.

    Raises:
        OSError: There is no PostgreSQL on this machine, or it cannot be started.
    """

    def __init__(self, host: str = LOOPBACK) -> None:
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
        with (data / "pg_hba.conf").open("a") as rules:
            rules.write("host all all samenet trust\n")
        options = ["-p", str(port), "-k", self.folder, "-h", host, "-F"]
        self.command = [postgres, "-D", data, *options]
        self.place = f"//tester@{host}:{port}/postgres"
        self.uri = f"postgresql+psycopg:{self.place}"
        self.start()

    def start(self) -> None:
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                self.command, cwd=self.folder, stdout=log, stderr=log, **self.owner
            )
        until(self.answers, "PostgreSQL does not start")

    def answers(self) -> bool:
        import psycopg

        assert self.process.poll() is None, self.log()
        try:
            psycopg.connect(f"postgresql:{self.place}").close()
        except psycopg.OperationalError:
            return False
        return True

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def kill(self) -> None:
        """End it at once: what was committed is there when it is started again."""
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait()

    def stop(self) -> None:
        self.kill()
        shutil.rmtree(self.folder)


class Bucket:
    """An S3 server that keeps one bucket in memory, and can fall silent.

    Under `http://s3.invalid` it is known to nobody who does not ask it as a proxy: the address of a
    server in a network of its own.

    Args:
        folder: Where it writes its log.
        host: The address at which it answers.
    """

    name = "kept"
    hidden = "http://s3.invalid"
    keys: Mapping[str, str] = {
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": "tester",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }

    def __init__(self, folder: Path, host: str = LOOPBACK) -> None:
        import boto3

        port = free_port()
        self.address = f"http://{host}:{port}"
        # What reaches it through the proxy alone, and what reaches it on this machine.
        self.from_its_network = {
            **self.keys,
            "MLFLOW_S3_ENDPOINT_URL": self.hidden,
            "MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE": "path",
            "HTTP_PROXY": self.address,
            "NO_PROXY": "127.0.0.1",
        }
        self.from_here = {**self.keys, "MLFLOW_S3_ENDPOINT_URL": self.address}
        command = [sys.executable, "-m", "moto.server", "-H", host, "-p", str(port)]
        with (folder / "s3.log").open("w") as log:
            self.process = subprocess.Popen(
                command,
                env={**os.environ, "MOTO_S3_CUSTOM_ENDPOINTS": self.hidden},
                stdout=log,
                stderr=log,
            )
        until(self.answers, "the S3 server does not start")
        self.client = boto3.client(
            "s3",
            endpoint_url=self.address,
            aws_access_key_id="tester",
            aws_secret_access_key="tester",
            region_name="us-east-1",
        )
        self.client.create_bucket(Bucket=self.name)

    def answers(self) -> bool:
        assert self.process.poll() is None
        try:
            urllib.request.urlopen(f"{self.address}/moto-api/data.json", timeout=5).close()
        except OSError:
            return False
        return True

    def fall_silent(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def speak_again(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def names(self) -> list[str]:
        """Of all that the bucket holds."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name)
        return [found["Key"] for page in pages for found in page.get("Contents", [])]

    def read(self, name: str) -> bytes:
        held: bytes = self.client.get_object(Bucket=self.name, Key=name)["Body"].read()
        return held

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def running_postgres() -> Iterator[Postgres]:
    """The body of a fixture: a PostgreSQL server. Where there can be none, the test is skipped."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    try:
        database = Postgres()
    except OSError as error:
        pytest.skip(f"no PostgreSQL can be started here: {error}")
    yield database
    database.stop()
