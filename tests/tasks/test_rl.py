"""tasks/rl.py: PPO on small environments, some of them defined here."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pbt_flow.exceptions import Diverged
from pbt_flow.task import TaskError
from pbt_flow.testing import TaskContract, assert_same, middle, same

gym = pytest.importorskip("gymnasium")
Image = pytest.importorskip("PIL.Image")

from gymnasium.spaces import Box, Discrete  # noqa: E402

from pbt_flow.tasks.rl import RL, ActorCritic, Episodes, Normaliser, gae  # noqa: E402
from pbt_flow.tasks.rl_actions import Actions  # noqa: E402
from pbt_flow.tasks.rl_environments import Recipe  # noqa: E402


class Corridor(gym.Env[Any, Any]):
    """Pays 1 a step for 10 steps, then stops or is cut off; notes the seeds that it is given."""

    seeds: ClassVar[list[int]] = []
    observation_space = Box(-1.0, 1.0, (2,), np.float32)
    action_space = Discrete(3, start=5)

    def __init__(self, length: int = 10, terminates: bool = True) -> None:
        self.length, self.terminates = length, terminates

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.seeds.append(seed)
        self.t = 0
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self.t += 1
        end = self.t == self.length
        return self.observe(), 1.0, end and self.terminates, end and not self.terminates, {}

    def observe(self) -> Any:
        return np.zeros(2, np.float32)


class Stairs(Corridor):
    """Its first episode pays 1, 2, 3 or 4, by the seed."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.length = self.length if seed is None else 1 + seed % 4
        return super().reset(seed=seed)


class Rut(Corridor):
    """Starts outside or inside of a rut; one step leads inside, where each step pays 1."""

    def __init__(self, terminates: bool) -> None:
        super().__init__(1, terminates)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.inside = 0.0
        _, info = super().reset(seed=seed)
        self.inside = float(self.np_random.integers(2))
        return self.observe(), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward, self.inside = self.inside, 1.0
        obs, _, terminated, truncated, info = super().step(action)
        return obs, reward, terminated, truncated, info

    def observe(self) -> Any:
        return np.array([self.inside, 0.0], np.float32)


class Lamp(Corridor):
    """An image with a light on the left or the right; pays for the action that names the side."""

    observation_space = Box(0, 255, (8, 8, 1), np.uint8)
    action_space = Discrete(2)

    def observe(self) -> Any:
        self.side = int(self.np_random.integers(2))
        image = np.zeros((8, 8, 1), np.uint8)
        image[:, 4 * self.side : 4 * self.side + 4] = 255
        return image

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        right = float(action == self.side)
        obs, _, terminated, truncated, info = super().step(action)
        return obs, right, terminated, truncated, info


class Valve(Corridor):
    """Continuous actions of a lopsided range, in two dimensions, one of them without an end."""

    low, high = np.array([[0.0, -1.0]], np.float32), np.array([[10.0, np.inf]], np.float32)
    action_space = Box(low, high, dtype=np.float32)


for name, entry, options in [
    ("Corridor", Corridor, {}),
    ("RutThatEnds", Rut, {"terminates": True}),
    ("RutCutOff", Rut, {"terminates": False}),
    ("Stairs", Stairs, {}),
    ("Lamp", Lamp, {}),
    ("Valve", Valve, {}),
]:
    gym.register(f"PbtFlowTest/{name}-v0", entry, kwargs=options)

GOOD = middle(RL.space) | {"lr": 2.5e-3, "unroll": 32, "clip": 0.2, "entropy_cost": 0.01}

THREE = {True: Discrete(3), False: Box(-1.0, 1.0, (3,))}
SMALL = {"envs": 2, "hidden": 16, "epochs": 2, "minibatches": 2}
# In a short turn at a low learning rate no probability moves far enough to be clipped.
OBEYED = tuple(name for name in RL.space if name != "clip")


class TestOnCartPole(TaskContract):
    task, steps, obeyed = RL, 256, OBEYED
    options: ClassVar[dict[str, Any]] = {"env": "CartPole-v1", **SMALL}


class TestOnPendulum(TaskContract):
    task, steps, obeyed = RL, 256, OBEYED
    options: ClassVar[dict[str, Any]] = {"env": "Pendulum-v1", **SMALL}


class TestOnImages(TaskContract):
    task, steps, obeyed = RL, 256, OBEYED
    options: ClassVar[dict[str, Any]] = {"env": "PbtFlowTest/Lamp-v0", **SMALL}


def make(env: str = "PbtFlowTest/Corridor-v0", seed: int = 0, **options: Any) -> RL:
    task = RL(seed=seed, env=env, **{**SMALL, **options})
    task.reseed(seed)
    return task


# --- learning -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_cartpole_is_learned_from_20_to_over_150() -> None:
    task = RL(seed=0, env="CartPole-v1")
    before = task.report()["return"]
    for turn in range(4):
        task.reseed(turn)
        task.train(GOOD, 4000)
    assert before < 40
    assert task.report()["return"] > 150


@pytest.mark.slow
def test_an_image_tells_the_policy_what_to_do() -> None:
    task = make("PbtFlowTest/Lamp-v0", envs=8, epochs=4)
    before = task.report()["return"]
    task.train(GOOD, 3000)
    assert before < 7  # chance is 5 of 10
    assert task.report()["return"] > 9


def test_lunar_lander_is_the_default_and_runs() -> None:
    pytest.importorskip("Box2D")
    task = RL(seed=0)
    task.reseed(0)
    task.train(GOOD, 512)
    assert len(task.evaluate()) >= 8


def test_a_hopper_of_mujoco_trains_with_continuous_actions() -> None:
    pytest.importorskip("mujoco", reason="it comes with pip install 'pbt-flow[mujoco]'")
    task = make("Hopper-v5", report_episodes=2)
    assert task.understood()["environment"] == (
        "Hopper-v5, observations 11 numbers, actions 3 numbers, episodes of at most 1000 steps"
    )
    assert task.train(GOOD, 256)["env_steps"] == 256
    assert all(math.isfinite(score) for score in task.evaluate())
    assert math.isfinite(task.report()["return"])
    model, example = task.model(), task.example()
    with torch.no_grad():
        actions = model(torch.from_numpy(example))
    assert actions.shape == (4, 3)
    assert actions.abs().max() <= 1


@pytest.mark.slow
def test_atari_runs() -> None:
    pytest.importorskip("ale_py")
    task = make("ALE/Breakout-v5", episodes=2, report_episodes=2)
    metrics = task.train(GOOD, 256)
    assert metrics["env_steps"] == 256
    assert all(math.isfinite(score) for score in task.evaluate())


# --- the algorithm --------------------------------------------------------------------------------


def test_gae_equals_the_sum_that_defines_it() -> None:
    rng = np.random.default_rng(0)
    steps, envs, discount, lam = 12, 3, 0.9, 0.8
    rewards, values, after = rng.normal(size=(3, steps, envs))
    terminated, truncated = rng.random((2, steps, envs)) < 0.2
    ended = terminated | truncated
    expected = np.zeros((steps, envs))
    for e in range(envs):
        for t in range(steps):
            for k in range(t, steps):
                error = rewards[k, e] - values[k, e]
                error += 0.0 if terminated[k, e] else discount * after[k, e]
                expected[t, e] += (discount * lam) ** (k - t) * error
                if ended[k, e]:
                    break
    got = gae(rewards, values, after, terminated, ended, discount, lam)
    np.testing.assert_allclose(got, expected)


@pytest.mark.slow
@pytest.mark.parametrize(("env", "value"), [("RutCutOff", 10.0), ("RutThatEnds", 1.0)])
def test_a_truncated_episode_would_have_gone_on_and_a_terminated_one_not(
    env: str, value: float
) -> None:
    # Cut off after one step inside, a reward of 1 would have gone on for ever: 1 / (1 - 0.9). Had
    # the next episode's first observation been taken for the last one, it would be 5.5.
    task = make(f"PbtFlowTest/{env}-v0", envs=8, epochs=4)
    task.train({**GOOD, "one_minus_gamma": 0.1}, 10_000)
    with torch.no_grad():
        _, scaled = task.net(torch.tensor([[1.0, 0.0]]))
    size = math.sqrt(0.5)  # root mean square of the rewards, by which they are divided
    assert scaled.item() * size == pytest.approx(value, rel=0.15)


def test_running_statistics_are_those_of_all_data() -> None:
    rng = np.random.default_rng(0)
    data = rng.normal([0.0, 100.0, -3.0], [1.0, 5.0, 1e-3], size=(1000, 3))
    data.sort(axis=0)  # so that batches differ
    normaliser = Normaliser(3)
    for batch in np.split(data, [1, 10, 500, 999]):
        normaliser.update(batch)
    np.testing.assert_allclose(normaliser.mean, data.mean(0), rtol=1e-4)
    np.testing.assert_allclose(normaliser.var, data.var(0), rtol=1e-2)


def test_training_gathers_the_statistics_of_observations() -> None:
    task = make("CartPole-v1")
    task.train(GOOD, 640)
    state = task.state_dict()["net"]
    assert state["body.1.count"] == 640
    assert (state["body.1.var"] > 0).all()


@pytest.mark.parametrize("discrete", [True, False])
def test_numpy_and_torch_give_the_same_head(discrete: bool) -> None:
    torch.manual_seed(0)
    net = ActorCritic(Box(-9, 9, (4,)), Actions(THREE[discrete], "it"), 16)
    obs = np.random.default_rng(0).normal(2.0, 5.0, (100, 4)).astype(np.float32)
    net.body[1].update(obs[:50])
    obs[0] = 1e6  # clipped by both
    with torch.no_grad():
        expected, _ = net(torch.from_numpy(obs))
    np.testing.assert_allclose(net.numpy_head()(obs), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("discrete", [True, False])
def test_actions_are_sampled_from_the_distribution_that_is_learned(discrete: bool) -> None:
    torch.manual_seed(0)
    net = ActorCritic(Box(-9, 9, (4,)), Actions(THREE[discrete], "it"), 16)
    with torch.no_grad():
        net.actor[-1].bias.copy_(torch.tensor([0.0, 1.0, -1.0]))
        if net.log_std is not None:
            net.log_std.copy_(torch.tensor([0.0, -1.0, 0.5]))
        head, _ = net(torch.zeros(1, 4))
    actions = net.actor_of_now(np.random.default_rng(0))(np.zeros((20_000, 4), np.float32))
    got, entropy = net.log_prob_and_entropy(head.expand(20_000, 3), torch.as_tensor(actions))
    if net.log_std is None:
        known: Any = torch.distributions.Categorical(logits=head)
        expected = known.log_prob(torch.as_tensor(actions))
        share = np.bincount(actions, minlength=3) / len(actions)
        np.testing.assert_allclose(share, known.probs[0], atol=0.02)
    else:
        known = torch.distributions.Normal(head, net.log_std.detach().exp())
        expected = known.log_prob(torch.as_tensor(actions)).sum(1)
        np.testing.assert_allclose(actions.std(0), known.stddev[0], rtol=0.03)
    torch.testing.assert_close(got.float(), expected.float(), rtol=1e-4, atol=1e-4)
    assert entropy[0].item() == pytest.approx(known.entropy().sum().item(), rel=1e-4)


def test_a_narrow_clip_range_keeps_the_policy_near_the_old_one() -> None:
    clipped = []
    for clip in (0.05, 0.5):
        task = make("CartPole-v1")
        clipped.append(task.train({**GOOD, "clip": clip}, 1024)["clipped"])
    assert clipped[0] > 2 * clipped[1]


def test_continuous_actions_stay_in_their_range() -> None:
    task = make("PbtFlowTest/Valve-v0")
    assert task.train(GOOD, 512)["env_steps"] == 512  # the environment checks each action
    middle_of_the_range = task.to_env(np.zeros((1, 2)))
    np.testing.assert_array_equal(middle_of_the_range, [[[5.0, 0.0]]])


# --- steps ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("unroll", "updates"), [(32, 16), (128, 4), (512, 1)])
def test_an_unroll_is_as_long_as_its_hyperparameter_says(unroll: int, updates: int) -> None:
    task = make()
    task.train({**GOOD, "unroll": unroll}, 1024)
    steps = task.state_dict()["optimizer"]["state"][0]["step"]
    assert steps == updates * task.epochs * task.minibatches


def test_what_an_unroll_leaves_over_is_carried_to_the_next_turn() -> None:
    task, trained = make(), []
    for turn in range(10):
        task.reseed(turn)
        trained.append(task.train({**GOOD, "unroll": 300}, 1000)["env_steps"])
    assert set(trained) == {600, 1200}
    assert 0 <= 10_000 - sum(trained) < 600


@pytest.mark.parametrize("unroll", [32, 128, 512])
def test_an_interval_shorter_than_an_unroll_trains_the_interval_and_says_so(unroll: int) -> None:
    task, trained, said = make(envs=8, epochs=1), [], []
    for turn in range(3):
        task.reseed(turn)
        metrics = task.train({**GOOD, "unroll": unroll}, 2000)
        trained.append(metrics["env_steps"])
        said.append(metrics["unroll"])
    assert 0 <= 6000 - sum(trained) < 8 * min(unroll, 250)
    assert said == [min(unroll, 250)] * 3


turns = st.lists(
    st.tuples(st.integers(0, 1), st.integers(1, 64), st.booleans()), min_size=1, max_size=6
)
"""A member, its unroll, and whether it copies the other member first."""


@given(turns=turns, interval=st.integers(1, 200), envs=st.integers(2, 9))
@settings(max_examples=30)
def test_a_lineage_trains_its_intervals_less_a_rest_that_is_smaller_than_an_unroll(
    turns: list[tuple[int, int, bool]], interval: int, envs: int
) -> None:
    members = [make(envs=envs, epochs=1, minibatches=1, seed=member) for member in (0, 1)]
    due, trained = [0, 0], [0.0, 0.0]  # along the lineage of the weights that a member has
    for number, (member, unroll, copies) in enumerate(turns):
        task, other = members[member], 1 - member
        if copies:
            task.load_state_dict(copy.deepcopy(members[other].state_dict()))
            due[member], trained[member] = due[other], trained[other]
        task.reseed(number)
        before = updates(task)
        metrics = task.train({**GOOD, "unroll": unroll}, interval)
        due[member] += interval
        trained[member] += metrics["env_steps"]
        assert 0 <= due[member] - trained[member] < unroll * envs
        # What the record says is what was trained.
        assert metrics["env_steps"] == (updates(task) - before) * metrics["unroll"] * envs


def updates(task: RL) -> int:
    state = task.state_dict()["optimizer"]["state"]
    return int(state[0]["step"]) if state else 0


def test_a_debt_in_the_state_of_an_earlier_version_is_paid_back() -> None:
    task = make()
    task.load_state_dict({**task.state_dict(), "carry": -500})
    trained = [task.train({**GOOD, "unroll": 50}, 200)["env_steps"] for _ in range(5)]
    assert trained == [0, 0, 100, 200, 200]


def test_no_minibatch_of_an_unroll_that_was_cut_short_is_empty() -> None:
    task = make(minibatches=64)
    metrics = task.train({**GOOD, "unroll": 64}, 10)
    assert metrics["env_steps"] == 10
    assert all(map(math.isfinite, metrics.values()))
    assert updates(task) == task.epochs * 10


# --- scores ---------------------------------------------------------------------------------------


def test_the_score_is_the_last_episodes_of_this_turn() -> None:
    task = make(episodes=10)
    task.train(GOOD, 1024)
    assert task.evaluate() == [10.0] * 10


def test_episodes_still_running_are_played_out_where_too_few_have_ended() -> None:
    task = make(envs=4, episodes=10)
    task.train({**GOOD, "unroll": 15}, 60)  # 15 steps each: one episode ended, one half played
    state = task.state_dict()
    assert task.evaluate() == task.evaluate() == [10.0] * 8
    assert_same(task.state_dict(), state)


def test_playing_out_counts_one_episode_of_each_environment() -> None:
    episodes = Episodes(Recipe(name="PbtFlowTest/Stairs-v0").make(4), seed=0)
    episodes.play_out(lambda obs: np.full(len(obs), 5))
    assert episodes.returns == [1.0, 2.0, 3.0, 4.0]


def test_a_turn_forgets_the_episodes_of_the_last_one() -> None:
    task = make(envs=4, episodes=10)
    task.train(GOOD, 1024)
    task.reseed(1)
    assert len(task.evaluate()) == 4


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1", "PbtFlowTest/Lamp-v0"])
def test_weights_that_blow_up_are_named_and_do_not_act(env: str, tmp_path: Path) -> None:
    task = make(env)
    with pytest.raises(
        Diverged, match="weights are not finite after update 1 of the turn, at step"
    ):
        task.train({**GOOD, "lr": 1e38}, 2048)
    task.reseed(1)
    with pytest.raises(Diverged, match="weights are not finite with which the turn began"):
        task.train(GOOD, 1024)
    with pytest.raises(Diverged, match="weights are not finite in the evaluation"):
        task.evaluate()
    assert math.isnan(task.report()["return"])
    task.samples(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_report_plays_under_seeds_that_training_never_uses() -> None:
    task = make(report_episodes=5)
    Corridor.seeds.clear()
    for turn in range(20):
        task.reseed(turn)
        task.train(GOOD, 64)
    training = set(Corridor.seeds)
    Corridor.seeds.clear()
    assert task.report() == {"return": 10.0, "return_std": 0.0}
    assert len(set(Corridor.seeds)) == 5
    for seed in range(200):
        task.reseed(seed)
        task.report()
    assert max(training) < 2**30 <= min(Corridor.seeds)
    assert max(Corridor.seeds) < 2**31  # more than some environments take


def test_the_report_plays_the_episodes_of_its_seed_whoever_plays() -> None:
    ours, theirs = (make("CartPole-v1", seed=seed) for seed in (0, 1))
    theirs.load_state_dict(copy.deepcopy(ours.state_dict()))
    reports = []
    for seed in (5, 6):
        for task in (ours, theirs):
            task.reseed(seed)
        reports.append(ours.report())
        assert theirs.report() == reports[-1]
    assert reports[0] != reports[1]


def test_a_fresh_score_plays_the_episodes_of_its_seed_whoever_plays() -> None:
    ours, theirs = (make("CartPole-v1", seed=seed) for seed in (0, 1))
    ours.train(GOOD, 512)  # What it played there does not count.
    theirs.load_state_dict(copy.deepcopy(ours.state_dict()))
    found = [ours.evaluate()]
    for seed in (5, 6):
        for task in (ours, theirs):
            task.reseed(seed)
        found.append(ours.evaluate_fresh())
        assert theirs.evaluate_fresh() == found[-1]
    assert found[0] != found[1] != found[2]


def test_the_report_leaves_training_as_it_was() -> None:
    task, other = make("CartPole-v1"), make("CartPole-v1")
    task.train(GOOD, 512)
    other.train(GOOD, 512)
    assert task.report() == task.report()
    assert task.report()["return_std"] > 0
    task.train(GOOD, 512)
    other.train(GOOD, 512)
    assert task.evaluate() == other.evaluate()
    assert_same(task.state_dict(), other.state_dict())


def test_a_state_holds_copies() -> None:
    task = make()
    task.train(GOOD, 128)
    state = task.state_dict()
    before = copy.deepcopy(state)
    task.train(GOOD, 128)
    assert same(state, before)
    assert not same(task.state_dict(), before)
    task.load_state_dict(state)
    task.train(GOOD, 128)
    assert same(state, before)


# --- samples --------------------------------------------------------------------------------------


# The lamp is not rendered: what the policy sees is shown. GIF joins frames that are equal.
@pytest.mark.parametrize(("env", "frames"), [("CartPole-v1", 6), ("PbtFlowTest/Lamp-v0", 2)])
def test_samples_are_an_animation_of_an_episode(env: str, frames: int, tmp_path: Path) -> None:
    make(env).samples(tmp_path / "new")
    file = tmp_path / "new" / "episode.gif"
    with Image.open(file) as gif:
        assert gif.n_frames >= frames
        assert gif.info["loop"] == 0
        assert gif.info["duration"] >= 20
    assert file.stat().st_size < 1_500_000


def test_what_cannot_be_shown_is_not(tmp_path: Path) -> None:
    make().samples(tmp_path)
    assert not list(tmp_path.iterdir())


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"env": "LunarLnder-v3"}, "'LunarLnder-v3'.*doesn't exist"),
        ({"envs": 1}, "envs .* at least 2, got 1"),
        ({"epochs": 0}, "epochs .* at least 1, got 0"),
        ({"minibatches": 65}, "minibatches .* at most 64, .* 2 environments.*, got 65: lower it"),
    ],
)
def test_an_option_that_cannot_work_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        make(**options)


@pytest.mark.parametrize(
    "name", ["ActorCritic", "Columns", "ColumnsPolicy", "Normaliser", "Pixels", "Policy"]
)
def test_what_models_of_earlier_versions_name_is_found_where_they_name_it(name: str) -> None:
    from pbt_flow.tasks import rl

    assert getattr(rl, name).__module__ == "pbt_flow.tasks.rl_network"
