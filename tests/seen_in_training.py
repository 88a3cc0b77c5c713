"""What training really used, seen from torch: independent of what an adapter believes."""

import contextlib
from collections import defaultdict

from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_pre_hook


@contextlib.contextmanager
def seen_in_training():
    """The values that optimisers and dropout layers used in the block, by name.

    Weight decay is that of the groups that have any.
    """
    seen = defaultdict(set)

    def look_at_step(optimizer, *_):
        seen["lr"].update(float(group["lr"]) for group in optimizer.param_groups)
        decays = [float(group.get("weight_decay", 0)) for group in optimizer.param_groups]
        seen["weight_decay"].update(decay for decay in decays if decay or not any(decays))

    def look_at_layer(module, *_):
        if isinstance(module, _DropoutNd) and module.training:
            seen["dropout"].add(module.p)

    hooks = [
        register_optimizer_step_pre_hook(look_at_step),
        register_module_forward_pre_hook(look_at_layer),
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
