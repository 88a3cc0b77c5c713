"""An agent of Stable-Baselines3 keeps the contract of a task, and trains with what was asked."""

from pathlib import Path

import pytest
from optuna.distributions import FloatDistribution

pytest.importorskip("stable_baselines3")

import pbt_flow
from pbt_flow import TaskError
from pbt_flow.task import find_task
from pbt_flow.testing import TaskContract
from pbt_flow.testing.task_contract import middle

CartPole = find_task(f"{Path(__file__).resolve().parents[2]}/docs/examples/agent.py:CartPole")
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
