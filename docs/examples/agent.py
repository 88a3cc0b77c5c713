"""PPO of Stable-Baselines3 on CartPole, with normalised observations."""

from optuna.distributions import FloatDistribution
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from pbt_flow.adapters.sb3 import AgentTask


class CartPole(AgentTask):
    space = {
        "learning_rate": FloatDistribution(1e-5, 1e-2, log=True),
        "gamma": FloatDistribution(0.9, 0.999),
        "ent_coef": FloatDistribution(1e-4, 0.1, log=True),
        "clip_range": FloatDistribution(0.02, 0.4),
    }
    defaults = {"population": 4, "turns": 8, "interval": 2048}
    episodes = 5

    def make_agent(self, seed):
        env = VecNormalize(make_vec_env("CartPole-v1", n_envs=4))
        return PPO("MlpPolicy", env, n_steps=64, batch_size=64, n_epochs=4, seed=seed, device="cpu")

    def make_evaluation_env(self):
        return VecNormalize(make_vec_env("CartPole-v1"), training=False, norm_reward=False)
