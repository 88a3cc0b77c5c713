"""Every kind of task keeps its contract on a GPU, bit for bit, where torch repeats itself.

    python -m pytest -m "slow or not slow" tests/whole/test_gpu_*.py

on a machine with one.
"""

import importlib.util
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from pbt_flow.task import find_task
from pbt_flow.testing import TaskContract

if not torch.cuda.is_available():
    pytest.skip("this machine has no GPU", allow_module_level=True)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
]

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"


def needs(library):
    missing = importlib.util.find_spec(library) is None
    return pytest.mark.skipif(missing, reason=f"{library} is not installed")


@pytest.fixture(autouse=True)
def as_torch_repeats_itself(monkeypatch, tmp_path_factory):
    """The sums of some operations are else in another order each time."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setenv("PBT_FLOW_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


class OnGPU(TaskContract):
    device = "cuda"

    def make(self, member=0):
        made = super().make(member)
        assert str(made.device).startswith("cuda")
        return made


class TestGanOnGPU(OnGPU):
    task, steps = find_task("gan"), 8
    options: ClassVar[dict[str, Any]] = dict(task.quick["options"])


class TestTranslationOnGPU(OnGPU):
    task, steps, begins_anew = find_task("translation"), 4, True
    options: ClassVar[dict[str, Any]] = dict(task.quick["options"])


class TestRLOnGPU(OnGPU):
    task, steps = find_task("rl"), 256
    obeyed = tuple(name for name in task.space if name != "clip")
    options: ClassVar[dict[str, Any]] = {"env": "CartPole-v1", "envs": 2, "hidden": 16}


@needs("lightning")
class TestLightningOnGPU(OnGPU):
    task, steps = find_task(f"{EXAMPLES}/lightning_module.py:Digits"), 1


@needs("peft")
class TestTransformersOnGPU(OnGPU):
    task, steps, begins_anew = find_task(f"{EXAMPLES}/lora.py:Adapters"), 3, True


@needs("keras")
class TestKerasOnGPU(OnGPU):
    task, steps = find_task(f"{EXAMPLES}/convolution.py:Digits"), 1


if importlib.util.find_spec("stable_baselines3"):
    from stable_baselines3 import PPO

    CartPole = find_task(f"{EXAMPLES}/agent.py:CartPole")

    class AgentOnGPU(CartPole):
        def make_agent(self, seed):
            env = super().make_agent(seed).get_env()
            return PPO("MlpPolicy", env, n_steps=64, batch_size=64, seed=seed, device=self.device)

    class TestStableBaselinesOnGPU(OnGPU):
        task, steps, begins_anew = AgentOnGPU, 256, True
        obeyed = ("learning_rate", "gamma", "ent_coef")


class TestScriptOnGPU(OnGPU):
    task, steps = find_task(f"{Path(__file__).parents[1]}/joining/scripts/on_device.py"), 7
