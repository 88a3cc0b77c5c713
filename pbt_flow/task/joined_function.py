"""A function that joins, as a task like any other: a script that stands in a notebook's cell."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, ClassVar

from pbt_flow.exceptions import TaskError
from pbt_flow.joining import Script, preserved
from pbt_flow.task.joined_script import ScriptTask, terms_of


class FunctionTask(ScriptTask):
    """One model in training by a function that calls `pbt_flow.join`.

    A model is built by calling the function and running it up to its loop. `function_task` makes a
    class for each function.
    """

    function: ClassVar[Any]
    """The function, which takes no arguments."""

    def __init__(
        self,
        *,
        seed: int,
        device: str = "cpu",
        keep_seed: bool = False,
        keep_folder: bool = False,
    ) -> None:
        """Run the function up to its loop.

        Args:
            seed: Seeds what the function draws before its loop.
            device: The accelerator that `cuda` means for the function.
            keep_seed: Whether its own seeding stands, so that all members begin alike.
            keep_folder: Whether its loop runs in the folder of the worker, and not in one of the
                member's own.
        """
        super(ScriptTask, self).__init__(seed=seed, device=device)
        self._begin(self.function, keep_seed=keep_seed, keep_folder=keep_folder)
        self._check_own()

    @classmethod
    def told(cls) -> Mapping[str, Any]:
        """What the function declares, found out by running it up to its loop."""
        return _told(cls.function)

    def _check_own(self) -> None:
        """Refuse a function that trains what was made outside of it.

        Raises:
            TaskError: It does. All members in a process would then train one model.
        """
        outside = {id(value): name for name, value in _outside(self.function)}
        for name, value in self._member.objects.items():
            if id(value) in outside:
                raise TaskError(
                    f"{self._script.label} trains {name}, which is {outside[id(value)]} of another "
                    f"cell: all members would train that one; make it inside of "
                    f"{self._script.label}"
                )


def _outside(function: Callable[[], Any]) -> Iterator[tuple[str, Any]]:
    """What a function can see that was made outside of it, by name."""
    inside = inspect.getclosurevars(function)
    yield from inside.nonlocals.items()
    yield from function.__globals__.items()


@lru_cache(maxsize=64)
def function_task(function: Callable[[], Any]) -> type[FunctionTask]:
    """The task of a function.

    Raises:
        TaskError: It has no name, or cannot be called without arguments.
    """
    if function.__name__ == "<lambda>":
        raise TaskError("a lambda is no task; give a class of pbt_flow.Task, or a function by name")
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise TaskError(
            f"a function that joins is called without arguments, and {function.__name__}() cannot "
            f"be: {error}; give them defaults"
        ) from None
    body = {"function": staticmethod(function), "__module__": __name__}
    return type(function.__name__, (FunctionTask,), body)


@lru_cache(maxsize=64)
def _told(function: Callable[[], Any]) -> Mapping[str, Any]:
    """What a function says of itself when it has come to its loop; its model is dropped."""
    with preserved():
        return terms_of(Script(function, seed=0))
