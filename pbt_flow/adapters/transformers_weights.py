"""Which weights of a model a checkpoint holds: the trained ones, and a word on the frozen ones."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import nn


def weights_of(model: nn.Module, *, trained: bool) -> dict[str, torch.Tensor]:
    """The frozen parameters, or all that is in a state of the model beside them."""
    found = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        is_frozen = isinstance(tensor, nn.Parameter) and not tensor.requires_grad
        if is_frozen != trained:
            found[name] = tensor.detach()
    return found


def mean_weights(weights: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The mean of several models' weights; what is counted comes from the first."""
    means = dict(weights[0])
    for name, tensor in means.items():
        if tensor.is_floating_point():
            means[name] = torch.stack([one[name] for one in weights]).mean(0)
    return means


def with_shared_weights(model: nn.Module) -> nn.Module:
    """A copy of a model that has the very same parameters, and modules of its own.

    Adapters that are put into it leave the model as it was. So a hundred members in one process
    need the memory of one frozen model.
    """
    return copy.deepcopy(model, {id(one): one for one in model.parameters()})


def fingerprint(weights: Mapping[str, torch.Tensor]) -> str:
    """Tells other weights apart by the first few numbers of each tensor, which costs little."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        first = tensor.flatten()[:16].float().cpu()
        digest.update(f"{name} {tuple(tensor.shape)} {first.tolist()}".encode())
    return digest.hexdigest()
