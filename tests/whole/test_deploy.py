"""The files of `deploy/`: each is well formed, names what is there, and its commands are real."""

import re
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import click
import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
KUBERAY = list(yaml.safe_load_all((DEPLOY / "kuberay.yaml").read_text()))

TEXT = {"type": "string"}
TEXTS = {"type": "array", "items": TEXT, "minItems": 1}
VARIABLES = {"type": "object", "additionalProperties": TEXT}
NUMBER = {"type": "integer", "minimum": 0}


def record(required: str = "", **fields: Any) -> dict[str, Any]:
    """The schema of an object that has these fields and no others."""
    return {
        "type": "object",
        "properties": fields,
        "required": required.split(),
        "additionalProperties": False,
    }


# Of the schemas of Compose, of Kubernetes and of KubeRay, what these files use.
CONDITION = {"enum": ["service_started", "service_healthy", "service_completed_successfully"]}
SERVICE = record(
    "image",
    image=TEXT,
    build=record("context", context=TEXT),
    command=TEXTS,
    entrypoint=TEXTS,
    environment=VARIABLES,
    volumes=TEXTS,
    ports=TEXTS,
    shm_size=TEXT,
    init={"type": "boolean"},
    restart={"enum": ["no", "always", "on-failure", "unless-stopped"]},
    deploy=record("replicas", replicas=NUMBER),
    healthcheck=record("test", test=TEXTS, interval=TEXT, start_period=TEXT, retries=NUMBER),
    depends_on={
        "type": "object",
        "additionalProperties": record("condition", condition=CONDITION),
    },
)
COMPOSED = record(
    "name services volumes",
    name=TEXT,
    services={"type": "object", "additionalProperties": SERVICE},
    volumes={"type": "object", "additionalProperties": {"type": "null"}},
) | {"patternProperties": {"^x-": {}}}

VARIABLE = record("name value", name=TEXT, value=TEXT)
AMOUNTS = record(cpu=TEXT, memory=TEXT)
CONTAINER = record(
    "name image resources",
    name=TEXT,
    image=TEXT,
    command=TEXTS,
    args=TEXTS,
    env={"type": "array", "items": VARIABLE},
    envFrom={"type": "array", "items": record("secretRef", secretRef=record("name", name=TEXT))},
    ports={"type": "array", "items": record("name containerPort", name=TEXT, containerPort=NUMBER)},
    readinessProbe=record(
        "httpGet",
        httpGet=record(
            "path port", path=TEXT, port=TEXT, httpHeaders={"type": "array", "items": VARIABLE}
        ),
    ),
    resources=record("requests", requests=AMOUNTS, limits=AMOUNTS),
)
LABELS = VARIABLES
PODS = record(
    "spec",
    metadata=record(labels=LABELS),
    spec=record("containers", containers={"type": "array", "items": CONTAINER, "minItems": 1}),
)
SPECS = {
    "Deployment": record(
        "replicas selector template",
        replicas=NUMBER,
        selector=record("matchLabels", matchLabels=LABELS),
        template=PODS,
    ),
    "Service": record(
        "selector ports",
        selector=LABELS,
        ports={
            "type": "array",
            "items": record("name port", name=TEXT, port=NUMBER, targetPort=TEXT),
        },
    ),
    "RayCluster": record(
        "rayVersion headGroupSpec workerGroupSpecs",
        rayVersion=TEXT,
        authOptions=record("mode", mode={"enum": ["token", "disabled"]}),
        headGroupSpec=record("rayStartParams template", rayStartParams=VARIABLES, template=PODS),
        workerGroupSpecs={
            "type": "array",
            "items": record(
                "groupName replicas rayStartParams template",
                groupName=TEXT,
                replicas=NUMBER,
                minReplicas=NUMBER,
                maxReplicas=NUMBER,
                rayStartParams=VARIABLES,
                template=PODS,
            ),
        },
    ),
}
VERSIONS = {"Deployment": "apps/v1", "Service": "v1", "RayCluster": "ray.io/v1"}


def test_the_compose_file_is_one():
    jsonschema.validate(COMPOSE, COMPOSED)
    for service in COMPOSE["services"].values():
        assert set(service.get("depends_on", {})) <= set(COMPOSE["services"])
        kept = {volume.partition(":")[0] for volume in service.get("volumes", [])}
        assert kept <= set(COMPOSE["volumes"])
        if "build" in service:
            assert (DEPLOY / service["build"]["context"] / "Dockerfile").is_file()
        # What is not on loopback can be reached by whoever reaches this machine.
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


@pytest.mark.parametrize("manifest", KUBERAY, ids=lambda manifest: manifest["kind"])
def test_a_manifest_is_one(manifest):
    kind = manifest["kind"]
    jsonschema.validate(
        manifest,
        record(
            "apiVersion kind metadata spec",
            apiVersion={"const": VERSIONS[kind]},
            kind={"const": kind},
            metadata=record("name", name=TEXT),
            spec=SPECS[kind],
        ),
    )


def ports_in_compose() -> Iterator[tuple[str, int]]:
    """Each service with the port that it listens at, as far as its command or its image tells."""
    yield "database", 5432
    for name, service in COMPOSE["services"].items():
        for found in re.findall(r"--port[= ]:?(\d+)", " ".join(service.get("command", []))):
            yield name, int(found)


def addresses(value: Any) -> Iterator[str]:
    """All addresses in a part of a file."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from addresses(part)
    elif isinstance(value, str):
        yield from re.findall(r"\w+(?:\+\w+)?://[^\s',]+", value)
        yield from (f"ray://{found}" for found in re.findall(r"(?:^|=)([a-z]+:\d{4})$", value))


def test_each_address_in_the_compose_file_is_that_of_a_service():
    there = set(ports_in_compose())
    named = {
        (parts.hostname, parts.port)
        for parts in map(urlparse, addresses(COMPOSE["services"]))
        if parts.scheme != "s3" and parts.hostname != "localhost"
    }
    assert named == {("s3", 7070), ("mlflow", 5000), ("database", 5432), ("head", 6379)}
    assert named <= there


def test_the_manifests_name_each_other():
    deployment, service, cluster = KUBERAY
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels == service["spec"]["selector"]
    (head,) = cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"]
    (uri,) = [one["value"] for one in head["env"] if one["name"] == "MLFLOW_TRACKING_URI"]
    (port,) = service["spec"]["ports"]
    assert uri == f"http://{service['metadata']['name']}:{port['port']}"


def server_commands() -> Iterator[list[str]]:
    yield COMPOSE["services"]["mlflow"]["command"]
    (container,) = KUBERAY[0]["spec"]["template"]["spec"]["containers"]
    yield container["args"]


@pytest.mark.slow
@pytest.mark.parametrize("options", server_commands(), ids=["compose", "kuberay"])
def test_the_tracking_server_takes_its_options_and_answers_by_its_name(options):
    with warnings.catch_warnings():
        # MLflow warns of type hints of its own.
        warnings.simplefilter("ignore")
        from mlflow.cli import server
    given = server.make_context("server", list(options)).params
    host = "mlflow" if "database" in " ".join(options) else KUBERAY[1]["metadata"]["name"]
    assert f"{host}:{given['port']}" in given["allowed_hosts"].split(",")
    assert given["artifacts_destination"]
    # SQLAlchemy reads the scheme alone as one driver or as another, as its version has it.
    assert "postgresql://" not in " ".join(options)


def test_ray_takes_its_options():
    scripts = pytest.importorskip("ray.scripts.scripts", reason="ray is not installed")
    for name in ("head", "worker"):
        service = COMPOSE["services"][name]
        assert service["entrypoint"] == ["ray", "start"]
        given = scripts.start.make_context("start", list(service["command"])).params
        assert given["head"] == (name == "head")
    known = {option.lstrip("-") for parameter in scripts.start.params for option in parameter.opts}
    spec = KUBERAY[2]["spec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        assert set(group["rayStartParams"]) <= known
    with pytest.raises(click.NoSuchOption):
        scripts.start.make_context("start", ["--num-cpu"])


def test_the_versions_of_ray_are_one():
    image = re.search(r"FROM rayproject/ray:([\d.]+)-", (DEPLOY / "Dockerfile.ray").read_text())
    assert image is not None
    version = KUBERAY[2]["spec"]["rayVersion"]
    assert image[1] == version
    pinned = re.findall(r"^ray==(.*)$", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert pinned in ([], [version])


def test_what_the_image_of_ray_copies_is_there():
    copied = re.findall(
        r"^COPY --chown=\S+ (.*) \S+$", (DEPLOY / "Dockerfile.ray").read_text(), re.M
    )
    sent = (ROOT / ".dockerignore").read_text().splitlines()
    for name in " ".join(copied).split():
        assert (ROOT / name).exists()
        assert f"!{name}" in sent


@pytest.mark.parametrize("script", sorted(DEPLOY.glob("*.sh")), ids=lambda path: path.name)
def test_a_script_is_one_that_shells_and_shellcheck_accept(script):
    subprocess.run(["bash", "-n", script], check=True)
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(["shellcheck", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_no_file_holds_a_secret_of_anybodys():
    """What is in them by default is only good for one machine, and says so."""
    for path in DEPLOY.iterdir():
        for found in re.findall(r"\$\{PBT_\w+:-([^}]*)\}", path.read_text()):
            assert found == "pbt" or found.startswith("only-to-try")
