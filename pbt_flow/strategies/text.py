"""How a strategy is written in a setting: `truncation:fraction=0.2,copies=weights`.

A strategy is a frozen dataclass. Its fields are its settings, and the types of the fields say how
the text is read. A list is written with slashes: `perturb:factors=0.8/1.2`.

A strategy of another package is named by its class, as `package.module.Class`, or by the entry
point that the package announces in the group of its kind (`GROUPS`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import typing
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint
from types import UnionType
from typing import Any

from pbt_flow.exceptions import PBTError, StrategyError
from pbt_flow.utils.entry_points import announced
from pbt_flow.utils.reasons import reason_of
from pbt_flow.utils.text import did_you_mean, listed

GROUPS = {
    "exploit": "pbt_flow.exploits",
    "explore": "pbt_flow.explores",
    "init": "pbt_flow.strategies.samplers",
    "resample": "pbt_flow.strategies.samplers",
}
"""The groups of entry points in which packages announce strategies, by the setting."""


def parse(text: str, kinds: Mapping[str, type[Any]], what: str) -> Any:
    """Return the strategy that `text` describes.

    Args:
        text: A name, and settings behind a colon.
        kinds: The strategies that there are.
        what: The name of the setting, for the messages.

    Raises:
        StrategyError: There is no such strategy, it has no such setting, a setting is given twice,
            or it cannot take the value.
    """
    name, _, rest = text.strip().partition(":")
    # Our own names go first, so that what is written in a stored population keeps its meaning.
    kind = kinds.get(name) or _load_plugin(name, what) or _import(name, what)
    if kind is None:
        known = sorted({*kinds, *plugins(what)})
        raise StrategyError(
            f"{what}: there is no {name!r}{did_you_mean(name, known)}; choose from {listed(known)}"
            ", or name a dataclass of your own as package.module.Class"
        )
    if not _is_strategy(kind):
        raise StrategyError(f"{what} {name!r}: a strategy is a frozen dataclass, and this is none")
    hints = typing.get_type_hints(kind)
    fields = {field.name: hints[field.name] for field in dataclasses.fields(kind)}
    values = {}
    for item in filter(None, rest.split(",")):
        key, equals, value = item.partition("=")
        if not equals or key not in fields:
            written = f", written {name}:key=value,key=value" if fields else ""
            raise StrategyError(
                f"{what} {name!r}: {item!r} is no setting of it{did_you_mean(key, fields)}; it has "
                f"{listed(sorted(fields))}{written}"
            )
        if key in values:
            raise StrategyError(f"{what} {name!r}: {key} is given twice in {text.strip()!r}")
        try:
            values[key] = _read(value, fields[key])
        except ValueError as error:
            raise StrategyError(f"{what} {name!r}: {key} cannot be {value!r}: {error}") from None
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise StrategyError(f"{what} {name!r}: {error}") from None


def _read(text: str, hint: Any) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        return () if not text else tuple(_read(part, arguments[0]) for part in text.split("/"))
    if origin is typing.Literal:
        if text not in arguments:
            raise ValueError(f"choose from {listed(arguments)}")
        return text
    if origin in (typing.Union, UnionType):
        return None if text == "none" else _read(text, arguments[0])
    if hint is bool:
        if text not in ("true", "false"):
            raise ValueError("choose true or false")
        return text == "true"
    reader: Callable[[str], Any] = hint
    return reader(text)


@contextlib.contextmanager
def blaming(what: str, strategy: Any) -> Iterator[None]:
    """Turn whatever a strategy's code raises into an error that names the strategy.

    Args:
        what: The name of the setting.
        strategy: The strategy whose code runs.

    Raises:
        StrategyError: The code raised something. A StrategyError of its own passes as it is.
    """
    try:
        yield
    except StrategyError:
        raise
    except PBTError as error:
        raise StrategyError(f"{what} {strategy}: {error}") from error
    except Exception as error:
        raise StrategyError(f"{what} {strategy} raised {reason_of(error)}") from error


def check_copies(exploit: Any) -> None:
    """Refuse an exploit strategy that does not say what is taken from a donor.

    Raises:
        StrategyError: It has no `copies`, or another value than those that there are.
    """
    said = getattr(exploit, "copies", "nothing of that name")
    if said not in ("both", "weights", "hparams", None):
        raise StrategyError(
            f"exploit {exploit}: its copies must be 'both', 'weights', 'hparams' or, where it "
            f"never copies, None, got {said!r}"
        )


def plugins(what: str) -> dict[str, EntryPoint]:
    """Return what installed packages announce for a setting, by name; nothing is imported."""
    if what not in GROUPS:
        return {}
    return announced(GROUPS[what])


def _load_plugin(name: str, what: str) -> Any:
    """Return the dataclass that a package announces under a name; None if no package does.

    Raises:
        StrategyError: The announced class cannot be imported, or is no dataclass.
    """
    point = plugins(what).get(name)
    if point is None:
        return None
    try:
        kind = point.load()
    except Exception as error:
        raise StrategyError(
            f"{what} {name!r}: {point.value}, which an installed package announces, cannot be "
            f"imported: {type(error).__name__}: {error}"
        ) from error
    if not _is_strategy(kind):
        raise StrategyError(f"{what} {name!r}: {point.value} must be a frozen dataclass")
    return kind


def _is_strategy(kind: Any) -> bool:
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


def _import(name: str, what: str) -> Any:
    """Return what `package.module.Class` names; None if there is nothing of that name.

    Raises:
        StrategyError: The module exists, but cannot be imported.
    """
    module, _, attribute = name.rpartition(".")
    if not all(part.isidentifier() for part in module.split(".")):
        return None
    try:
        kind = getattr(importlib.import_module(module), attribute, None)
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and (module == missing or module.startswith(f"{missing}.")):
            return None
        raise StrategyError(
            f"{what} {name!r}: {module} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    return kind


def write(strategy: Any, kinds: Mapping[str, type[Any]]) -> str:
    """Return the text from which `parse` builds an equal strategy.

    Raises:
        StrategyError: A resumed population could not build the strategy again, since it is no
            dataclass or its module cannot be imported.
    """
    kind = type(strategy)
    own = f"{kind.__module__}.{kind.__qualname__}"
    name = next((name for name, known in kinds.items() if known is kind), own)
    if name == own and not (_is_strategy(kind) and _import(own, "a strategy") is kind):
        raise StrategyError(
            f"{strategy!r} must be an object of a dataclass in an importable module"
        )
    # Settings of its own come before those that it shares with others.
    fields = sorted(dataclasses.fields(strategy), key=lambda field: bool(field.kw_only))
    settings = [f"{field.name}={_write(getattr(strategy, field.name))}" for field in fields]
    return name + (":" + ",".join(settings) if settings else "")


def _write(value: Any) -> str:
    if isinstance(value, tuple):
        return "/".join(_write(part) for part in value)
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else str(value)
