"""Environments by name and options: made, wrapped, checked, and described in a sentence.

    env=CartPole-v1                      an id that Gymnasium has registered
    env=ALE/Pong-v5                      Atari by ale-py: grey, 84 x 84, 4 frames
    env=minigrid:MiniGrid-Empty-5x5-v0   imports the module, then takes the id
    env=minatar:MinAtar/Breakout-v1      the same, see below
    env=package.module:MyEnv             a class, or a function that makes an environment

A package may register nothing when it is imported. It is then asked to: by the function
`register_envs` of the module that was named, or by its entry points of the group `gymnasium.envs`.

The arguments of an environment are one JSON object, and its wrappers a list, the first one
innermost. An argument of a wrapper is JSON, or a text:

    env_options='{"is_slippery": false}'
    wrappers=FlattenObservation
    wrappers=RescaleAction:min_action=-1,max_action=1,ClipReward:max_reward=1
    wrappers='FilterObservation:filter_keys=["image","direction"],FlattenObservation'
    wrappers=minigrid.wrappers:ImgObsWrapper
"""

from __future__ import annotations

import copy
import difflib
import functools
import importlib
import inspect
import json
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from numbers import Real
from types import ModuleType
from typing import Any, Protocol, TypeAlias, runtime_checkable

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import (
    EnvSpec,
    find_highest_version,
    get_env_id,
    load_env_creator,
    parse_env_id,
)
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from gymnasium.spaces.utils import flatdim, flatten, flatten_space
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from pbt_flow.task import TaskError

Array: TypeAlias = np.ndarray[Any, Any]

MOST_INPUTS = 10_000
"""The most inputs that observations may become where choices are written as one-hot vectors."""

CHOICES = (Discrete, MultiDiscrete, MultiBinary)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that it takes to make an environment again: its name, its arguments, its wrappers."""

    name: str
    """As `--set env=` takes it."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The arguments of the environment."""
    wrappers: Sequence[str] = ()
    """What is put around it, each as `--set wrappers=` takes it."""
    max_episode_steps: int | None = None
    """After how many steps an episode is cut off; None for the limit that is registered."""

    def __str__(self) -> str:
        """The environment as messages name it."""
        given = [f"{name}={shown(value)}" for name, value in self.options.items()]
        return f"{self.name} with {', '.join(given)}" if given else self.name

    def in_full(self) -> str:
        """The environment with its wrappers."""
        inside = f" in {', '.join(self.wrappers)}" if self.wrappers else ""
        return f"{self}{inside}"

    def make(self, number: int, *, render: bool = False) -> VectorEnv[Any, Any, Any]:
        """`number` copies of the environment that step together, in this process.

        A copy whose episode ends is reset in the same step. (In Gymnasium's default mode the step
        after an episode's last is no transition at all, and would be learned from.) One process for
        each copy was measured to be 5 to 10 times slower on the environments named in `rl.py`.

        Args:
            number: How many copies.
            render: Whether the environment is to draw its frames.

        Raises:
            TaskError: There is no such environment, it is not installed, it does not take its
                arguments, or it shows what no network here can take.
        """
        try:
            if self.name.startswith("ALE/"):
                return self._make_atari(number, render)
            spec = self._spec(render)
            wrappers = [_find_wrapper(wrapping) for wrapping in read_wrappers(self.wrappers)]
            copies = [
                functools.partial(self._make_one, spec, wrappers, place) for place in range(number)
            ]
            return SyncVectorEnv(copies, autoreset_mode=AutoresetMode.SAME_STEP)
        except TaskError:
            raise
        except ModuleNotFoundError as error:
            raise TaskError(
                f"environment {self.name!r} needs the package {error.name or error}, which is not "
                "installed: install it, or the extra that brings the environment, as in "
                "pip install '.[mujoco]'"
            ) from error
        except (gym.error.Error, ImportError) as error:
            raise TaskError(f"environment {self.name!r}: {error}") from error
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise TaskError(f"environment {str(self)!r} cannot be made: {reason}") from error

    def _make_one(self, spec: EnvSpec, wrappers: list[_Wrap], place: int) -> gym.Env[Any, Any]:
        # Gymnasium's own checker looks at the first steps only, and the copies are all alike. It
        # would refuse frames that can be shown.
        unchecked = True if place > 0 or spec.kwargs.get("render_mode") else None
        env = gym.make(
            spec, max_episode_steps=self.max_episode_steps, disable_env_checker=unchecked
        )
        for wrap in wrappers:
            env = wrap(env)
        return Checked(env, self.name, place)

    def _spec(self, render: bool) -> EnvSpec:
        """The registration of the environment with this recipe's arguments in it."""
        spec = copy.copy(find_spec(self.name))
        if spec.entry_point is None:
            raise TaskError(f"environment {self.name!r} is registered without an entry point")
        found = spec.entry_point
        creator: Callable[..., Any] = load_env_creator(found) if isinstance(found, str) else found
        _check_arguments(
            creator, self.options, f"environment {self.name!r}", "env_options", known=spec.kwargs
        )
        spec.kwargs = {**spec.kwargs, **self.options}
        if render:
            spec.kwargs["render_mode"] = "rgb_array"
        # Gymnasium reads the metadata of a class, which is about pictures, and fails where it is
        # malformed. A partial shows it none.
        spec.entry_point = functools.partial(creator)
        return spec

    def _make_atari(self, number: int, render: bool) -> VectorEnv[Any, Any, Any]:
        import ale_py

        gym.register_envs(ale_py)
        if self.wrappers or self.max_episode_steps is not None:
            raise TaskError(
                f"environment {self.name!r} steps many games at once, and takes no wrappers and no "
                "max_episode_steps: give env_options='{\"max_num_frames_per_episode\": 4000}', or "
                f"env=ale_py:{self.name} for games that step one by one"
            )
        arguments: dict[str, Any] = {**self.options}
        if render:
            arguments["render_mode"] = "rgb_array"
        return gym.make_vec(
            self.name,
            number,
            vectorization_mode="vector_entry_point",  # grey, 84 x 84, 4 frames, frame skip 4
            autoreset_mode=AutoresetMode.SAME_STEP,
            num_threads=1,
            reward_clipping=False,  # rewards are scaled in training; a score is the game's own
            **arguments,
        )


def read_recipe(
    env: str,
    env_options: Mapping[str, Any] | None,
    wrappers: Sequence[str] | None,
    max_episode_steps: int | None,
) -> Recipe:
    """The options of a task as a recipe.

    Raises:
        TaskError: One of them cannot be read.
    """
    if max_episode_steps is not None and max_episode_steps < 1:
        raise TaskError(
            f"option max_episode_steps must be at least 1, got {max_episode_steps!r}; leave it out "
            "for the limit that is registered"
        )
    texts = [str(wrapping) for wrapping in read_wrappers(wrappers or ())]
    return Recipe(
        name=env,
        options=env_options or {},
        wrappers=texts,
        max_episode_steps=max_episode_steps,
    )


# --- environments by name -------------------------------------------------------------------------


def find_spec(name: str) -> EnvSpec:
    """The registration that a name means (see the top of this file).

    Raises:
        TaskError: The module of the name cannot be imported, or has no such environment.
        gymnasium.error.Error: There is no such id, in Gymnasium's own words.
    """
    place, _, wanted = name.rpartition(":")
    if not place:
        return _registered(name) or gym.spec(name)
    module = _import(place, f"environment {name!r}")
    if (spec := _registered(wanted)) is not None:
        return spec
    if (creator := _attribute(module, wanted)) is not None:
        if not callable(creator):
            kind = type(creator).__name__
            raise TaskError(
                f"environment {name!r}: {wanted} is a {kind}; name a class or a function that "
                "makes an environment"
            )
        return EnvSpec(id=name, entry_point=creator)
    for register in _registrations(module):
        with warnings.catch_warnings():  # Gymnasium warns where one is registered again.
            warnings.simplefilter("ignore")
            register()
        if (spec := _registered(wanted)) is not None:
            return spec
    ids = sorted(id_ for id_, spec in gym.registry.items() if _is_of(spec, place))
    near = difflib.get_close_matches(wanted, ids, n=3) or ids[:3]
    there = f"; it has {', '.join(near)}" if near else ""
    raise TaskError(
        f"environment {name!r}: {place} registers no id {wanted!r} and has no class or function of "
        f"that name{there}"
    )


def _registered(name: str) -> EnvSpec | None:
    """The registration of an id; the newest where the id has no version."""
    try:
        namespace, short, version = parse_env_id(name)
    except gym.error.Error:
        return None
    if version is None:
        version = find_highest_version(namespace, short)
    return gym.registry.get(get_env_id(namespace, short, version))


def _registrations(module: ModuleType) -> Iterator[Callable[[], Any]]:
    """What registers the environments of a package that does not when it is imported."""
    register = getattr(module, "register_envs", None)
    # Gymnasium has a function of that name that wants a module, and does nothing.
    if callable(register) and not inspect.signature(register).parameters:
        yield register
    package = module.__name__.partition(".")[0]
    for group in ("gymnasium.envs", "gym.envs"):
        for point in entry_points(group=group):
            if point.module.partition(".")[0] == package and point.attr:
                yield point.load()


def _is_of(spec: EnvSpec, module: str) -> bool:
    """Whether an environment is made by something of a module's package."""
    package, entry = module.partition(".")[0], spec.entry_point
    made_by = entry if isinstance(entry, str) else getattr(entry, "__module__", None) or ""
    return made_by.replace(":", ".").partition(".")[0] == package


def _import(module: str, what: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        hint = ""
        if "/" in module or module.endswith(".py"):
            stem = module.rpartition("/")[2].removesuffix(".py")
            hint = f"; name it as a module, {stem}:..., with the folder of its file in PYTHONPATH"
        raise TaskError(f"{what}: {module} cannot be imported: {error}{hint}") from error
    except (TypeError, ValueError):  # of an empty or relative name
        raise TaskError(f"{what}: {module!r} is no module's name") from None


def _attribute(module: ModuleType, name: str) -> Any:
    """What a module calls `name`, which may have dots; None if there is no such thing."""
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


# --- arguments and wrappers -----------------------------------------------------------------------


def _check_arguments(
    creator: Callable[..., Any],
    given: Mapping[str, Any],
    what: str,
    option: str,
    *,
    known: Mapping[str, Any],
    first: int = 0,
) -> None:
    """Refuse arguments that are unknown or missing.

    Args:
        creator: What takes them.
        given: The user's.
        what: What the creator is called in the message.
        option: By which option the user gives them.
        known: Those that it is given anyhow.
        first: How many positional arguments go before them.
    """
    try:
        taken = list(inspect.signature(creator).parameters.values())[first:]
    except (TypeError, ValueError):  # Something in C may have no signature: it judges for itself.
        return
    named = [p for p in taken if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
    names = [parameter.name for parameter in named]
    there = f"it takes {', '.join(names)}" if names else "it takes none"
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken):
        for name in given:
            if name not in names:
                raise TaskError(f"{what} has no argument {name!r} ({option}); {there}")
    for parameter in named:
        if parameter.default is parameter.empty and parameter.name not in {**known, **given}:
            raise TaskError(
                f"{what} needs the argument {parameter.name!r}: give it by {option}; {there}"
            )


@dataclass(frozen=True, kw_only=True)
class Wrapping:
    """A wrapper by name, and its arguments."""

    name: str
    arguments: Mapping[str, Any]

    def __str__(self) -> str:
        """It as it may be written."""
        given = ",".join(f"{name}={json.dumps(value)}" for name, value in self.arguments.items())
        return f"{self.name}:{given}" if given else self.name


_Wrap: TypeAlias = Callable[[Any], Any]


def read_wrappers(wrappers: Sequence[str]) -> list[Wrapping]:
    """The wrappers that a text or a list of texts means.

    >>> read_wrappers("FlattenObservation")
    [Wrapping(name='FlattenObservation', arguments={})]
    >>> read_wrappers(["mine:Frame:size=[8,8],mode=edge"])
    [Wrapping(name='mine:Frame', arguments={'size': (8, 8), 'mode': 'edge'})]

    Raises:
        TaskError: An argument stands before any wrapper, or is given twice.
    """
    read: list[tuple[str, dict[str, Any]]] = []
    for piece in _split(wrappers if isinstance(wrappers, str) else ",".join(wrappers)):
        head, is_argument, value = piece.partition("=")
        if not is_argument:
            read.append((piece, {}))
            continue
        name, _, argument = head.rpartition(":")
        if name:
            read.append((name, {}))
        if not read:
            raise TaskError(f"option wrappers: {piece!r} is an argument, with no wrapper before it")
        wrapper, arguments = read[-1]
        if (argument := argument.strip()) in arguments:
            raise TaskError(f"option wrappers: {argument} of {wrapper} is given twice")
        arguments[argument] = _read_value(value)
    return [Wrapping(name=name, arguments=arguments) for name, arguments in read]


def _split(text: str) -> list[str]:
    """The parts between commas, other than those inside of brackets and quotes."""
    parts, depth, quoted = [""], 0, False
    for letter in text:
        if letter == '"':
            quoted = not quoted
        elif not quoted:
            depth += {"[": 1, "{": 1, "(": 1, "]": -1, "}": -1, ")": -1}.get(letter, 0)
        if letter == "," and not quoted and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def _read_value(text: str) -> Any:
    """A value that is written as JSON, or else the text itself."""
    try:
        value = json.loads(text)
    except ValueError:
        return text.strip()
    return tuple(value) if isinstance(value, list) else value  # Shapes must be tuples.


def _find_wrapper(wrapping: Wrapping) -> _Wrap:
    """A function that puts the wrapper around an environment."""
    name, what = wrapping.name, f"wrapper {wrapping.name!r}"
    place, _, attribute = name.rpartition(":")
    if place:
        wrapper = _attribute(_import(place, what), attribute)
        if not callable(wrapper):
            raise TaskError(f"{what}: {place} has no class or function {attribute!r}")
    else:
        try:
            wrapper = getattr(gym.wrappers, name)
        except (AttributeError, ImportError) as error:
            known = [wrapper for wrapper in gym.wrappers.__all__ if wrapper != name]
            near = difflib.get_close_matches(name, known, n=3)
            meant = f" (did you mean {' or '.join(near)}?)" if near else ""
            raise TaskError(f"{what}{meant}: {error}; others are named as module:Class") from error
        if not isinstance(wrapper, type) or not issubclass(wrapper, gym.Wrapper):
            raise TaskError(f"{what} is no wrapper of one environment; name one as module:Class")
    _check_arguments(wrapper, wrapping.arguments, what, "wrappers", known={}, first=1)

    def wrap(env: Any) -> Any:
        try:
            wrapped = wrapper(env, **wrapping.arguments)
        except TaskError:
            raise
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise TaskError(f"{what} does not fit what is inside of it: {reason}") from error
        if not isinstance(wrapped, gym.Env):
            kind = type(wrapped).__name__
            raise TaskError(f"{what} must make an environment of Gymnasium, and made a {kind}")
        return wrapped

    return wrap


# --- what an environment shows --------------------------------------------------------------------


_FLOATS = (float, np.float64)


class Checked(gym.Wrapper[Any, Any, Any, Any]):
    """The outermost wrapper: what the environment returns is what it declares, and flat.

    A Box stays as it is. Any other space is flattened as Gymnasium does it, with each choice as a
    one-hot vector.
    """

    def __init__(self, env: gym.Env[Any, Any], name: str, place: int) -> None:
        super().__init__(env)
        self.who = f"environment {name!r}"
        self.place, self.steps = place, 0
        metadata = env.metadata  # about pictures: nothing in it may stop the training
        self.metadata = dict(metadata) if isinstance(metadata, Mapping) else {}
        self.declared = env.observation_space
        _check_observations(self.declared, self.who)
        self.is_flat = isinstance(self.declared, Box) and bool(self.declared.shape)
        if self.is_flat:
            self.observation_space = self.declared
        else:
            flat = flatten_space(self.declared)
            assert isinstance(flat, Box)  # Graph and Sequence were refused.
            low, high = flat.low.astype(np.float32), flat.high.astype(np.float32)
            self.observation_space = Box(low, high, dtype=np.float32)
        # What is not flat has no shape to be told by: it is read in any case.
        self.shape = self.observation_space.shape if self.is_flat else None
        self.dtype = self.observation_space.dtype

    def reset(self, **arguments: Any) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(**arguments)
        return self._read(obs), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, paid, terminated, truncated, info = self.env.step(action)
        self.steps += 1
        reward: Any = paid if type(paid) in _FLOATS else self._read_reward(paid)
        # The usual case is told apart at once: this runs at every step.
        if type(obs) is not np.ndarray or obs.shape != self.shape or obs.dtype != self.dtype:
            obs = self._read(obs)
        return obs, reward, terminated, truncated, info

    def _read(self, obs: Any) -> Array:
        """An observation as an array, and flat."""
        if (fault := _fault(self.declared, obs)) is not None:
            raise self._error(f"showed an observation outside of its space: {fault}")
        if self.is_flat:
            return np.asarray(obs)
        return np.asarray(flatten(self.declared, obs)).astype(np.float32)

    def _read_reward(self, reward: Any) -> float:
        """A reward as a float: any number, or an array or a tensor of one."""
        if isinstance(reward, (int, np.floating, np.integer)):
            return float(reward)
        try:
            number = reward.item() if isinstance(reward, _HasItem) else reward
            if isinstance(number, Real):
                return float(number)
        except (ValueError, RuntimeError):  # of several numbers
            pass
        raise self._error(f"gave a reward that is not one number: {shown(reward)}")

    def _error(self, what: str) -> TaskError:
        return TaskError(f"{self.who} {what} (copy {self.place}, step {self.steps})")


@runtime_checkable
class _HasItem(Protocol):
    """An array or a tensor of NumPy, torch or another library."""

    def item(self) -> Any: ...


def declared_observations(env: VectorEnv[Any, Any, Any]) -> gym.Space[Any]:
    """What one copy declares that it shows, before it was made flat."""
    if isinstance(env, SyncVectorEnv):
        checked = env.envs[0]
        assert isinstance(checked, Checked)
        return checked.declared
    return env.single_observation_space


def episode_limit(env: VectorEnv[Any, Any, Any]) -> int | None:
    """After how many steps an episode is cut off at the latest; None if nothing says so."""
    if isinstance(env, SyncVectorEnv):
        spec = env.envs[0].spec
        return None if spec is None else spec.max_episode_steps
    assert env.spec is not None  # It was made by its name.
    atari = env.spec.kwargs
    return int(atari.get("max_num_frames_per_episode", 108_000) // atari.get("frameskip", 4))


def _check_observations(space: gym.Space[Any], who: str) -> None:
    """Refuse spaces that no network here takes.

    Raises:
        TaskError: A part is no fixed number of numbers, or there are none or too many.
    """
    parts = list(leaves(space))
    for path, part in parts:
        if not isinstance(part, (Box, *CHOICES)):
            raise TaskError(
                f"{who} shows {where(path)}a {type(part).__name__}, which is no fixed number of "
                f"numbers; {_way_out(space, part)}"
            )
    if sum(_inputs(part) for _, part in parts) == 0:
        raise TaskError(
            f"{who} shows {shown(space)}, which holds no number; a network needs at least one"
        )
    choices = sum(_inputs(part) for _, part in parts if isinstance(part, CHOICES))
    if choices > MOST_INPUTS:
        raise TaskError(
            f"{who} shows {shown(space)}, whose choices are {choices:,} inputs as one-hot vectors; "
            f"the most is {MOST_INPUTS:,}: give wrappers=module:Class, a wrapper of yours that "
            "shows numbers in a Box"
        )


def _way_out(space: gym.Space[Any], part: gym.Space[Any]) -> str:
    """How to do without a part of what an environment shows."""
    if isinstance(space, (Dict, Tuple)):
        inside = space.spaces.items() if isinstance(space, Dict) else enumerate(space.spaces)
        rest = [key for key, inner in inside if all(p is not part for _, p in leaves(inner))]
        if rest:
            return f"leave it out with wrappers='FilterObservation:filter_keys={json.dumps(rest)}'"
    return "give wrappers=module:Class, a wrapper of yours that shows numbers in a Box"


def where(path: str) -> str:
    """The place of a part in a message; nothing for the whole space."""
    return "" if path == "it" else f"{path}, "


def leaves(space: gym.Space[Any], path: str = "it") -> Iterator[tuple[str, gym.Space[Any]]]:
    """The spaces inside of Tuple and Dict, each with its place."""
    if isinstance(space, Dict):
        for key, inner in space.spaces.items():
            yield from leaves(inner, f"{path}[{key!r}]")
    elif isinstance(space, Tuple):
        for number, inner in enumerate(space.spaces):
            yield from leaves(inner, f"{path}[{number}]")
    else:
        yield path, space


def _inputs(space: gym.Space[Any]) -> int:
    """How many numbers a part is when it is flat, without the overflow of a sum in int64."""
    if isinstance(space, MultiDiscrete):
        return sum(map(int, space.nvec.flatten()))
    return int(flatdim(space))


def _fault(space: gym.Space[Any], value: Any, path: str = "it") -> str | None:
    """Why a value is no observation of a space; None if it is one.

    Numbers beyond the bounds of a Box pass: many environments are generous there, and a network is
    as well. A choice that there is not would set the wrong input to 1, or none.
    """
    if isinstance(space, Dict):
        if not isinstance(value, Mapping) or set(value) != set(space.spaces):
            got = sorted(map(str, value)) if isinstance(value, Mapping) else shown(value)
            return f"{path} must be a mapping of {sorted(space.spaces)}, got {got}"
        inner = [(part, value[key], f"{path}[{key!r}]") for key, part in space.spaces.items()]
    elif isinstance(space, Tuple):
        if not isinstance(value, (tuple, list)) or len(value) != len(space.spaces):
            return f"{path} must be a tuple of {len(space.spaces)}, got {shown(value)}"
        parts = enumerate(zip(space.spaces, value, strict=True))
        inner = [(part, item, f"{path}[{number}]") for number, (part, item) in parts]
    elif isinstance(space, Box):
        try:
            array = np.asarray(value)
        except ValueError:
            return f"{path} must have the shape {space.shape}, got {shown(value)}"
        if array.shape != space.shape:
            return f"{path} must have the shape {space.shape}, got {array.shape}: {shown(value)}"
        if not np.can_cast(array.dtype, space.dtype, "same_kind"):
            return f"{path} must be of {space.dtype}, got {array.dtype}: {shown(value)}"
        return None
    else:
        return None if space.contains(value) else f"{path} must be in {space}, got {shown(value)}"
    for part, item, place in inner:
        if (fault := _fault(part, item, place)) is not None:
            return fault
    return None


def shown(value: Any) -> str:
    """A value on one line of a message, cut where it is long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


# --- in words -------------------------------------------------------------------------------------


def describe_observations(space: gym.Space[Any]) -> str:
    """What an environment shows, and what becomes of it, in a few words.

    >>> describe_observations(Discrete(16))
    'one-hot of 16'
    >>> describe_observations(Tuple([Discrete(3), Box(-1.0, 1.0, (8,))]))
    '11 inputs (one-hot of 3, 8 numbers)'
    """
    if isinstance(space, Discrete):
        return f"one-hot of {space.n}"
    if isinstance(space, MultiDiscrete):
        return f"one-hot of {_some(space.nvec.flatten(), ' + ')}"
    if isinstance(space, (Tuple, Dict)):
        parts = [describe_observations(part) for _, part in leaves(space)]
        size = sum(_inputs(part) for _, part in leaves(space))
        return f"{size} inputs ({_some(parts, ', ')})"
    sizes = space.shape or ()
    size = math.prod(sizes)
    shape = f" ({' x '.join(map(str, sizes))})" if len(sizes) > 1 else ""
    return f"{size} number{'' if size == 1 else 's'}{shape}"


def _some(items: Iterable[Any], between: str) -> str:
    """The first of a list that may be long."""
    texts = [str(item) for item in items]
    return between.join([*texts[:4], "..."] if len(texts) > 5 else texts)
