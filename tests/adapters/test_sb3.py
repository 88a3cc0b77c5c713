"""An agent of Stable-Baselines3 keeps the contract of a task, and trains with what was asked."""

from pathlib import Path

import pytest
from optuna.distributions import FloatDistribution

pytest.importorskip("stable_baselines3")

import numpy as np
from stable_baselines3 import DQN, SAC, TD3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import OrnsteinUhlenbeckActionNoise

import pbt_flow
from pbt_flow import TaskError
from pbt_flow.task import find_task
from pbt_flow.testing import TaskContract
from pbt_flow.testing.task_contract import middle, same, through_checkpoint

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
CartPole = find_task(f"{EXAMPLES}/agent.py:CartPole")
Pendulum = find_task(f"{EXAMPLES}/off_policy.py:Pendulum")
RATE = FloatDistribution(1e-5, 1e-2, log=True)


class TestCartPoleContract(TaskContract):
    task, steps, begins_anew = CartPole, 256, True
    obeyed = ("learning_rate", "gamma", "ent_coef")  # a clip of 0.1 does not bind in so few steps


def test_after_an_exploit_everything_that_was_asked_is_live():
    donor, copy = CartPole(seed=0), CartPole(seed=1)
    asked = {"learning_rate": 0.004, "gamma": 0.93, "ent_coef": 0.03, "clip_range": 0.31}
    donor.reseed(1)
    donor.train(middle(CartPole.space), 256)
    copy.load_state_dict(donor.state_dict())
    copy.reseed(2)
    assert copy.train(asked, 256) == {f"live/{name}": value for name, value in asked.items()}
    assert copy.agent.rollout_buffer.gamma == copy.agent.get_vec_normalize_env().gamma == 0.93


def test_an_agent_that_trains_with_another_rate_fails_its_turn_with_both_numbers():
    task = CartPole(seed=0)
    task.agent._update_learning_rate = lambda optimizer: None
    task.reseed(1)
    with pytest.raises(TaskError, match=r"learning_rate: 0.004 was asked for.* with 0.0003"):
        task.train({**middle(CartPole.space), "learning_rate": 0.004}, 256)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("n_steps", "the size of the rollout buffer"),
        ("learning_rat", "PPO has no 'learning_rat'"),
        ("_last_obs", "has no '_last_obs'"),
    ],
)
def test_what_an_agent_cannot_change_is_refused_when_it_is_built(name, said):
    with pytest.raises(TaskError, match=said):
        type("Wrong", (CartPole,), {"space": {name: RATE}})(seed=0)


def test_a_turn_that_is_no_whole_number_of_rollouts_is_refused():
    task = CartPole(seed=0)
    task.reseed(1)
    with pytest.raises(TaskError, match="rollouts of 256 .*--interval 1024"):
        task.train(middle(CartPole.space), 1000)


@pytest.mark.usefixtures("database")
def test_a_population_of_agents_trains_and_its_winner_plays():
    settings = {"population": 2, "turns": 2, "interval": 256, "engine": "inline", "quiet": True}
    result = pbt_flow.run(CartPole, **settings)
    assert result.status == "finished"
    for turns in result.history.turns.values():
        for turn in turns:
            live = {f"live/{name}": value for name, value in turn.plan.hparams.items()}
            assert turn.metrics == live
    assert min(result.winner.task().evaluate()) > 0


# --- off policy -----------------------------------------------------------------------------------


class Short(Pendulum):
    """It begins to learn within a turn of 64 steps, and looks at one short episode."""

    episodes = 1
    kind, options = SAC, {"batch_size": 8, "learning_starts": 40, "buffer_size": 100}
    env = "Pendulum-v1"

    def make_agent(self, seed):
        env, policy = make_vec_env(self.env), {"net_arch": [8]}
        return self.kind(
            "MlpPolicy", env, seed=seed, device="cpu", policy_kwargs=policy, **self.options
        )

    def make_evaluation_env(self):
        return make_vec_env(self.env)


class WithNoise(Short):
    kind = TD3

    @property
    def options(self):
        # Noise of its own for each agent, as in a process of its own.
        noise = OrnsteinUhlenbeckActionNoise(np.zeros(1), 0.3 * np.ones(1))
        return {**Short.options, "policy_delay": 7, "action_noise": noise}


class Deep(Short):
    kind, env = DQN, "CartPole-v1"
    options = {**Short.options, "target_update_interval": 20, "exploration_final_eps": 0.9}
    space = {"learning_rate": RATE, "gamma": FloatDistribution(0.9, 0.999)}


class Several(Short):
    options = {**Short.options, "n_steps": 3}


class Forgetful(Short):
    keeps_replay_buffer = False


class Coefficient(Short):
    options = {**Short.options, "ent_coef": 0.1}
    space = {"ent_coef": FloatDistribution(1e-3, 1.0, log=True)}


AGENTS = [
    Short,
    Deep,
    *(pytest.param(kind, marks=pytest.mark.slow) for kind in (WithNoise, Several, Coefficient)),
    Forgetful,
]


@pytest.mark.slow
class TestPendulumContract(TaskContract):
    task, steps, begins_anew = Short, 64, True


def turn(task, number, hparams=None, steps=64):
    task.reseed(number)
    told = task.train({**middle(task.space), **(hparams or {})}, steps)
    return told, task.evaluate(), task.state_dict()


@pytest.mark.parametrize("kind", AGENTS, ids=lambda kind: kind.__name__)
def test_an_agent_that_learns_off_policy_trains_on_alike_from_its_state(kind):
    """Its buffer has been filled and written over by then; noise and counters count as well."""
    warm, cold = kind(seed=0), kind(seed=1)
    for number in (1, 2):
        state = through_checkpoint(turn(warm, number)[2])
    cold.load_state_dict(state)
    one, other = turn(warm, 3), turn(cold, 3)
    assert one[:2] == other[:2]
    assert same(one[2], other[2])
    assert not same(one[2], state)


def test_the_buffer_goes_with_the_weights_or_begins_empty():
    with_buffer, without = Short(seed=0), Forgetful(seed=0)
    for task in (with_buffer, without):
        turn(task, 1)
        turn(task, 2)
    kept = with_buffer.state_dict()["replay"]
    assert kept["buffer"]["full"]
    assert kept["buffer"]["arrays"]["observations"].shape == (100, 1, 3)
    assert kept["counters"]["num_timesteps"] == 128
    assert "buffer" not in without.state_dict()["replay"]
    assert without.agent.replay_buffer.size() == 64
    assert "is in each checkpoint" in with_buffer.understood()["replay buffer"]
    assert "is empty when a turn begins" in without.understood()["replay buffer"]


@pytest.mark.parametrize(
    ("kind", "asked"),
    [
        (Short, {"learning_rate": 0.004, "gamma": 0.93, "tau": 0.02}),
        pytest.param(Several, {"gamma": 0.93}, marks=pytest.mark.slow),
        (Deep, {"learning_rate": 0.004, "gamma": 0.93}),
        pytest.param(Coefficient, {"ent_coef": 0.7}, marks=pytest.mark.slow),
    ],
    ids=["SAC", "several steps", "DQN", "coefficient"],
)
def test_after_an_exploit_what_was_asked_is_live_and_obeyed_off_policy(kind, asked):
    state = turn(kind(seed=0), 1)[2]
    outcomes = []
    for hparams in (asked, {}):
        copy = kind(seed=1)
        copy.load_state_dict(through_checkpoint(state))
        outcomes.append(turn(copy, 2, hparams))
    told, _, after = outcomes[0]
    assert told.items() >= {f"live/{name}": value for name, value in asked.items()}.items()
    assert not same(after["agent"], outcomes[1][2]["agent"])


def test_a_turn_that_ends_before_the_agent_learns_says_when_it_begins():
    with pytest.raises(TaskError, match=r"begins after 40 steps \(learning_starts\); let a turn"):
        turn(Short(seed=0), 1, steps=16)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"train_freq": (1, "episode")}, "train_freq counts episodes"),
        (
            {
                "optimize_memory_usage": True,
                "replay_buffer_kwargs": {"handle_timeout_termination": False},
            },
            "optimize_memory_usage=True lets the first observation",
        ),
    ],
    ids=["episodes", "memory"],
)
def test_an_agent_whose_turn_does_not_follow_from_its_state_is_refused(options, said):
    made = {**Short.options, **options}
    with pytest.raises(TaskError, match=said):
        type("Wrong", (Short,), {"options": made})(seed=0)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("buffer_size", "it is the size of the replay buffer"),
        ("train_freq", "how many steps lie between two updates"),
        ("ent_coef", "the SAC finds it by itself, as 'auto' says; make the agent with a number"),
    ],
)
def test_what_cannot_change_off_policy_is_refused_when_it_is_built(name, said):
    with pytest.raises(TaskError, match=said):
        type("Wrong", (Short,), {"space": {name: RATE}})(seed=0)
