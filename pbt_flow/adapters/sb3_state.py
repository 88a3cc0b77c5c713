"""What a checkpoint holds of an agent of Stable-Baselines3, and what a turn begins anew."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import TrainFrequencyUnit

from pbt_flow.exceptions import TaskError
from pbt_flow.utils.text import byte_count

_COUNTERS = ("num_timesteps", "_n_updates", "_n_calls", "exploration_rate")
"""What decides when an agent begins to learn, delays an update, copies its networks, explores."""
_BUFFERS = (ReplayBuffer, DictReplayBuffer, NStepReplayBuffer)


def check_off_policy(agent: OffPolicyAlgorithm) -> None:
    """Refuse an agent of which a turn would not follow from its state.

    Raises:
        TaskError: It would not.
    """
    kind = type(agent.replay_buffer)
    if kind not in _BUFFERS:
        names = ", ".join(one.__name__ for one in _BUFFERS)
        raise TaskError(
            f"the replay buffer is a {kind.__name__}, of which a checkpoint does not know all; "
            f"supported are {names}"
        )
    if agent.optimize_memory_usage:
        raise TaskError(
            "optimize_memory_usage=True lets the first observation of a turn take the place of "
            "one that the buffer needs; make the agent without it"
        )
    if agent.train_freq.unit is not TrainFrequencyUnit.STEP:  # type: ignore[union-attr]
        raise TaskError(
            "train_freq counts episodes, so that a turn would have no certain length; give it a "
            "number of steps"
        )


def agent_state(agent: BaseAlgorithm, *, with_buffer: bool) -> dict[str, Any]:
    """The networks, their optimisers, and the statistics that normalise the environments.

    Args:
        agent: The agent.
        with_buffer: Whether the replay buffer of one that learns off policy is part of the state.
    """
    state: dict[str, Any] = {"agent": agent.get_parameters()}
    for name, rms in _statistics(agent).items():
        mean, var = torch.as_tensor(rms.mean), torch.as_tensor(rms.var)
        state[name] = {"mean": mean, "var": var, "count": float(rms.count)}
    if isinstance(agent, OffPolicyAlgorithm):
        state["replay"] = _replay_state(agent, with_buffer=with_buffer)
    return state


def load_agent_state(agent: BaseAlgorithm, state: dict[str, Any]) -> None:
    """Take over what `agent_state` gave."""
    agent.set_parameters(state["agent"])
    for name, rms in _statistics(agent).items():
        kept = state[name]
        # A checkpoint is read onto the member's device, and these live on the CPU whatever that is.
        mean, var = kept["mean"].cpu(), kept["var"].cpu()
        rms.mean, rms.var = mean.numpy().copy(), var.numpy().copy()
        rms.count = kept["count"]
    if isinstance(agent, OffPolicyAlgorithm):
        _load_replay_state(agent, state["replay"])


def _statistics(agent: BaseAlgorithm) -> dict[str, Any]:
    """The running statistics by which the training environments are normalised, if they are."""
    env = agent.get_vec_normalize_env()
    return {} if env is None else {"obs_rms": env.obs_rms, "ret_rms": env.ret_rms}


def _replay_state(agent: OffPolicyAlgorithm, *, with_buffer: bool) -> dict[str, Any]:
    """The counters, the coefficient of entropy where the agent finds it, and the buffer."""
    counters = {name: getattr(agent, name) for name in _COUNTERS if hasattr(agent, name)}
    state: dict[str, Any] = {"counters": counters}
    entropy = getattr(agent, "log_ent_coef", None)
    if entropy is not None:
        state["log_ent_coef"] = entropy.detach().clone()
    if with_buffer:
        buffer = _buffer(agent)
        arrays = {
            name: torch.from_numpy(array[: buffer.size()].copy())
            for name, array in _arrays(buffer).items()
        }
        state["buffer"] = {"pos": buffer.pos, "full": buffer.full, "arrays": arrays}
    return state


def _load_replay_state(agent: OffPolicyAlgorithm, state: dict[str, Any]) -> None:
    for name, value in state["counters"].items():
        setattr(agent, name, value)
    if "log_ent_coef" in state:
        with torch.no_grad():
            agent.log_ent_coef.copy_(state["log_ent_coef"])  # type: ignore[attr-defined]
    if "buffer" not in state:
        return
    buffer, kept = _buffer(agent), state["buffer"]
    buffer.pos, buffer.full = kept["pos"], kept["full"]
    for name, array in _arrays(buffer).items():
        array[: buffer.size()] = kept["arrays"][name].cpu().numpy()


def begin_turn(agent: OffPolicyAlgorithm, *, with_buffer: bool) -> None:
    """Begin anew what no state carries; noise between actions is begun anew by `learn`."""
    if not with_buffer:
        _buffer(agent).reset()


def describe_buffer(agent: OffPolicyAlgorithm, *, with_buffer: bool) -> str:
    """What a checkpoint holds of the buffer, in a sentence."""
    buffer = _buffer(agent)
    size = sum(array.nbytes for array in _arrays(buffer).values())
    room = f"{buffer.buffer_size * buffer.n_envs:,} transitions, {byte_count(size)} if it is full"
    if with_buffer:
        return f"{room}; it is in each checkpoint, and is copied with the weights"
    return f"{room}; it is in no checkpoint, and is empty when a turn begins"


def _buffer(agent: OffPolicyAlgorithm) -> ReplayBuffer:
    assert agent.replay_buffer is not None
    return agent.replay_buffer


def _arrays(buffer: ReplayBuffer) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of a buffer by name, those of a dict of observations as well."""
    found = {}
    for name, value in vars(buffer).items():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        for part, array in parts:
            if isinstance(array, np.ndarray) and array.shape[:1] == (buffer.buffer_size,):
                found[f"{name}/{part}" if part else name] = array
    return found
