"""The building: each wing imports from wings below its own, and from few places outside."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import pbt_flow

PACKAGE = Path(pbt_flow.__file__).parent

WINGS = (
    "exceptions",
    "utils",
    "space",
    "population",
    "strategies",
    "joining",
    "task",
    "adapters",
    "settings",
    "tracking",
    "engines",
    "reporting",
    "training",
    "commands",
    "testing",
    "cli",
    "__main__",
)
"""From the ground up: a wing may import from those before it in this list, and from none after."""

STRANGERS = {
    "strategies.advise": {"tracking", "engines", "settings", "task"},
    "settings": {"tracking", "engines"},
    "tracking": {"strategies", "settings", "engines"},
    "engines": {"strategies", "settings", "tracking"},
    "joining": {"strategies"},
    "adapters": {"strategies"},
    "reporting": {"tracking", "engines"},
    "training": {"tracking"},
}
"""What a wing or a file must not know, though it lies below: decision, store and engines are
neighbours, and so are pictures and controller."""


def sources() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def module(path: Path) -> str:
    """The name of a file's module within the package; a folder's `__init__.py` is the folder's."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def wing(name: str) -> str:
    return name.partition(".")[0]


MODULES = {module(path) for path in sources()}


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


def modules_of(path: Path) -> set[str]:
    """The other modules of the package that a file imports from."""
    found = set()
    for name in imports(path):
        root, _, rest = name.partition(".")
        if root != "pbt_flow":
            continue
        while rest and rest not in MODULES:
            rest = rest.rpartition(".")[0]
        found.add(rest)
    # `from pbt_flow import Task` takes a name from the front door, which has no name here.
    return found - {module(path), ""}


def id_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


every_file = pytest.mark.parametrize("path", sources(), ids=id_of)


def test_every_file_lies_in_a_wing_and_every_wing_has_files() -> None:
    assert {wing(name) for name in MODULES} == set(WINGS)


@every_file
def test_a_file_imports_from_its_own_wing_and_from_those_below(path: Path) -> None:
    here = WINGS.index(wing(module(path)))
    above = {name for name in modules_of(path) if WINGS.index(wing(name)) > here}
    assert not above, f"{id_of(path)} lies below {sorted(above)}, and must not import it"


def test_no_files_import_each_other_in_a_circle() -> None:
    TopologicalSorter({module(path): modules_of(path) for path in sources()}).prepare()


@pytest.mark.parametrize("who", STRANGERS)
def test_neighbours_do_not_know_each_other(who: str) -> None:
    for path in sources():
        if module(path) == who or wing(module(path)) == who:
            known = {wing(name) for name in modules_of(path)} & STRANGERS[who]
            assert not known, f"{id_of(path)} knows {sorted(known)}"


def test_the_contracts_for_users_need_neither_a_store_nor_a_controller() -> None:
    files = [path for path in sources() if module(path).endswith("_contract")]
    files += [path for path in sources() if module(path).endswith("_contracts")]
    assert len(files) == 3
    for path in files:
        assert not {wing(name) for name in modules_of(path)} & {"tracking", "training", "commands"}


@every_file
def test_one_wing_alone_imports_mlflow(path: Path) -> None:
    found = [name for name in imports(path, typing=True) if name.split(".")[0] == "mlflow"]
    assert not found or wing(module(path)) == "tracking", found


@every_file
def test_nothing_in_the_package_imports_the_tasks(path: Path) -> None:
    names = set(imports(path, typing=True))
    assert not {name.split(".")[0] for name in names} & {"tasks", "tests", "benchmarks"}
    assert not {name for name in names if f"{name}.".startswith("pbt_flow.tasks.")}


@pytest.mark.parametrize(
    "path", sorted((PACKAGE.parent / "tasks").glob("*.py")), ids=lambda path: path.name
)
def test_tasks_import_each_other_relatively_and_of_the_package_what_users_have(path: Path) -> None:
    """So that they are the same modules in a clone and in a wheel, and can be copied."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(str(node.module))
    assert not {name for name in names if name.partition(".")[0] == "tasks"}
    ours = {name.split(".")[1] for name in names if name.startswith("pbt_flow.")}
    assert ours <= {"exceptions", "space", "task", "testing"}


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
    found = loaded("pbt_flow.engines.worker", "pbt_flow.task", "pbt_flow.engines.worker_main")
    heavy = {"mlflow", "scipy", "sklearn", "pandas", "rich", "torch", "sqlalchemy", "plotly"}
    assert not found & heavy
    # `import optuna.distributions` alone brings in all of `optuna.samplers`, which are light: what
    # they need is loaded when one is built.
    assert "optuna.distributions" in found
    ours = {name.split(".")[1] for name in found if name.startswith("pbt_flow.")}
    assert not ours & {"tracking", "training", "commands", "reporting", "testing", "cli"}
    assert "pbt_flow.strategies.advise" not in found


def test_the_package_itself_loads_no_mlflow_before_it_is_used() -> None:
    assert not loaded("pbt_flow", "pbt_flow.cli") & {"mlflow", "torch"}
