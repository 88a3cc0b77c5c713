"""The building: each file imports from floors below its own, and from few places outside."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pbt_flow

PACKAGE = Path(pbt_flow.__file__).parent

FLOORS: dict[str, int] = {
    # 0: domains and text
    "errors": 0,
    "space": 0,
    "values": 0,
    "options": 0,
    "strategies": 0,
    "terminal": 0,
    "cores": 0,
    "task_files": 0,
    "means": 0,
    "compact_state": 0,
    "reasons": 0,
    # 1: the nouns
    "member": 1,
    "task": 1,
    "task_logging": 1,
    # 2: strategies, turns, records
    "exploit": 2,
    "explore": 2,
    "history": 2,
    "lineage": 2,
    "schedule": 2,
    "tree": 2,
    "figures": 2,
    "names": 2,
    "view": 2,
    "study": 2,
    "samplers": 2,
    "checkpoints": 2,
    "worker": 2,
    "result": 2,
    "retention": 2,
    "roster": 2,
    "restore_check": 2,
    "diagnosis": 3,
    "lease": 2,
    "remote": 2,
    "registry": 2,
    "connection": 2,
    "deletion": 2,
    "founding": 2,
    "adoption": 2,
    "drivers": 2,
    "interval": 1,
    "outbox": 1,
    # 3: neighbours that do not know each other
    "advise": 3,
    "settings": 3,
    "store": 3,
    "engines": 3,
    "progress": 3,
    # 4: the only room where decision, engine and history meet
    "album": 3,
    "checks": 4,
    "controller": 4,
    "launch": 4,
    "subject": 4,
    "charts": 4,
    "report": 4,
    "picture": 4,
    "compare": 4,
    # 5: what puts a population together
    "publish": 5,
    "frame": 5,
    "replay": 5,
    "runner": 5,
    "simulation": 5,
    # 6: the doors
    "__init__": 6,
    "__main__": 6,
    "cli": 6,
    # Beside the building, for tests of users: from floors 0 to 2 only.
    "testing": 3,
}

WITHIN_A_FLOOR = {
    ("space", "errors"),
    ("space", "values"),
    ("options", "errors"),
    ("options", "values"),
    ("strategies", "errors"),
    ("task_files", "errors"),
    ("task", "member"),
    ("samplers", "history"),
    ("worker", "checkpoints"),
    ("worker", "restore_check"),
    ("remote", "checkpoints"),
    ("remote", "connection"),
    ("deletion", "checkpoints"),
    ("deletion", "connection"),
    ("adoption", "connection"),
    ("connection", "drivers"),
    ("founding", "drivers"),
    ("remote", "drivers"),
    ("founding", "adoption"),
    ("founding", "connection"),
    ("history", "exploit"),
    ("lineage", "history"),
    ("schedule", "history"),
    ("schedule", "lineage"),
    ("tree", "history"),
    ("tree", "lineage"),
    ("figures", "history"),
    ("figures", "lineage"),
    ("study", "history"),
    ("study", "lineage"),
    ("result", "history"),
    ("progress", "settings"),
    ("album", "engines"),
    ("controller", "checks"),
    ("charts", "subject"),
    ("report", "charts"),
    ("report", "subject"),
    ("picture", "charts"),
    ("compare", "charts"),
    ("compare", "report"),
    ("picture", "subject"),
    ("runner", "publish"),
    ("runner", "frame"),
    ("replay", "frame"),
    ("__main__", "cli"),
}
"""The imports between neighbours that there are. A new one is to be thought about."""

STRANGERS = {"advise", "store", "engines", "settings"}
"""These must not import each other, whatever becomes of the table above."""

TRACKERS = {
    "store",
    "founding",
    "adoption",
    "drivers",
    "connection",
    "deletion",
    "lease",
    "remote",
    "registry",
}
"""These talk to MLflow; a worker imports none of them unless the artifacts are elsewhere."""


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    """The room that a file belongs to; a folder is one room."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path, *, typing: bool = False) -> Iterator[str]:
    """The full names of all that a file imports, inside of functions as well.

    Args:
        path: The file.
        typing: Whether to include what stands below `if TYPE_CHECKING`.
    """
    package = ["pbt_flow", *path.relative_to(PACKAGE).parent.parts]

    def visit(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            # What is imported may itself be a module.
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and not typing and "TYPE_CHECKING" in ast.dump(node.test):
            for child in node.orelse:
                yield from visit(child)
        else:
            for child in ast.iter_child_nodes(node):
                yield from visit(child)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")))


def rooms_of(path: Path) -> set[str]:
    """The other rooms of the package that a file imports from."""
    names = (name.split(".") for name in imports(path))
    ours = {name[1] if len(name) > 1 else "__init__" for name in names if name[0] == "pbt_flow"}
    known = {room(path) for path in sources()}
    # `from pbt_flow import Task` takes a name from the front door.
    return {name if name in known else "__init__" for name in ours} - {room(path)}


def id_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


every_file = pytest.mark.parametrize("path", sources(), ids=id_of)


def test_every_file_has_its_floor_and_every_floor_its_files() -> None:
    assert {room(path) for path in sources()} == set(FLOORS)


@every_file
def test_a_file_imports_from_floors_below_its_own(path: Path) -> None:
    here = room(path)
    wrong = {
        there
        for there in rooms_of(path)
        if FLOORS[there] >= FLOORS[here] and (here, there) not in WITHIN_A_FLOOR
    }
    assert not wrong, f"{here} is on floor {FLOORS[here]}; it must not import {sorted(wrong)}"


def test_every_import_within_a_floor_that_is_listed_is_there() -> None:
    there_are = {(room(path), there) for path in sources() for there in rooms_of(path)}
    assert there_are >= WITHIN_A_FLOOR
    assert all(FLOORS[here] == FLOORS[there] for here, there in WITHIN_A_FLOOR)


@pytest.mark.parametrize("path", [p for p in sources() if room(p) in STRANGERS], ids=id_of)
def test_decision_store_engines_and_settings_do_not_know_each_other(path: Path) -> None:
    assert not rooms_of(path) & STRANGERS


def test_the_contracts_for_users_need_nothing_above_the_second_floor() -> None:
    files = [path for path in sources() if room(path) == "testing"]
    assert max(FLOORS[there] for path in files for there in rooms_of(path)) <= 2


@every_file
def test_the_store_and_its_two_helpers_alone_import_mlflow(path: Path) -> None:
    found = [name for name in imports(path, typing=True) if name.split(".")[0] == "mlflow"]
    assert bool(found) == (room(path) in TRACKERS), found


@every_file
def test_nothing_in_the_package_imports_the_tasks(path: Path) -> None:
    roots = {name.split(".")[0] for name in imports(path, typing=True)}
    assert not roots & {"tasks", "tests", "benchmarks"}


@every_file
def test_no_private_part_of_optuna_is_imported(path: Path) -> None:
    names = [name for name in imports(path, typing=True) if name.split(".")[0] == "optuna"]
    assert not [name for name in names if "._" in name]


def loaded(*modules: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after it imported `modules`."""
    code = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    path = {"PYTHONPATH": ":".join([str(PACKAGE.parent), *filter(None, sys.path)])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=path)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_a_worker_loads_no_mlflow_and_none_of_the_other_heavy_libraries() -> None:
    found = loaded("pbt_flow.worker", "pbt_flow.task", "pbt_flow.engines.child")
    heavy = {"mlflow", "scipy", "sklearn", "pandas", "rich", "torch", "sqlalchemy", "plotly"}
    assert not found & heavy
    # `import optuna.distributions` alone brings in all of `optuna.samplers`, which are light: what
    # they need is loaded when one is built.
    assert "optuna.distributions" in found
    ours = {name.split(".")[1] for name in found if name.startswith("pbt_flow.")}
    assert not ours & {*TRACKERS, "advise", "controller", "runner", "cli", "progress", "testing"}


def test_the_package_itself_loads_no_mlflow_before_it_is_used() -> None:
    assert not loaded("pbt_flow", "pbt_flow.cli") & {"mlflow", "torch"}
