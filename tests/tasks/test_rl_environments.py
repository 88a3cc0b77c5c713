"""tasks/rl_environments.py and tasks/rl_actions.py: environments of any kind, some of them odd."""

from __future__ import annotations

import logging
import math
import re
import sys
import time
import types
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pbt_flow
from pbt_flow import Diverged
from pbt_flow.task import TaskError, check_options, declare
from pbt_flow.testing import TaskContract, middle

gym = pytest.importorskip("gymnasium")
pytest.importorskip("PIL.Image")

from gymnasium import spaces  # noqa: E402
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple  # noqa: E402

from pbt_flow.tasks.rl import RL, ActorCritic, Pixels  # noqa: E402
from pbt_flow.tasks.rl_actions import Actions  # noqa: E402
from pbt_flow.tasks.rl_environments import read_wrappers  # noqa: E402

UNIT = Box(-1.0, 1.0, (2,), np.float32)
ODD = f"{__name__}:Odd"


class Odd(gym.Env[Any, Any]):
    """Shows samples of a space and takes actions of a space; at one step it does what is odd."""

    made: ClassVar[int] = 0
    metadata: ClassVar[Any] = {}

    def __init__(
        self,
        observations: Any = UNIT,
        actions: Any = Discrete(2),  # noqa: B008 - spaces are not changed here
        length: int | None = 20,
        at: int = 0,
        copy: int | None = None,
        render_mode: str | None = None,
        **odd: Any,
    ) -> None:
        self.observation_space, self.action_space = observations, actions
        self.length, self.at, self.odd = length, at, odd
        self.is_odd = copy is None or copy == Odd.made
        self.render_mode = render_mode
        self.total = 0
        Odd.made += 1

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        if seed is not None:
            self.observation_space.seed(seed)
        return self.show(), {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.t, self.total = self.t + 1, self.total + 1
        reward = self.odd.get("reward", 1.0) if self.is_now() else 1.0
        return self.show(), reward, False, self.t == self.length, {}

    def is_now(self) -> bool:
        return self.is_odd and self.total >= self.at

    def show(self) -> Any:
        seen = self.observation_space.sample()
        if "obs" in self.odd and self.is_now():
            return self.odd["obs"]
        if "component" in self.odd and self.is_now():
            seen[self.odd["component"]] = np.nan
        return seen

    def render(self) -> Any:
        drawn = self.odd.get("frame")
        if isinstance(drawn, BaseException):
            raise drawn
        return drawn


class Flipped(gym.RewardWrapper[Any, Any]):
    """Pays the opposite."""

    def reward(self, reward: Any) -> Any:
        return -reward


def make_odd(**options: Any) -> gym.Env[Any, Any]:
    return Odd(**options)


POPULATION = {"population": 2, "turns": 2, "interval": 256, "engine": "inline"}
GOOD = middle(RL.space) | {"lr": 2.5e-3, "unroll": 32, "clip": 0.2, "entropy_cost": 0.01}
SMALL = {
    "envs": 4,
    "hidden": 16,
    "epochs": 2,
    "minibatches": 2,
    "episodes": 4,
    "report_episodes": 3,
}


def make(env: str = ODD, seed: int = 0, **options: Any) -> RL:
    task = RL(seed=seed, env=env, **{**SMALL, **options})
    Odd.made = 0
    task.reseed(seed)
    return task


def odd(**options: Any) -> RL:
    return make(env_options=options)


# --- spaces ---------------------------------------------------------------------------------------

OBSERVATIONS = {
    "one-hot of 5": Discrete(5, start=-2),
    "one-hot of 3 + 2": MultiDiscrete([3, 2]),
    "one-hot of 2 + 3 + 4 + 5": MultiDiscrete([[2, 3], [4, 5]]),
    "3 numbers": MultiBinary(3),
    "4 numbers (2 x 2)": MultiBinary([2, 2]),
    "1 number": Box(-1.0, 1.0, ()),
    "2 numbers": Box(-5, 5, (2,), np.int16),
    "6 numbers (2 x 3)": Box(0, 3, (2, 3), np.uint8),
    "4 inputs (one-hot of 2, 2 numbers)": Tuple([Discrete(2), UNIT]),
    "7 inputs (one-hot of 3, 2 numbers, 2 numbers)": Dict(
        {"a": Discrete(3), "b": Dict({"c": UNIT, "d": Box(0, 9, (2,), np.int64)})}
    ),
    "images of 8 x 8 with 3 channels": Box(0, 255, (8, 8, 3), np.uint8),
    "images of 8 x 8 with 4 channels": Box(0, 1, (4, 8, 8), np.float32),
    "images of 4 x 4 with 6 channels": Box(0, 1, (4, 4, 6), bool),
    "images of 4 x 4 with 2 channels, taken as they are since they have no bounds": Box(
        -np.inf, np.inf, (4, 4, 2), np.float64
    ),
}
ACTIONS = {
    "3 choices": Discrete(3, start=-7),
    "3 x 2 choices": MultiDiscrete([3, 2], start=[5, -1]),
    "2 x 2 x 2 x 2 x ... choices": MultiBinary([2, 3]),
    "7 x 7 choices": Box(-3, 3, (2, 1), np.int8),
    "2 numbers": Box(np.array([-np.inf, 0.0]), np.array([np.inf, 9.0]), dtype=np.float64),
    "3 choices and 2 numbers": Tuple([Discrete(3), UNIT]),
    "3 x 2 x 2 choices and 1 number": Dict(
        {"a": Box(0.0, 1.0, (1,)), "b": Tuple([Discrete(3), MultiBinary(2)])}
    ),
}


@pytest.mark.parametrize("words", OBSERVATIONS)
def test_observations_of_any_space_train_and_are_described(words: str) -> None:
    task = odd(observations=OBSERVATIONS[words])
    assert f"observations {words}, actions" in task.understood()["environment"]
    assert task.train(GOOD, 256)["env_steps"] == 256
    assert task.evaluate() == [20.0] * 4
    with torch.no_grad():
        assert task.model()(torch.as_tensor(task.example())).shape == (4,)


@pytest.mark.parametrize("words", ACTIONS)
def test_actions_of_any_space_are_taken_and_described(words: str) -> None:
    space = ACTIONS[words]
    task = odd(actions=space)
    assert f"actions {words}, episodes" in task.understood()["environment"]
    assert task.train(GOOD, 256)["env_steps"] == 256  # the environment checks each action
    assert task.evaluate() == [20.0] * 4
    with torch.no_grad():
        action = task.model()(torch.as_tensor(task.example()))[0].numpy()
    if space.shape is not None:
        assert space.contains(action.astype(space.dtype))
    else:
        assert action.shape == (len(task.actions.start),)


class TestOnAMixture(TaskContract):
    task, steps = RL, 256
    begins_anew = True  # each turn divides its own steps into unrolls
    obeyed = tuple(name for name in RL.space if name != "clip")
    options: ClassVar[dict[str, Any]] = {
        "env": ODD,
        "env_options": {
            "observations": Dict({"where": Discrete(4), "what": UNIT}),
            "actions": Tuple([MultiDiscrete([3, 2]), Box(-1.0, 1.0, (2,))]),
        },
        **SMALL,
    }


@pytest.mark.parametrize(
    ("space", "known"),
    [
        (
            MultiDiscrete([3, 2]),
            [torch.distributions.Categorical, torch.distributions.Categorical],
        ),
        (MultiBinary(2), [torch.distributions.Categorical, torch.distributions.Categorical]),
    ],
)
def test_log_probabilities_and_entropies_of_several_choices_are_sums(space, known) -> None:
    net, head = network(Actions(space, "it"))
    sizes = Actions(space, "it").sizes
    parts = [
        kind(logits=logits)
        for kind, logits in zip(known, head.split(list(sizes), dim=1), strict=True)
    ]
    actions = net.actor_of_now(np.random.default_rng(0))(np.zeros((20_000, 4), np.float32))
    taken = torch.as_tensor(actions)
    got, entropy = net.log_prob_and_entropy(head.expand(20_000, -1), taken)
    expected = sum(part.log_prob(column) for part, column in zip(parts, taken.T, strict=True))
    torch.testing.assert_close(got.double(), expected.double(), rtol=1e-4, atol=1e-5)
    assert entropy[0].item() == pytest.approx(sum(part.entropy().item() for part in parts))
    for part, column in zip(parts, actions.T, strict=True):
        share = np.bincount(column.astype(int)) / len(column)
        np.testing.assert_allclose(share, part.probs[0], atol=0.02)


def test_choices_and_numbers_together_add_up() -> None:
    actions = Actions(Tuple([Box(-1.0, 1.0, (1,)), Discrete(3)]), "it")
    net, head = network(actions)
    with torch.no_grad():
        net.log_std.fill_(-1.0)
    taken = torch.as_tensor(net.actor_of_now(np.random.default_rng(0))(np.zeros((9, 4))))
    got, entropy = net.log_prob_and_entropy(head.expand(9, -1), taken)
    choice = torch.distributions.Categorical(logits=head[:, :3])
    number = torch.distributions.Normal(head[:, 3], math.exp(-1.0))
    expected = number.log_prob(taken[:, 0]) + choice.log_prob(taken[:, 1])
    torch.testing.assert_close(got.double(), expected.double(), rtol=1e-4, atol=1e-5)
    both = choice.entropy() + number.entropy()
    torch.testing.assert_close(entropy[:1], both, rtol=1e-4, atol=1e-5)


def network(actions: Actions) -> tuple[ActorCritic, torch.Tensor]:
    """A network whose policy is not uniform, and its head where it sees zeros."""
    torch.manual_seed(0)
    net = ActorCritic(Box(-9, 9, (4,)), actions, 16)
    with torch.no_grad():
        net.actor[-1].bias.copy_(torch.linspace(-1.0, 1.0, actions.outputs))
        return net, net(torch.zeros(1, 4))[0]


leaf_spaces = st.one_of(
    st.builds(Discrete, st.integers(1, 5), start=st.integers(-3, 3)),
    st.builds(MultiDiscrete, st.lists(st.integers(1, 4), min_size=1, max_size=3)),
    st.builds(MultiBinary, st.integers(1, 4)),
    st.builds(lambda n: Box(-2.0, 3.0, (n,), np.float32), st.integers(1, 3)),
    st.builds(lambda low: Box(low, low + 3, (2,), np.int32), st.integers(-9, 9)),
)
any_space = st.recursive(
    leaf_spaces,
    lambda inner: st.one_of(
        st.builds(Tuple, st.lists(inner, min_size=1, max_size=3)),
        st.builds(Dict, st.dictionaries(st.sampled_from("abcd"), inner, min_size=1, max_size=3)),
    ),
    max_leaves=4,
)


@given(observations=any_space, actions=any_space)
@settings(max_examples=25, deadline=None)
def test_whatever_is_shown_and_taken_a_turn_trains_and_its_policy_acts(observations, actions):
    task = make(env_options={"observations": observations, "actions": actions}, envs=2)
    metrics = task.train(GOOD, 64)
    assert all(map(math.isfinite, metrics.values()))
    assert metrics["env_steps"] == 64
    with torch.no_grad():
        assert torch.isfinite(task.model()(torch.as_tensor(task.example())).double()).all()


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            spaces.Text(5),
            "shows a Text, which is no fixed number of numbers; give wrappers=module:",
        ),
        (spaces.Sequence(UNIT), "shows a Sequence"),
        (spaces.Graph(UNIT, UNIT), "shows a Graph"),
        (spaces.OneOf([UNIT, Discrete(2)]), "shows a OneOf"),
        (
            Dict({"a": UNIT, "b": Dict({"t": spaces.Text(5)})}),
            re.escape(
                "it['b']['t'], a Text, which is no fixed number of numbers; leave it out with "
            )
            + re.escape("wrappers='FilterObservation:filter_keys=[\"a\"]'"),
        ),
        (Box(0.0, 1.0, (0,)), "holds no number"),
        (Tuple([Box(0.0, 1.0, (0,))]), "holds no number"),
        (MultiDiscrete([10**6]), "1,000,000 inputs as one-hot vectors; the most is 10,000"),
        (MultiDiscrete([[2**62], [2**62]]), "9,223,372,036,854,775,808 inputs"),
        (Discrete(10**15), "1,000,000,000,000,000 inputs"),
    ],
)
def test_what_no_network_can_take_is_refused_with_the_way_out(space: Any, message: str) -> None:
    with pytest.raises(TaskError, match=f"environment '{ODD}' .*{message}") as raised:
        odd(observations=space)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            spaces.Text(5),
            "takes a Text, which is no fixed number of choices or numbers; give wrapp",
        ),
        (Tuple([UNIT, spaces.Sequence(UNIT)]), r"takes it\[1\], a Sequence"),
        (Box(-(2**31), 2**31 - 1, (1,), np.int32), "4,294,967,296 outputs.*most is 10,000"),
        (Discrete(10**9), "1,000,000,000 outputs"),
        (Box(0.0, 1.0, (0,)), "leaves nothing to choose"),
    ],
)
def test_actions_that_no_policy_can_take_are_refused(space: Any, message: str) -> None:
    with pytest.raises(TaskError, match=f"environment '{ODD}' .*{message}"):
        odd(actions=space)


@pytest.mark.parametrize(
    ("box", "low", "high"),
    [
        (Box(0, 255, (8, 8, 3), np.uint8), 0.0, 1.0),
        (Box(0, 10, (8, 8, 3), np.uint8), 0.0, 1.0),
        (Box(100, 140, (8, 8, 3), np.uint8), 0.0, 1.0),
        (Box(-128, 127, (8, 8, 3), np.int8), -1.0, 127 / 128),
        (Box(0.0, 255.0, (8, 8, 3), np.float32), 0.0, 1.0),
        (Box(-1.0, 1.0, (8, 8, 3), np.float32), -1.0, 1.0),
        (Box(0, 1, (8, 8, 3), bool), 0.0, 1.0),
    ],
)
def test_the_bounds_of_an_image_decide_its_scale_and_not_its_type(box, low, high) -> None:
    pixels = Pixels(box)
    assert pixels(torch.as_tensor(box.low[None])).unique().tolist() == pytest.approx([low])
    assert pixels(torch.as_tensor(box.high[None])).unique().tolist() == pytest.approx([high])


@pytest.mark.parametrize(
    ("shape", "channels"),
    [((84, 84, 3), 3), ((4, 84, 84), 4), ((10, 10, 10), 10), ((7, 7, 20), 20), ((210, 160, 3), 3)],
)
def test_a_square_tells_the_channels_of_an_image(shape: tuple[int, ...], channels: int) -> None:
    assert Pixels(Box(0, 1, shape))(torch.zeros(1, *shape)).shape[1] == channels


# --- what is not as declared ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"component": 1, "at": 17}, r"observation of copy 2 .* at step 17 .*: component 1 is nan"),
        ({"component": 0, "at": 20}, r"observation of copy 2 .* at step 20 .*: component 0 is nan"),
        ({"reward": math.nan, "at": 17}, "the reward of copy 2 .* at step 17 is not finite: nan"),
        ({"reward": -math.inf, "at": 40}, "the reward of copy 2 .* at step 40 is not finite: -inf"),
        ({"reward": math.nan, "component": 1, "at": 5}, "the observation of copy 2 .* step 5 "),
        ({"component": 1, "at": 0}, "observation of copy 2 .* at the reset is not finite"),
        ({"reward": 1e300, "at": 9}, "running statistics of the rewards are not finite after upd"),
    ],
)
@pytest.mark.parametrize("actions", [Discrete(2), Box(-1.0, 1.0, (2,))], ids=["choices", "numbers"])
def test_the_first_number_that_is_not_finite_is_named(options, message, actions) -> None:
    task = odd(**options, actions=actions, copy=2)
    with pytest.raises(Diverged, match=message), np.errstate(all="ignore"):
        task.train(GOOD, 1024)


def test_what_is_not_finite_in_an_evaluation_is_named() -> None:
    task = odd(component=1, at=15, copy=0)
    task.train({**GOOD, "unroll": 10}, 40)
    with pytest.raises(Diverged, match="copy 0 of the environment at step 15 is not finite"):
        task.evaluate()


@pytest.mark.filterwarnings("ignore:.*WARN")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reward": None}, "gave a reward that is not one number: None"),
        ({"reward": "1"}, "gave a reward that is not one number: '1'"),
        ({"reward": np.array([1.0, 2.0])}, r"not one number: array\(\[1., 2.\]\)"),
        ({"reward": 1j}, "not one number: 1j"),
        ({"obs": np.zeros(3, np.float32)}, r"it must have the shape \(2,\), got \(3,\): array"),
        ({"obs": None}, r"it must have the shape \(2,\), got \(\): None"),
        ({"obs": np.array(["a", "b"])}, r"it must be of float32, got <U1"),
        ({"obs": 7, "observations": Discrete(5)}, r"it must be in Discrete\(5\), got 7"),
        ({"obs": -1, "observations": Discrete(5)}, r"it must be in Discrete\(5\), got -1"),
        (
            {"obs": {"a": 1}, "observations": Dict({"b": UNIT})},
            r"must be a mapping of \['b'\], got",
        ),
        (
            {"obs": (1, np.zeros(3)), "observations": Tuple([Discrete(2), UNIT])},
            r"it\[1\] must have the shape \(2,\), got \(3,\)",
        ),
    ],
)
def test_what_is_not_as_declared_is_named(options: dict[str, Any], message: str) -> None:
    task = odd(**options, copy=1, at=6)
    with pytest.raises(TaskError, match=f"environment '{ODD}' .*{message}.*copy 1, step 6"):
        task.train(GOOD, 256)


@pytest.mark.filterwarnings("ignore:.*WARN", "ignore:Conversion of an array")
@pytest.mark.parametrize(
    "options",
    [
        {"reward": 1},
        {"reward": np.float32(1.0)},
        {"reward": np.array([1.0])},
        {"reward": torch.tensor(1.0)},
        {"reward": True},
        {"obs": [0.5, -0.5]},
        {"obs": np.array([0.5, 1e6])},
        {"obs": np.array([1, 0])},
    ],
)
def test_numbers_of_other_types_are_taken(options: dict[str, Any]) -> None:
    task = odd(**options)
    task.train(GOOD, 256)
    assert task.evaluate() == [20.0] * 4


def test_observations_that_fill_the_memory_are_told() -> None:
    told = odd(observations=Box(0, 255, (300, 300, 9), np.uint8)).understood()
    assert told["memory"].startswith("the observations of an unroll of 512 steps take 1.5 GiB")
    assert "memory" not in odd().understood()


# --- episodes without an end ----------------------------------------------------------------------


def test_episodes_that_never_end_are_told_with_the_remedy_and_cost_little() -> None:
    task = odd(length=None)
    task.train(GOOD, 512)
    assert set(task.understood()) == {"environment"}
    assert task.evaluate() == [1128.0] * 4  # 128 steps of each in training, and 1,000 more
    assert "max_episode_steps would cut them off" in task.understood()["episodes"]
    assert task.report()["return"] == 10_000
    limited = make(env_options={"length": None}, max_episode_steps=30)
    limited.train(GOOD, 512)
    assert limited.evaluate() == [30.0] * 4
    assert set(limited.understood()) == {"environment"}
    assert "episodes of at most 30 steps" in limited.understood()["environment"]


def test_patience_grows_with_the_episodes_that_are_seen() -> None:
    task = odd(length=400)
    task.train(GOOD, 4 * 500)
    task.turn.begun[:] -= 300  # as if one had lasted for 700 steps
    task.turn.longest = 700
    assert task._patience(task.turn) == 7000
    task.turn.longest = 10**6
    assert task._patience(task.turn) == 30_000


# --- pictures -------------------------------------------------------------------------------------

PICTURE = np.zeros((9, 9, 3), np.uint8)
RGB = {"render_modes": ["rgb_array"], "render_fps": 20}


@pytest.mark.parametrize(
    ("metadata", "frame", "said"),
    [
        (RGB, PICTURE, None),
        (RGB, PICTURE[:, :, 0], None),
        (RGB, PICTURE[:, :, :1], None),
        (RGB, PICTURE / 255, None),
        (RGB | {"render_fps": None}, PICTURE, None),
        (RGB | {"render_fps": 0}, PICTURE, None),
        (RGB | {"render_fps": math.nan}, PICTURE, None),
        (RGB | {"render_fps": "fast"}, PICTURE, None),
        (RGB, None, "must give an image of bytes, and gave object of shape"),
        (RGB, [PICTURE], "gave uint8 of shape (1, 9, 9, 3)"),
        (RGB, PICTURE.astype(np.float64) + 7, "gave float64 of shape (9, 9, 3)"),
        (RGB, RuntimeError("no\ndisplay"), "RuntimeError: no display"),
        (RGB, SystemExit("no display"), "SystemExit: no display"),
        ({"render_modes": None}, PICTURE, "its metadata gives None as the render_modes"),
    ],
)
def test_no_picture_stops_the_training(metadata, frame, said, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(Odd, "metadata", metadata)
    task = odd(frame=frame)
    assert task.train(GOOD, 256)["env_steps"] == 256
    assert task.evaluate() == [20.0] * 4
    with caplog.at_level(logging.WARNING):
        task.samples(tmp_path)
    lines = [record.getMessage() for record in caplog.records]
    if said is None:
        assert not lines
        assert (tmp_path / "episode.gif").is_file()
    else:
        assert len(lines) == 1
        assert lines[0].startswith(f"cannot render {ODD}")
        assert said in lines[0]
        assert "\n" not in lines[0]


@pytest.mark.parametrize("metadata", [None, [], {"render_modes": 3}, {"render_modes": []}])
def test_metadata_of_any_kind_builds(metadata, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Odd, "metadata", metadata)
    task = odd()
    task.train(GOOD, 128)
    task.samples(tmp_path)
    assert not list(tmp_path.iterdir())


class TakesNoRenderMode(Odd):
    """Says that it draws, and cannot be asked to."""

    metadata: ClassVar[Any] = RGB

    def __init__(self) -> None:
        super().__init__()


def test_an_environment_that_takes_no_render_mode_trains(tmp_path, caplog) -> None:
    task = make(f"{__name__}:TakesNoRenderMode")
    task.train(GOOD, 128)
    task.samples(tmp_path)
    assert "cannot render" in caplog.text
    assert "unexpected keyword argument 'render_mode'" in caplog.text


# --- by name --------------------------------------------------------------------------------------


def package(monkeypatch: pytest.MonkeyPatch, **contents: Any) -> str:
    """A package that can be imported, with these things in it."""
    name = f"odd_package_{time.monotonic_ns()}"
    module = types.ModuleType(name)
    module.__dict__.update(contents)
    monkeypatch.setitem(sys.modules, name, module)
    return name


def test_a_package_that_registers_nothing_when_imported_is_asked_to(monkeypatch) -> None:
    asked = []

    def register_envs() -> None:
        asked.append(1)
        gym.register("OddPackage/Late-v0", ODD)

    name = package(monkeypatch, register_envs=register_envs)
    try:
        for _ in range(2):
            assert make(f"{name}:OddPackage/Late-v0").train(GOOD, 128)["env_steps"] == 128
    finally:
        gym.registry.pop("OddPackage/Late-v0")
    assert asked == [1]


def test_a_package_is_asked_by_its_entry_points(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "odd_games").mkdir()
    (tmp_path / "odd_games" / "__init__.py").write_text("")
    (tmp_path / "odd_games" / "later.py").write_text(
        "import gymnasium\n"
        "def register_all():\n"
        f"    gymnasium.register('OddGames/One-v0', '{ODD}')\n"
    )
    about = tmp_path / "odd_games-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: odd-games\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[gymnasium.envs]\nx = odd_games.later:register_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert make("odd_games:OddGames/One-v0").train(GOOD, 128)["env_steps"] == 128
        with pytest.raises(TaskError, match="no id 'OddGames/Two-v0'"):
            make("odd_games:OddGames/Two-v0")
    finally:
        gym.registry.pop("OddGames/One-v0")


@pytest.mark.parametrize("name", ["Odd", "make_odd"])
def test_a_class_or_a_function_is_an_entry_point(name: str) -> None:
    task = make(f"{__name__}:{name}", env_options={"length": 7})
    task.train(GOOD, 128)
    assert task.evaluate() == [7.0] * 4
    assert task.understood()["environment"].startswith(f"{__name__}:{name} with length=7, obs")


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ("no_such_module_of_mine:Env-v0", "no_such_module_of_mine cannot be imported"),
        (
            "my/envs.py:Env-v0",
            "name it as a module, envs:..., with the folder of its",
        ),
        (":Env-v0", "doesn't exist|Malformed|no module"),
        (f"{__name__}:Nothing-v0", "registers no id 'Nothing-v0' and has no class or function"),
        (f"{__name__}:PICTURE", "PICTURE is a ndarray; name a class or a function"),
        (f"{__name__}:make", r"cannot be made: TypeError"),
        ("gymnasium:CartPole-v7", "registers no id 'CartPole-v7'.*it has .*CartPole-v1"),
        ("LunarLnder-v3", "doesn't exist"),
        ("CartPole-v9", "CartPole.*v1"),
        ("", "environment '': Malformed"),
    ],
)
def test_an_environment_that_there_is_not_is_refused(env: str, message: str) -> None:
    with pytest.raises(TaskError, match=message) as raised:
        make(env)
    assert "\n" not in str(raised.value)


class Needs(Odd):
    """Has an argument that must be given."""

    def __init__(self, size: int, *, color: str = "red", render_mode: str | None = None) -> None:
        if color == "blue":
            raise LookupError("no blue")
        if color == "green":
            import_module("no_such_painter.brushes")
        super().__init__()


@pytest.mark.parametrize(
    ("env", "options", "message"),
    [
        (
            f"{__name__}:Needs",
            {},
            "needs the argument 'size': give it by env_options; it takes size, color, render_mode",
        ),
        (
            f"{__name__}:Needs",
            {"size": 3, "colour": 1},
            "no argument 'colour' .*it takes size, col",
        ),
        (f"{__name__}:Needs", {"size": 3, "color": "blue"}, "color='blue'.*LookupError: no blue"),
        (
            f"{__name__}:Needs",
            {"size": 3, "color": "green"},
            "needs the package no_such_painter, which is not installed: install it",
        ),
        ("FrozenLake-v1", {"slippery": False}, "no argument 'slippery'.*takes render_mode, desc"),
        ("FrozenLake-v1", {"map_name": "9x9"}, "with map_name='9x9'.*KeyError: '9x9'"),
    ],
)
def test_arguments_that_an_environment_does_not_take_are_refused(env, options, message) -> None:
    with pytest.raises(TaskError, match=message) as raised:
        make(env, env_options=options)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("options", [{"is_slippery": False}, '{"is_slippery": false}'])
def test_arguments_reach_the_environment(options: Any) -> None:
    task = make("FrozenLake-v1", **check_options(declare(RL), {"env_options": options}))
    assert task.understood()["environment"] == (
        "FrozenLake-v1 with is_slippery=False, observations one-hot of 16, actions 4 choices, "
        "episodes of at most 100 steps"
    )
    env = task.recipe.make(1).envs[0].unwrapped
    assert {len(outcomes) for actions in env.P.values() for outcomes in actions.values()} == {1}


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("", {}),
        ("FlattenObservation", {"FlattenObservation": {}}),
        ("A,B", {"A": {}, "B": {}}),
        ("A:x=1,y=2.5,B", {"A": {"x": 1, "y": 2.5}, "B": {}}),
        ("A:x=[1,2],B:y=true", {"A": {"x": (1, 2)}, "B": {"y": True}}),
        ('A:x={"a": [1, 2]},y="p,q"', {"A": {"x": {"a": [1, 2]}, "y": "p,q"}}),
        ("m.n:A", {"m.n:A": {}}),
        ("m:A:x=1,m:B", {"m:A": {"x": 1}, "m:B": {}}),
        (["A:x=1", "B"], {"A": {"x": 1}, "B": {}}),
        (["A:x=[1", "2]", "B"], {"A": {"x": (1, 2)}, "B": {}}),
    ],
)
def test_wrappers_are_read(text: Any, read: dict[str, Any]) -> None:
    wrappings = read_wrappers(text)
    assert {wrapping.name: wrapping.arguments for wrapping in wrappings} == read
    assert read_wrappers([str(wrapping) for wrapping in wrappings]) == wrappings


def test_wrappers_are_put_around_the_environment_in_order() -> None:
    wrappers = [
        "TimeLimit:max_episode_steps=5",
        f"{__name__}:Flipped",
        "ClipReward:max_reward=-0.5",
    ]
    task = make(wrappers=wrappers, env_options={"length": None})
    task.train(GOOD, 128)
    assert task.evaluate() == [-5.0] * 4
    told = task.understood()["environment"]
    assert "in TimeLimit:max_episode_steps=5" in told
    assert "episodes of at most 5 steps" in told
    flipped = [*wrappers[:1], wrappers[2], wrappers[1]]
    task = make(wrappers=",".join(flipped), env_options={"length": None})
    task.train(GOOD, 128)
    assert task.evaluate() == [2.5] * 4


@pytest.mark.parametrize(
    ("wrappers", "message"),
    [
        ("FlatenObservation", "'FlatenObservation'.*did you mean FlattenObservation"),
        ("vector", "is no wrapper of one environment"),
        ("FrameStack", "renamed"),
        ("no_such_module:W", "no_such_module cannot be imported"),
        (f"{__name__}:Nothing", "has no class or function 'Nothing'"),
        ("TimeLimit", r"needs the argument 'max_episode_steps': give it by wrappers"),
        ("TimeLimit:steps=3", "no argument 'steps' .*it takes max_episode_steps"),
        ("TimeLimit:max_episode_steps=x", "does not fit what is inside of it"),
        ("ResizeObservation:shape=[8,8]", "does not fit what is inside of it"),
        ("x=1", "'x=1' is an argument, with no wrapper before it"),
        ("A:size=1,size=2", "size of A is given twice"),
        (f"{__name__}:package", "does not fit what is inside of it: AttributeError"),
    ],
)
def test_a_wrapper_that_does_not_fit_is_refused(wrappers: str, message: str) -> None:
    with pytest.raises(TaskError, match=message) as raised:
        make(wrappers=wrappers)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_of_steps_is_a_number_of_steps(limit: Any) -> None:
    with pytest.raises(TaskError, match=r"max_episode_steps must be at least 1, got"):
        make(max_episode_steps=limit)


# --- populations ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_population_says_what_it_plays(capsys) -> None:
    options = {"env": "FrozenLake-v1", "env_options": {"is_slippery": False}, **SMALL}
    result = pbt_flow.run("rl", options=options, **POPULATION)
    assert "environment: FrozenLake-v1 with is_slippery=False, observations one-hot of 16" in (
        " ".join(capsys.readouterr().err.split())
    )
    assert pbt_flow.load(result.run_id).winner.task().recipe.options == {"is_slippery": False}


def test_a_population_says_which_number_of_the_environment_was_not_finite(capsys) -> None:
    options = {"env": ODD, "env_options": {"component": 1, "at": 17}, **SMALL}
    result = pbt_flow.run("rl", options=options, **POPULATION)
    assert result.status == "failed"
    said = " ".join(capsys.readouterr().err.split())
    assert "diverged: the observation of copy 0 of the environment at step 17 is not finite" in said


def test_frozen_lake_is_learned_by_options_alone() -> None:
    task = RL(seed=0, env="FrozenLake-v1", env_options={"is_slippery": False})
    task.reseed(0)
    before = task.report()["return"]
    for turn in range(3):
        task.reseed(turn)
        task.train({**GOOD, "unroll": 128}, 8000)
    assert before < 0.2
    assert task.report()["return"] == 1.0
