"""A state is written without the memory that none of its tensors owns.

`torch.save` writes the whole storage below each tensor. Of a state that holds one row of a large
tensor, the large tensor would be in every checkpoint. Tensors that share memory with each other go
on sharing it. A state whose tensors own most of their storages is written byte for byte as
`torch.save` writes it.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import IO, TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

_ALIGNED = 16
"""Bytes of the largest number: a place that this divides is one that every type can begin at."""
_PROTOCOL = 2
"""Of pickle, as in `torch.save`."""


class _View(NamedTuple):
    """Which part of its storage a tensor is."""

    dtype: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def numbers(self) -> int:
        """How many numbers it has."""
        product = 1
        for length in self.size:
            product *= length
        return product

    @property
    def owned(self) -> int:
        """Bytes of its numbers."""
        return self.numbers * self.dtype.itemsize

    @property
    def first(self) -> int:
        """The byte of the storage at which it begins."""
        return self.offset * self.dtype.itemsize

    @property
    def end(self) -> int:
        """The byte of the storage before which it ends."""
        if not self.numbers:
            return self.first
        reach = sum((n - 1) * step for n, step in zip(self.size, self.stride, strict=True))
        return self.first + (reach + 1) * self.dtype.itemsize


@dataclass
class _Storage:
    """A storage of a state, and what is known of its tensors."""

    storage: torch.UntypedStorage
    """Held on to, since it is known by its address."""
    views: set[_View] = field(default_factory=set)
    others_use: bool = False
    """Whether something else than a usual tensor needs it."""


class _Moved(NamedTuple):
    """Where the numbers of a view are found in a smaller storage."""

    storage: torch.UntypedStorage
    view: _View


def write_state(state: Mapping[str, Any], file: str | Path | IO[bytes]) -> None:
    """Write a state as `torch.save` does, without memory that belongs to none of its tensors."""
    import torch

    moved = _moved(state)
    if moved:
        torch.save(state, file, pickle_module=_pickle_with(moved), pickle_protocol=_PROTOCOL)
    else:
        torch.save(state, file)


def _moved(state: Mapping[str, Any]) -> dict[int, dict[_View, _Moved]]:
    """By the address of each storage that is mostly waste, where the views of it are found now."""
    found: dict[int, dict[_View, _Moved]] = {}
    for address, known in _storages(state).items():
        if known.others_use:
            continue
        parts = [part for cluster in _clusters(known.views) for part in _parts(cluster)]
        needed = sum(_needed(part) for part in parts)
        if 2 * needed < known.storage.nbytes():
            found[address] = {}
            for part in parts:
                found[address] |= _move(known.storage, part)
    return found


# --- what is in a state ---------------------------------------------------------------------------


def _storages(state: Mapping[str, Any]) -> dict[int, _Storage]:
    """The storages of a state by their addresses; nothing of a state that cannot be pickled."""
    import torch

    found: dict[int, _Storage] = {}

    class Finder(pickle.Pickler):
        """Pickles a state for the sake of its tensors: so it finds what `torch.save` will find."""

        def reducer_override(self, thing: Any) -> Any:
            if isinstance(thing, torch.TypedStorage):
                thing = thing._untyped_storage
            if isinstance(thing, torch.UntypedStorage):
                found.setdefault(thing._cdata, _Storage(thing)).others_use = True
            elif _is_usual(thing):
                storage = thing.untyped_storage()
                found.setdefault(storage._cdata, _Storage(storage)).views.add(_view_of(thing))
            else:
                return NotImplemented
            return tuple, ()  # nothing of it is wanted here

    try:
        Finder(io.BytesIO(), protocol=_PROTOCOL).dump(state)
    except Exception:
        return {}  # torch.save says what is wrong with it
    return found


def _is_usual(thing: Any) -> bool:
    """Whether something is a tensor of which its view says all."""
    import torch

    return (
        type(thing) is torch.Tensor
        and thing.layout == torch.strided
        and thing.device.type != "meta"
        and not thing.is_quantized
        and not thing.is_nested
        and not thing.is_conj()
        and not thing.is_neg()
        and not thing.__dict__
    )


def _view_of(tensor: torch.Tensor) -> _View:
    return _View(
        tensor.dtype, int(tensor.storage_offset()), tuple(tensor.size()), tuple(tensor.stride())
    )


# --- which of its tensors belong together ---------------------------------------------------------


def _clusters(views: set[_View]) -> Iterator[list[_View]]:
    """The views of one storage, those together whose spans overlap."""
    yield from ([view] for view in views if not view.numbers)
    cluster: list[_View] = []
    end = 0
    full = (view for view in views if view.numbers)
    for view in sorted(full, key=lambda view: (view.first, view.end)):
        if cluster and view.first >= end:
            yield cluster
            cluster = []
        end = max(end, view.end) if cluster else view.end
        cluster.append(view)
    if cluster:
        yield cluster


def _parts(cluster: list[_View]) -> list[list[_View]]:
    """A cluster in parts that have no number in common, such as two columns of a matrix."""
    one_type = len({view.dtype for view in cluster}) == 1
    if len(cluster) == 1 or not one_type or _owned(cluster) >= _span(cluster):
        return [cluster]
    group = list(range(len(cluster)))

    def root(member: int) -> int:
        while group[member] != member:
            member = group[member]
        return member

    for one, other in _sharing(cluster):
        group[root(one)] = root(other)
    parts: dict[int, list[_View]] = {}
    for member, view in enumerate(cluster):
        parts.setdefault(root(member), []).append(view)
    return list(parts.values())


def _sharing(cluster: list[_View]) -> list[tuple[int, int]]:
    """Which two of a cluster's views have a number in common, as far as chains of them go."""
    import torch

    places = [_places(view) for view in cluster]
    owners = [torch.full_like(those, member) for member, those in enumerate(places)]
    order = torch.cat(places).argsort()
    place, owner = torch.cat(places)[order], torch.cat(owners)[order]
    same = place[1:] == place[:-1]
    pairs = torch.stack([owner[:-1][same], owner[1:][same]], dim=1).unique(dim=0)  # type: ignore[no-untyped-call]
    return [(one, other) for one, other in pairs.tolist() if one != other]


def _places(view: _View) -> torch.Tensor:
    """Where in the storage the numbers of a view lie."""
    import torch

    places = torch.tensor([view.offset])
    for length, step in zip(view.size, view.stride, strict=True):
        places = (places[:, None] + torch.arange(length) * step).flatten()
    found: torch.Tensor = places.unique()  # type: ignore[no-untyped-call]
    return found


def _needed(part: list[_View]) -> int:
    """Bytes that a part takes in a storage of its own."""
    return min(_span(part), _owned(part)) if len(part) == 1 else _span(part)


def _span(part: list[_View]) -> int:
    """Bytes from the first of a part to its last."""
    return max(view.end for view in part) - min(view.first for view in part)


def _owned(part: list[_View]) -> int:
    """Bytes of all views of a part."""
    return sum(view.owned for view in part)


# --- a smaller storage ----------------------------------------------------------------------------


def _move(storage: torch.UntypedStorage, part: list[_View]) -> dict[_View, _Moved]:
    """Copy a part of a storage into one of its own."""
    import torch

    with torch.no_grad():
        view = part[0]
        if not view.numbers:
            nothing = torch.empty(0, dtype=view.dtype, device=storage.device)
            return {view: _Moved(nothing.untyped_storage(), view._replace(offset=0))}
        if _needed(part) < _span(part):
            dense = _tensor(storage, view).clone(memory_format=torch.contiguous_format)
            return {view: _Moved(dense.untyped_storage(), _view_of(dense))}
        first = min(view.first for view in part)
        first -= first % _ALIGNED
        end = max(view.end for view in part)
        span = _View(torch.uint8, first, (end - first,), (1,))
        copied = _tensor(storage, span).clone().untyped_storage()
        return {
            view: _Moved(copied, view._replace(offset=view.offset - first // view.dtype.itemsize))
            for view in part
        }


def _tensor(storage: torch.UntypedStorage, view: _View) -> torch.Tensor:
    import torch

    empty = torch.empty(0, dtype=view.dtype, device=storage.device)
    return empty.set_(storage, view.offset, view.size, view.stride)


def _pickle_with(moved: Mapping[int, Mapping[_View, _Moved]]) -> Any:
    """Python's pickle, for which the tensors of some storages lie in smaller ones."""

    class Pickler(pickle.Pickler):
        def reducer_override(self, thing: Any) -> Any:
            if not _is_usual(thing):
                return NotImplemented
            views = moved.get(thing.untyped_storage()._cdata)
            if views is None:
                return NotImplemented
            place = views[_view_of(thing)]
            smaller = _tensor(place.storage, place.view)
            smaller.requires_grad_(thing.requires_grad)
            return smaller.__reduce_ex__(_PROTOCOL)  # type: ignore[no-untyped-call]

    return SimpleNamespace(__name__="pickle", Pickler=Pickler)
