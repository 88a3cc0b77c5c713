"""SAC of Stable-Baselines3 on Pendulum; its replay buffer is in each checkpoint."""

from optuna.distributions import FloatDistribution
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env

from pbt_flow.adapters.sb3 import AgentTask


class Pendulum(AgentTask):
    space = {
        "learning_rate": FloatDistribution(1e-5, 1e-2, log=True),
        "gamma": FloatDistribution(0.9, 0.999),
        "tau": FloatDistribution(1e-3, 0.1, log=True),
    }
    defaults = {"population": 4, "turns": 10, "interval": 1000}
    episodes = 5

    def make_agent(self, seed):
        sizes = {"buffer_size": 20_000, "learning_starts": 200, "batch_size": 64}
        return SAC("MlpPolicy", make_vec_env("Pendulum-v1"), seed=seed, device="cpu", **sizes)

    def make_evaluation_env(self):
        return make_vec_env("Pendulum-v1")
