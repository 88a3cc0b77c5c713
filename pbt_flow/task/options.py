"""The options of a task: which there are, what a user may give, what a record goes on with.

An option is a keyword argument of the task's constructor. Its annotation, or else its default, says
what it takes. A population records the value of every option as JSON, whether the user gave it or
not, and builds its models from the record. So a default that changes in the code later changes no
population that has begun.

Pydantic checks and converts the values (`option_types`). What the user gives is read by
`option_text`, and `option_values` says what a record holds.
"""

from __future__ import annotations

import dataclasses
import inspect
import pathlib
import types
import typing
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Union, get_origin

import numpy as np
from pydantic import ValidationError

from pbt_flow.exceptions import OptionError
from pbt_flow.task.option_text import read_value
from pbt_flow.task.option_types import Unrecordable, describe, pydantic_type, validator_of
from pbt_flow.task.option_values import recorded_default, to_json
from pbt_flow.utils.text import did_you_mean, listed, shortened
from pbt_flow.utils.values import is_same_in_json

NOT_OPTIONS = ("seed", "device")
"""Arguments of every task that are settings of the population, and no options."""
OF_SCRIPTS = "arguments"
"""The option that only a script has, of the tasks that come along: its own command line."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Option:
    """An option of a task, in parts that any process knows."""

    name: str
    takes: Any
    """The type of the option's values; `Unrecordable` if no record can hold them."""
    default: Any = None
    """The default, as a record holds it; None if there is no default."""
    required: bool = False
    """Whether the option has no default."""

    def read(self, value: Any) -> Any:
        """Turn a value into what a record holds. The user gave it, or it comes from a record.

        A text is read as the shell means it: a number, JSON, or words separated by commas.

        Raises:
            OptionError: The option does not take the value.
        """
        try:
            plain = to_json(value)
        except ValueError as error:
            raise OptionError(
                f"option {self.name} takes {describe(self.takes)}, got {shortened(value)}: {error}"
            ) from None
        # The default is always taken, even one that no record can hold.
        if not self.required and is_same_in_json(plain, self.default):
            return self.default
        if self.takes is Unrecordable:
            raise OptionError(
                f"option {self.name} takes only its default, {self.default}, since no record can "
                f"hold such values, got {shortened(value)}; let the option take a name, and let "
                "the task look the value up by its name"
            )
        try:
            return read_value(plain, self.takes)
        except (ValueError, TypeError):
            raise OptionError(
                f"option {self.name} takes {describe(self.takes)}, got {shortened(value)}"
            ) from None


def _reason_on_one_line(error: Exception) -> str:
    """Why a type does not take a value. Of pydantic's report it has the fields and the reasons."""
    if not isinstance(error, ValidationError):
        return " ".join(str(error).split())
    reasons = []
    for found in error.errors():
        place = ".".join(map(str, found["loc"]))
        reasons.append(f"{place}: {found['msg']}" if place else found["msg"])
    return "; ".join(reasons)


@lru_cache(maxsize=256)
def options_of(kind: type[Any]) -> dict[str, Option]:
    """The options of a task class by name, in the order of its constructor."""
    found = {}
    for name, (parameter, hint) in _parameters(kind).items():  # type: ignore[arg-type]
        required = parameter.default is inspect.Parameter.empty
        found[name] = Option(
            name=name,
            takes=pydantic_type(hint, for_task=False),
            default=None if required else recorded_default(parameter.default),
            required=required,
        )
    return found


def arguments_of(kind: type[Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a task's constructor, for options as a record holds them.

    An option that is at the code's default is left out.

    Raises:
        OptionError: The class does not take one of the options, or not its value.
    """
    known, parameters = options_of(kind), _parameters(kind)  # type: ignore[arg-type]
    arguments = {}
    for name, value in options.items():
        check_known(name, known)
        # Left to the code, which may have a default that no record can hold.
        if not known[name].required and is_same_in_json(value, known[name].default):
            continue
        plain = known[name].read(value)
        _, hint = parameters[name]
        try:
            make = validator_of(pydantic_type(hint, for_task=True))
            arguments[name] = make(plain)
        except (ValueError, TypeError) as error:
            reason = _reason_on_one_line(error)
            raise OptionError(f"option {name} cannot be {shortened(value)}: {reason}") from None
    return arguments


def check_known(name: str, known: Iterable[str]) -> None:
    """Check that a task has an option.

    Raises:
        OptionError: The task has no such option. The message says which options there are, and
            which one the user may have meant.
    """
    names = sorted(known)
    if name in names:
        return
    if name in NOT_OPTIONS:
        raise OptionError(
            f"no option {name!r}: it is a setting of the population, given as --{name} and in "
            f"Python as {name}=..., outside of options"
        )
    if name == OF_SCRIPTS:
        raise OptionError(
            "no arguments of its own, which only a script has; its options are given as "
            f"--set NAME=VALUE, and not behind --; there are {listed(names)}"
        )
    raise OptionError(f"no option {name!r}{did_you_mean(name, names)}; there are {listed(names)}")


def compare_with_code(
    known: Mapping[str, Option], recorded: Mapping[str, Any], defaults: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Compare the options on record with the options that the task's class has now.

    Args:
        known: The options of the class as it is now.
        recorded: The options that the population was trained with.
        defaults: The defaults when the population began; empty for a population of an earlier
            version, which recorded only the options that were given.

    Returns:
        All options that the population goes on with, and a sentence for each thing that the user
        should know.

    Raises:
        OptionError: The class no longer takes an option, or not its value.
    """
    notes: list[str] = []
    options: dict[str, Any] = {}
    for name, value in recorded.items():
        if name not in known:
            raise OptionError(
                f"option {name}, with which the population was trained ({shortened(value)}), is "
                "not taken by the task's class any more; bring the option back, or start a new "
                "population"
            )
        option = known[name]
        options[name] = option.read(value)
        if not is_same_in_json(options[name], value):
            notes.append(
                f"option {name}: {shortened(value)} on record is read as {shortened(options[name])}"
            )
        had_default = name in defaults and not option.required
        if had_default and not is_same_in_json(defaults[name], option.default):
            notes.append(
                f"option {name}: the code's default is {shortened(option.default)} now and was "
                f"{shortened(defaults[name])}; this goes on with {shortened(options[name])}, as "
                "recorded"
            )
    new = {name: option for name, option in known.items() if name not in recorded}
    for name, option in new.items():
        if option.required:
            raise OptionError(
                f"option {name} is required by the task's class now, and has no value on record; "
                "give it a default, or start a new population"
            )
        options[name] = option.default
    if new:
        told = ", ".join(f"{name}={shortened(option.default)}" for name, option in new.items())
        notes.append(f"options that are not on record take the code's defaults: {told}")
    return options, notes


@lru_cache(maxsize=256)
def _parameters(kind: type[Any]) -> dict[str, tuple[inspect.Parameter, Any]]:
    """The constructor's parameters that are options, each with the type of its values."""
    found = {}
    for name, parameter in inspect.signature(kind).parameters.items():
        can_be_named = parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        if can_be_named and name not in NOT_OPTIONS:
            found[name] = parameter, _type_of(kind, parameter)
    return found


def _type_of(kind: type[Any], parameter: inspect.Parameter) -> Any:
    """The type of a parameter: its annotation, or else the type of its default."""
    hint, default = parameter.annotation, parameter.default
    if isinstance(hint, str):
        hint = _resolve_annotation(kind, hint)
    of_default = str if default is parameter.empty else _type_of_value(default)
    if hint is parameter.empty:
        return of_default
    if isinstance(hint, type) and get_origin(of_default) is hint:
        # The annotation is a bare `tuple`, say: the default says what its parts are.
        return of_default
    if default is None and hint is not Any:
        # Not `hint | None`: some annotations, such as a text, have no operator |.
        return Union[hint, None]  # noqa: UP007
    return hint


def _resolve_annotation(kind: type[Any], hint: str) -> Any:
    """The type that an annotation in the form of a text names.

    All annotations of a file with `from __future__ import annotations` have that form. A name in it
    may not exist at run time, such as one that is imported for type checkers only. The result is
    then `Parameter.empty`, so that the type of the default decides.
    """
    holder = types.SimpleNamespace(__annotations__={"it": hint})
    owner = next((base for base in kind.__mro__ if "__init__" in vars(base)), kind)
    names = getattr(inspect.unwrap(vars(owner)["__init__"]), "__globals__", {})
    try:
        return typing.get_type_hints(holder, names, dict(vars(owner)), include_extras=True)["it"]
    except Exception:
        return inspect.Parameter.empty


def _type_of_value(value: Any) -> Any:
    """The type of an option whose default is `value`, and which has no annotation."""
    kind: type[Any] = type(value.item()) if isinstance(value, np.generic) else type(value)
    if value is None:
        return Any
    if kind in (list, tuple, set, frozenset):
        part = _common_type(value)
        return tuple[part, ...] if kind is tuple else kind[part]  # type: ignore[valid-type]
    if kind is dict:
        return dict[_common_type(value), Any]  # type: ignore[misc]
    if isinstance(value, pathlib.PurePath):
        return pathlib.Path
    return kind


def _common_type(values: Iterable[Any]) -> Any:
    """The one type that all values have; Any if they have no type in common."""
    found = {_type_of_value(value) for value in values}
    if found == {int, float}:
        return float
    return found.pop() if len(found) == 1 else Any
