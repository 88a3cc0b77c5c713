"""Tasks that no file holds: of a notebook's cell, or of a prompt.

The name of such a task, `__main__:Net`, means what the process has under it in its main module, so
that a cell which is executed again brings the task back, also in a kernel that was restarted.
Worker processes have another main module. They get the task itself from their controller, pickled
by value by cloudpickle.

The pickle is kept nowhere. In a store it would be code that runs on the machine of whoever resumes
a population, and that anybody may have put there who can write to the store.
"""

from __future__ import annotations

import inspect
import pickle
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from pbt_flow.exceptions import TaskError

MAIN = "__main__"


def is_of_session(name: str) -> bool:
    """Whether a name of a task means one that no file holds."""
    return name.partition(":")[0] == MAIN


def has_no_file(task: Any, module: ModuleType | None) -> bool:
    """Whether a class or a function of the main module is not written in the module's file.

    A notebook's main module has none. A prompt that a script leaves behind has one, which does not
    hold what was typed.
    """
    file = getattr(module, "__file__", None)
    if file is None or not Path(file).is_file():
        return True
    places = {Path(one.__code__.co_filename).resolve() for one in _functions(task)}
    return bool(places) and Path(file).resolve() not in places


def found_in_main(name: str) -> Any:
    """The class or the function itself that such a name means.

    Raises:
        TaskError: There is none.
    """
    return getattr(main_module(name), name.partition(":")[2])


def main_module(name: str) -> ModuleType:
    """The main module, in which a task of this name is looked for.

    Raises:
        TaskError: It has nothing of that name.
    """
    module, attribute = sys.modules[MAIN], name.partition(":")[2]
    if not hasattr(module, attribute):
        raise TaskError(
            f"{attribute} was defined in a notebook or at a prompt, and no file or store has it: "
            f"execute the cell that defines {attribute} again, and go on from there in Python "
            "(pbt_flow.resume, load, replay); a task that the shell can find stands in a file"
        )
    return module


# --- to worker processes --------------------------------------------------------------------------


def pickle_by_value(task: Any) -> bytes:
    """A class or a function of the main module, with all that it uses of that module.

    Raises:
        TaskError: Something that it uses cannot be sent to another process.
    """
    # It comes with MLflow; workers that need it not are spared the import.
    import cloudpickle

    try:
        code: bytes = cloudpickle.dumps(task)
        return code
    except Exception as error:
        raise TaskError(
            f"{task.__qualname__} cannot be sent to worker processes: {_culprit(task, error)}; "
            f"make that inside of {task.__qualname__}, or train with engine='inline'"
        ) from error


@lru_cache(maxsize=8)
def unpickle(code: bytes) -> Any:
    """What `pickle_by_value` has pickled: in a process always the same class or function.

    It runs code, and so is for what a worker gets from its own controller.

    Raises:
        TaskError: It cannot be made here.
    """
    try:
        return pickle.loads(code)
    except Exception as error:
        raise TaskError(
            f"what the notebook has sent cannot be made in a worker process: {error}; a module "
            "that it imports must lie beside the notebook or be installed"
        ) from error


def _culprit(task: Any, error: Exception) -> str:
    """What it is that cannot be pickled, as the end of a sentence."""
    import cloudpickle

    for name, value in _used(task):
        try:
            cloudpickle.dumps(value)
        except Exception as inner:
            return f"it uses {name}, a {type(value).__name__} ({inner})"
    return str(error) or type(error).__name__


def _used(task: Any) -> Iterator[tuple[str, Any]]:
    """The objects of its module that a class or a function names, and the class's attributes."""
    if isinstance(task, type):
        for name, value in vars(task).items():
            # What Python itself and `abc` put into a class is not the user's.
            is_own = not name.startswith(("__", "_abc_"))
            if is_own and not inspect.isroutine(getattr(value, "__func__", value)):
                yield f"{task.__name__}.{name}", value
    for function in _functions(task):
        for code in _nested(function.__code__):
            for name in code.co_names:
                if name in function.__globals__:
                    yield name, function.__globals__[name]


def _functions(task: Any) -> Iterator[FunctionType]:
    """The function itself, or those of a class."""
    for value in vars(task).values() if isinstance(task, type) else [task]:
        # A static or a class method holds its function.
        function = getattr(value, "__func__", value)
        if inspect.isfunction(function):
            yield function


def _nested(code: CodeType) -> Iterator[CodeType]:
    """A function's code, and that of functions inside of it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)
