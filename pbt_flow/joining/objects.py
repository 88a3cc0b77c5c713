"""The objects of a script that a checkpoint holds, each with its way out and back in."""

from __future__ import annotations

import abc
import copy
import random
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import numpy as np

from pbt_flow.exceptions import TaskError, UnusableTask


class Keeper(abc.ABC):
    """Reads the state of one object of a script, and puts a state back into it."""

    def __init__(self, value: Any) -> None:
        self.value = value

    @abc.abstractmethod
    def state(self) -> Any:
        """The state, as tensors and plain values."""

    @abc.abstractmethod
    def load(self, state: Any) -> None:
        """Take over a state, perhaps of another member."""


class StatefulKeeper(Keeper):
    """Of what has a `state_dict`: modules, optimisers, schedulers, scalers."""

    def state(self) -> Any:
        return self.value.state_dict()

    def load(self, state: Any) -> None:
        self.value.load_state_dict(state)


class TensorKeeper(Keeper):
    """Of a tensor that the script changes in place."""

    def state(self) -> Any:
        return self.value.detach()

    def load(self, state: Any) -> None:
        import torch

        with torch.no_grad():
            self.value.copy_(state)


class DictKeeper(Keeper):
    """Of a dict of plain values, such as `{"best": 0.9}`."""

    def state(self) -> Any:
        # A `defaultdict` stays one: what is loaded goes into the script's own dict.
        return dict(_without_numpy(copy.deepcopy(self.value)))

    def load(self, state: Any) -> None:
        self.value.clear()
        self.value.update(copy.deepcopy(state))


class TorchGeneratorKeeper(Keeper):
    """Of a torch generator that the script draws from."""

    def state(self) -> Any:
        return self.value.get_state()

    def load(self, state: Any) -> None:
        self.value.set_state(state.cpu())


class NumpyGeneratorKeeper(Keeper):
    """Of a NumPy generator that the script draws from."""

    def state(self) -> Any:
        return _as_tensors(self.value.bit_generator.state)

    def load(self, state: Any) -> None:
        self.value.bit_generator.state = _as_arrays(state)


class NumpyRandomStateKeeper(Keeper):
    """Of a NumPy generator of the older kind."""

    def state(self) -> Any:
        return _as_tensors(self.value.get_state(legacy=False))

    def load(self, state: Any) -> None:
        self.value.set_state(_as_arrays(state))


class PythonRandomKeeper(Keeper):
    """Of a generator of Python's own module `random`."""

    def state(self) -> Any:
        return self.value.getstate()

    def load(self, state: Any) -> None:
        self.value.setstate(state)


class EstimatorKeeper(Keeper):
    """Of a scikit-learn estimator that learns by `partial_fit`: what it has learnt.

    What it was made with are its parameters, which the state leaves to the script. A generator
    among them is where its draws have come to.
    """

    def state(self) -> Any:
        given = self.value.get_params(deep=False)
        learnt = {
            name: one
            for name, one in vars(self.value).items()
            if name not in given or isinstance(one, np.random.RandomState)
        }
        for name, one in learnt.items():
            if (inner := _with_variables(one)) is not None:
                raise UnusableTask(
                    f"{_named(self.value)} learns {name}, {_named(inner)}, which no checkpoint can "
                    "hold; put the estimator into a class that has a state_dict and a "
                    "load_state_dict, and name that in join(...)"
                )
        return {name: _as_tensors(one) for name, one in learnt.items() if _is_plain(one)}

    def load(self, state: Any) -> None:
        for name, one in state.items():
            setattr(self.value, name, _as_arrays(one))


def keeper_of(name: str, value: Any) -> Keeper:
    """What keeps the object of that name.

    Raises:
        TaskError: No state can be read from such an object and put back.
    """
    kind = _kind_of(value)
    if kind is None:
        raise TaskError(
            f"join({name}=...): {_named(value)} has no state that can be kept; name what has a "
            "state_dict and a load_state_dict, a tensor, a dict of plain values, a generator of "
            f"torch, NumPy or Python, or an estimator with partial_fit{_remedy(value)}"
        )
    return kind(value)


def has_state(value: Any) -> bool:
    """Whether an object is of a kind that a checkpoint is usually meant to hold.

    A loss function has a `state_dict` as every module has, and nothing is in it. A dict or a tensor
    may be anything, such as the data.
    """
    kind = _kind_of(value)
    if kind in (None, DictKeeper, TensorKeeper):
        return False
    try:
        return kind is not StatefulKeeper or bool(value.state_dict())
    except Exception:
        return False  # It is the script's own, and nobody has asked for its state.


def _kind_of(value: Any) -> type[Keeper] | None:
    import torch

    if isinstance(value, type | ModuleType):
        return None
    if isinstance(value, dict):
        return DictKeeper
    if isinstance(value, torch.Tensor):
        return TensorKeeper
    if isinstance(value, torch.Generator):
        return TorchGeneratorKeeper
    if isinstance(value, np.random.Generator):
        return NumpyGeneratorKeeper
    if isinstance(value, np.random.RandomState):
        return NumpyRandomStateKeeper
    if isinstance(value, random.Random) and not isinstance(value, random.SystemRandom):
        return PythonRandomKeeper
    if hasattr(value, "state_dict") and hasattr(value, "load_state_dict"):
        return StatefulKeeper
    if hasattr(value, "partial_fit") and hasattr(value, "get_params"):
        return EstimatorKeeper
    return None


def _named(value: Any) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return f"a {type(value).__module__}.{type(value).__qualname__}".replace(" builtins.", " ")


def _remedy(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return "; of an array it is torch.from_numpy(array), which shares its memory"
    if isinstance(value, bool | int | float | str):
        return '; a number that changes goes into a dict, as in progress = {"best": 0.0}'
    return ""


_TEXTS, _SHAPE, _KIND = "texts", "shape", "dtype"
"""The keys of what stands for an array of texts."""
_RANDOM = "random state"
"""The key of what stands for a NumPy generator of the older kind."""


def _without_numpy(value: Any) -> Any:
    """A value with Python's numbers in the place of NumPy's."""
    if type(value) in (list, tuple):
        return type(value)(map(_without_numpy, value))
    if isinstance(value, Mapping):
        return {key: _without_numpy(part) for key, part in value.items()}
    return value.item() if isinstance(value, np.generic) else value


def _is_plain(value: Any) -> bool:
    """Whether a state can hold a value that an estimator has learnt.

    What it cannot is an object without variables, such as a loss, which the estimator makes anew.
    """
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, Mapping):
        return all(map(_is_plain, value.values()))
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biufc" or _is_of_texts(value)
    plain = bool | int | float | str | None | np.generic | np.random.RandomState
    return isinstance(value, plain)


def _is_of_texts(value: np.ndarray[Any, Any]) -> bool:
    of_objects = value.dtype.kind == "O" and all(isinstance(one, str) for one in value.flat)
    return value.dtype.kind == "U" or of_objects


def _with_variables(value: Any) -> Any | None:
    """What cannot be kept of a value, and would be missed: an object that has variables."""
    if _is_plain(value):
        return None
    return next((one for one in _parts(value) if getattr(one, "__dict__", None)), None)


def _parts(value: Any) -> Iterator[Any]:
    """The values in lists, dicts and arrays of objects, however deep."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple) or (
        isinstance(value, np.ndarray) and value.dtype.kind == "O"
    ):
        for part in value:
            yield from _parts(part)
    else:
        yield value


def _as_tensors(value: Any) -> Any:
    """A value with a tensor in the place of each array."""
    import torch

    if isinstance(value, Mapping):
        return {key: _as_tensors(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_as_tensors(part) for part in value]
    if isinstance(value, np.random.RandomState):
        return {_RANDOM: _as_tensors(value.get_state(legacy=False))}
    if isinstance(value, np.ndarray) and _is_of_texts(value):
        texts = [str(one) for one in value.flat]
        return {_TEXTS: texts, _SHAPE: list(value.shape), _KIND: value.dtype.str}
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    return value.item() if isinstance(value, np.generic) else value


def _as_arrays(value: Any) -> Any:
    """The inverse of `_as_tensors`, as a copy; a tuple comes back as a list."""
    import torch

    if isinstance(value, Mapping):
        if set(value) == {_TEXTS, _SHAPE, _KIND}:
            return np.array(value[_TEXTS], dtype=value[_KIND]).reshape(value[_SHAPE])
        if set(value) == {_RANDOM}:
            random_state = np.random.RandomState()
            random_state.set_state(_as_arrays(value[_RANDOM]))
            return random_state
        return {key: _as_arrays(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_as_arrays(part) for part in value]
    return value.cpu().numpy().copy() if isinstance(value, torch.Tensor) else value
