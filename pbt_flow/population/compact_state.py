"""Writes a state without the memory that none of its tensors uses.

`torch.save` writes the whole storage behind each tensor. If a state holds one row of a large
tensor, every checkpoint would hold the whole large tensor. Here such a storage is replaced by
smaller ones when the state is written. Tensors that share numbers share them in the file, too. A
state whose tensors use most of their storages is written byte for byte as `torch.save` writes it.

A *view* in this file is the part of a storage that a tensor uses; a *group* of views shares
numbers and moves into one new storage.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import IO, TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

_ALIGNMENT = 16
"""Bytes of the largest type of number. Every type can begin at a multiple of it."""
_PROTOCOL = 2
"""The version of pickle's format, as in `torch.save`."""


class _View(NamedTuple):
    """The part of its storage that a tensor uses."""

    dtype: torch.dtype
    offset: int
    """The place of the first number in the storage, counted in numbers."""
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def numbers(self) -> int:
        """How many numbers the view has."""
        return math.prod(self.size)

    @property
    def own_bytes(self) -> int:
        """How many bytes the numbers of the view take without gaps."""
        return self.numbers * self.dtype.itemsize

    @property
    def first_byte(self) -> int:
        """The byte of the storage at which the view begins."""
        return self.offset * self.dtype.itemsize

    @property
    def end_byte(self) -> int:
        """The byte of the storage before which the view ends."""
        if not self.numbers:
            return self.first_byte
        last = sum((n - 1) * step for n, step in zip(self.size, self.stride, strict=True))
        return self.first_byte + (last + 1) * self.dtype.itemsize


@dataclass
class _KnownStorage:
    """A storage of a state, and the views of it that the state holds."""

    storage: torch.UntypedStorage
    """The storage. Holding it keeps its address, which is its key, from being used again."""
    views: set[_View] = field(default_factory=set)
    has_other_users: bool = False
    """Whether the state refers to the storage in another way than by plain tensors."""


class _NewPlace(NamedTuple):
    """Where the numbers of a view lie in a smaller storage."""

    storage: torch.UntypedStorage
    view: _View


def write_state(state: Mapping[str, Any], file: str | Path | IO[bytes]) -> None:
    """Write a state as `torch.save` does, without memory that none of its tensors uses."""
    import torch

    places = _new_places(state)
    if places:
        torch.save(state, file, pickle_module=_pickle_module(places), pickle_protocol=_PROTOCOL)
    else:
        torch.save(state, file)


def _new_places(state: Mapping[str, Any]) -> dict[int, dict[_View, _NewPlace]]:
    """Return, for the address of each storage that is mostly unused, the new place of each view."""
    found: dict[int, dict[_View, _NewPlace]] = {}
    for address, known in _find_storages(state).items():
        if known.has_other_users:
            continue
        groups: list[list[_View]] = []
        for cluster in _clusters(known.views):
            groups += _groups(cluster)
        needed = sum(_needed_bytes(group) for group in groups)
        # A storage of which half or more is used is not worth a copy.
        if 2 * needed < known.storage.nbytes():
            found[address] = {}
            for group in groups:
                found[address] |= _copy_group(known.storage, group)
    return found


# --- what is in a state ---------------------------------------------------------------------------


def _find_storages(state: Mapping[str, Any]) -> dict[int, _KnownStorage]:
    """Return the storages of a state by their addresses; none if the state cannot be pickled."""
    import torch

    found: dict[int, _KnownStorage] = {}

    class Finder(pickle.Pickler):
        """Pickles a state to find its tensors, since `torch.save` will find the same ones so."""

        def reducer_override(self, thing: Any) -> Any:
            if isinstance(thing, torch.TypedStorage):
                thing = thing._untyped_storage
            if isinstance(thing, torch.UntypedStorage):
                found.setdefault(thing._cdata, _KnownStorage(thing)).has_other_users = True
            elif _is_plain_tensor(thing):
                storage = thing.untyped_storage()
                known = found.setdefault(storage._cdata, _KnownStorage(storage))
                known.views.add(_view_of(thing))
            else:
                return NotImplemented
            # The pickle is thrown away, so an empty tuple may stand for the tensor in it.
            return tuple, ()

    try:
        Finder(io.BytesIO(), protocol=_PROTOCOL).dump(state)
    except Exception:
        # `torch.save` will raise the same, and its caller reports it.
        return {}
    return found


def _is_plain_tensor(thing: Any) -> bool:
    """Whether something is a tensor that its storage and its view describe completely."""
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
    """Yield the views of one storage in lists, with views whose byte ranges overlap in one list."""
    yield from ([view] for view in views if not view.numbers)
    cluster: list[_View] = []
    end = 0
    with_numbers = (view for view in views if view.numbers)
    for view in sorted(with_numbers, key=lambda view: (view.first_byte, view.end_byte)):
        if cluster and view.first_byte >= end:
            yield cluster
            cluster = []
        end = max(end, view.end_byte) if cluster else view.end_byte
        cluster.append(view)
    if cluster:
        yield cluster


def _groups(cluster: list[_View]) -> list[list[_View]]:
    """Split a cluster into groups that have no number in common, such as columns of a matrix."""
    has_one_type = len({view.dtype for view in cluster}) == 1
    # Where types are mixed, a number is no unit that two views could share; and views that fill
    # their range cannot be split to save memory.
    if len(cluster) == 1 or not has_one_type or _own_bytes(cluster) >= _range_bytes(cluster):
        return [cluster]
    # Union-find: each view points to another of its group, and the last one to itself.
    parent = list(range(len(cluster)))

    def root(view: int) -> int:
        while parent[view] != view:
            view = parent[view]
        return view

    for one, other in _sharing_pairs(cluster):
        parent[root(one)] = root(other)
    groups: dict[int, list[_View]] = {}
    for number, view in enumerate(cluster):
        groups.setdefault(root(number), []).append(view)
    return list(groups.values())


def _sharing_pairs(cluster: list[_View]) -> list[tuple[int, int]]:
    """Return pairs of views that share a number: enough of them to connect each group."""
    import torch

    places = [_number_places(view) for view in cluster]
    owners = [torch.full_like(own, number) for number, own in enumerate(places)]
    order = torch.cat(places).argsort()
    place, owner = torch.cat(places)[order], torch.cat(owners)[order]
    # After sorting, all views that use a number stand side by side, so neighbours are compared.
    is_shared = place[1:] == place[:-1]
    pairs = torch.stack([owner[:-1][is_shared], owner[1:][is_shared]], dim=1).unique(dim=0)  # type: ignore[no-untyped-call]
    return [(one, other) for one, other in pairs.tolist() if one != other]


def _number_places(view: _View) -> torch.Tensor:
    """Return the places in the storage at which the numbers of a view lie."""
    import torch

    places = torch.tensor([view.offset])
    for length, step in zip(view.size, view.stride, strict=True):
        places = (places[:, None] + torch.arange(length) * step).flatten()
    # An expanded tensor has several numbers at one place.
    found: torch.Tensor = places.unique()  # type: ignore[no-untyped-call]
    return found


def _needed_bytes(group: list[_View]) -> int:
    """Return how many bytes a group takes in a storage of its own."""
    whole_range = _range_bytes(group)
    # A single view can be stored without its gaps. An expanded one is smaller as it is.
    return min(whole_range, _own_bytes(group)) if len(group) == 1 else whole_range


def _range_bytes(group: list[_View]) -> int:
    """Return how many bytes lie between the first byte of a group and its end."""
    return max(view.end_byte for view in group) - min(view.first_byte for view in group)


def _own_bytes(group: list[_View]) -> int:
    """Return how many bytes the views of a group take together, each without gaps."""
    return sum(view.own_bytes for view in group)


# --- a smaller storage ----------------------------------------------------------------------------


def _copy_group(storage: torch.UntypedStorage, group: list[_View]) -> dict[_View, _NewPlace]:
    """Copy the numbers of a group into a storage of their own; return each view's new place."""
    import torch

    with torch.no_grad():
        view = group[0]
        if not view.numbers:
            empty = torch.empty(0, dtype=view.dtype, device=storage.device)
            return {view: _NewPlace(empty.untyped_storage(), view._replace(offset=0))}
        if _needed_bytes(group) < _range_bytes(group):
            dense = _tensor(storage, view).clone(memory_format=torch.contiguous_format)
            return {view: _NewPlace(dense.untyped_storage(), _view_of(dense))}
        # The copy begins at an aligned byte, so that each offset in it is a whole number again.
        first = min(view.first_byte for view in group)
        first -= first % _ALIGNMENT
        end = max(view.end_byte for view in group)
        all_bytes = _View(torch.uint8, first, (end - first,), (1,))
        copied = _tensor(storage, all_bytes).clone().untyped_storage()
        places: dict[_View, _NewPlace] = {}
        for view in group:
            offset = view.offset - first // view.dtype.itemsize
            places[view] = _NewPlace(copied, view._replace(offset=offset))
        return places


def _tensor(storage: torch.UntypedStorage, view: _View) -> torch.Tensor:
    import torch

    empty = torch.empty(0, dtype=view.dtype, device=storage.device)
    return empty.set_(storage, view.offset, view.size, view.stride)


def _pickle_module(places: Mapping[int, Mapping[_View, _NewPlace]]) -> Any:
    """Return a pickle module for `torch.save` that writes some tensors from their new places."""

    class Pickler(pickle.Pickler):
        def reducer_override(self, thing: Any) -> Any:
            if not _is_plain_tensor(thing):
                return NotImplemented
            views = places.get(thing.untyped_storage()._cdata)
            if views is None:
                return NotImplemented
            place = views[_view_of(thing)]
            smaller = _tensor(place.storage, place.view)
            smaller.requires_grad_(thing.requires_grad)
            return smaller.__reduce_ex__(_PROTOCOL)  # type: ignore[no-untyped-call]

    return SimpleNamespace(__name__="pickle", Pickler=Pickler)
