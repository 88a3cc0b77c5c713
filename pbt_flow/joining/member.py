"""What a script that has joined, and the worker that trains it, have in common.

The script holds it by its loop, and the worker by the task. It does not know the greenlet on which
the script stands: a greenlet that its own frames hold could never be freed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

from greenlet import getcurrent

from pbt_flow.exceptions import TaskError
from pbt_flow.joining.carried_variables import carried_variables
from pbt_flow.joining.hyperparameters import Hyperparameters
from pbt_flow.joining.loader_position import LoaderPosition, end_processes, generators_of
from pbt_flow.joining.objects import Keeper, has_state, keeper_of
from pbt_flow.joining.outer_loop import Places, outer_loop
from pbt_flow.joining.param_groups import is_optimizer
from pbt_flow.joining.unsaved_weights import GatheredGradients, TrainedWeights
from pbt_flow.population.records import Direction, ReportDirection
from pbt_flow.space import Hparams, Space

AT_HEAD = "at the head of the loop"
"""What a script says when it hands control back."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What a script says of itself when it joins."""

    space: Space
    evaluate: Callable[[], Any]
    interval: int
    direction: Direction
    report: Callable[[], Mapping[str, float]] | None
    report_direction: ReportDirection


class Member:
    """One model in training, whose script stands at the head of its loop between turns.

    Args:
        label: What the script is called in messages.
    """

    def __init__(self, label: str) -> None:
        self.label = label
        self.objects: dict[str, Any] = {}
        """What the script has named; empty until it joins."""
        self.step = 0
        """The age of the weights in passes of the loop, along their lineage."""
        self.begins = False
        self.passes: int | None = None
        """Of how many passes the script's own loop is, where it says so."""
        self.unnamed: list[str] = []
        self.carried: list[str] = []
        """Variables of the script that have a state and are not among its objects."""
        self._turn_steps = 0
        self._position = LoaderPosition()
        self._modes: list[tuple[Any, bool]] = []
        self._loaders: list[Any] = []
        self._logged: dict[str, float] = {}
        self._began_in = _thread_modes()

    def join(
        self, terms: Terms, objects: Mapping[str, Any], *, joined: Places | None = None
    ) -> None:
        """Take what the script gives.

        Args:
            terms: What it says of itself.
            objects: What a checkpoint holds.
            joined: Where the script stands; None where it runs alone.

        Raises:
            TaskError: It has joined before, or one of the objects has no state.
        """
        if self.objects:
            raise TaskError(f"{self.label} calls join() twice; a script trains one model")
        self.terms, self.objects, self._joined = terms, dict(objects), joined or {}
        self.hyperparameters = Hyperparameters(terms.space, self.label)
        self._keepers: dict[str, Keeper] = {
            name: keeper_of(name, value) for name, value in objects.items()
        }

    # --- called by the script ---------------------------------------------------------------------

    def enter_loop(self, frame: FrameType, passes: int | None, loader: Any = None) -> None:
        """Note what the script is at its loop.

        Args:
            frame: Where the script's loop is.
            passes: Of how many passes the loop is when the script runs alone; None if unknown.
            loader: The loader whose batches are the passes; None if there is none.

        Raises:
            TaskError: The loop stands where it could not wait.
        """
        self.passes = passes
        if place := outer_loop(frame, self._joined):
            raise TaskError(
                f"{self.label}: its loop over pbt.steps() or pbt.batches() stands inside of "
                f"another loop ({place}), to which a population never comes back, so that what "
                "follows there would not be done; make one loop of the two, as by "
                "pbt.batches(loader, epochs=N), and do what belongs to the end of an epoch where "
                "pbt.step says that it is one"
            )
        self._check_trained_is_kept()
        self.unnamed = self._look_for_unnamed(frame, loader)
        self.carried = self._look_for_carried(frame)
        self.hyperparameters.attach(self.objects)
        self.hyperparameters.watch(self.objects)
        self._trained = TrainedWeights(self._named_modules())
        self._gradients = GatheredGradients(self.objects, self.hyperparameters)
        self._modes = [(module, module.training) for module in self.modules(inner=True)]
        self._loaders = [loader, *_loaders(frame)]
        self._made_of = self._parts_of_objects()

    def turns(self) -> Iterator[None]:
        """Each pass of the loop; between turns the script waits here for as long as it takes."""
        while True:
            self._check_thread_modes()
            getcurrent().parent.switch(AT_HEAD)
            self.begins = True
            for _ in range(self._turn_steps):
                self._gradients.begin_pass()
                yield
                self.step += 1
                self.begins = False

    def read(self, name: str) -> Any:
        """The value of a hyperparameter that the script asks for.

        Raises:
            TaskError: It asks before its loop.
        """
        if self.hyperparameters.values is None:
            raise TaskError(
                f"{self.label} asks for {name} before its loop, where no turn has begun; ask for "
                "it inside of the loop"
            )
        return self.hyperparameters.read(name)

    def next_batch(self, loader: Iterable[Any]) -> Any:
        return self._position.next_batch(loader)

    def log(self, metrics: Mapping[str, float]) -> None:
        self._logged.update(metrics)

    # --- called by the worker ---------------------------------------------------------------------

    def begin_turn(self, hparams: Hparams, steps: int) -> None:
        """Set what the next passes of the loop are to train with."""
        self._turn_steps, self._logged = steps, {}
        # Whoever evaluated or looked may have left a module in another mode than the loop began in.
        for module, training in self._modes:
            module.training = training
        for loader in self._loaders:
            end_processes(loader)  # Not those of `batches`, whose place is in the state.
        self.hyperparameters.begin(hparams)

    def end_turn(self) -> dict[str, float]:
        """What was live, and what the script logged in its loop.

        Raises:
            TaskError: Something else was live than was asked for, or the loop has changed what the
                script's objects are made of.
        """
        self._check_parts()
        is_first = self.step == self._turn_steps
        return {**self._logged, **self.hyperparameters.prove(is_first=is_first)}

    def evaluate_apart(self) -> tuple[Any, dict[str, float]]:
        """The score, and what the script logged while it was evaluated."""
        self._logged = {}
        score = self.terms.evaluate()
        if score is None:
            raise TaskError(
                f"{self.label}: {_name_of(self.terms.evaluate)}, given to join() to evaluate, "
                "returned None; it must return the score"
            )
        return score, self._logged

    def state_dict(self) -> dict[str, Any]:
        objects = {name: keeper.state() for name, keeper in self._keepers.items()}
        state = {"objects": objects, "step": self.step, "loader": self._position.state()}
        unsaved = {"trainable": self._trained.state(), "gradients": self._gradients.state()}
        return state | {name: one for name, one in unsaved.items() if one}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state.

        Raises:
            TaskError: It is of other objects than the script names, or does not fit one of them.
        """
        if set(state["objects"]) != set(self._keepers):
            theirs, ours = sorted(state["objects"]), sorted(self._keepers)
            raise TaskError(
                f"{self.label} names {', '.join(ours)} in join(), and the checkpoint is of "
                f"{', '.join(theirs)}; bring the script back, or start a new population"
            )
        for name, keeper in self._keepers.items():
            try:
                keeper.load(state["objects"][name])
            except (KeyError, TypeError, ValueError, RuntimeError) as error:
                # Torch says so of a module; any other such error may be of the machine, as of an
                # accelerator without memory.
                if isinstance(error, RuntimeError) and "state_dict" not in str(error):
                    raise
                reason = " ".join(str(error).split())
                raise TaskError(
                    f"{self.label}: {name} does not take over the checkpoint's ({reason}); it must "
                    "be at the loop what it was when the checkpoint was written: bring the script "
                    "back, or start a new population"
                ) from error
        self._gradients.load(state.get("gradients", {}))
        self._trained.load(state.get("trainable", {}))
        self.step = state["step"]
        self._position.load(state["loader"])

    def close(self) -> None:
        """Be told that nobody trains this any more."""
        # The script's variables hold the member that holds them. A loader that is found only by a
        # later collection waits 5 s for its processes.
        self._position.close()
        for loader in self._loaders:
            end_processes(loader)

    def modules(self, *, inner: bool = False) -> Sequence[Any]:
        """The torch modules among the objects, and if `inner`, the parts of each as well."""
        found = [module for _, module in self._named_modules()]
        return [part for module in found for part in module.modules()] if inner else found

    def _named_modules(self) -> list[tuple[str, Any]]:
        from torch import nn

        return [(name, one) for name, one in self.objects.items() if isinstance(one, nn.Module)]

    # --- what may be wrong with a script ----------------------------------------------------------

    def _look_for_unnamed(self, frame: FrameType, loader: Any) -> list[str]:
        kept = {id(value) for value in self.objects.values()}
        kept |= {id(part) for part in self.modules(inner=True)}
        # What `batches` draws from is seeded for each epoch.
        kept |= {id(one) for one in generators_of(loader)}
        return sorted(
            name
            for name, value in _variables(frame).items()
            if id(value) not in kept and has_state(value)
        )

    def _look_for_carried(self, frame: FrameType) -> list[str]:
        kept = {id(value) for value in self.objects.values()}
        return carried_variables(frame, lambda value: id(value) in kept or has_state(value))

    def _check_trained_is_kept(self) -> None:
        """Refuse a script whose optimiser trains weights that no checkpoint would hold.

        A copy would get the donor's optimiser and keep its own weights, and nothing would say so.

        Raises:
            TaskError: One of an optimiser's weights belongs to no named object.
        """
        kept = list[Any]()
        for value in self.objects.values():
            if not is_optimizer(value) and hasattr(value, "state_dict"):
                kept += _tensors_in(value.state_dict())
            elif hasattr(value, "data_ptr"):
                kept.append(value)
        places = {place for tensor in kept if (place := _place_of(tensor)) is not None}
        for name, optimizer in self.objects.items():
            groups = getattr(optimizer, "param_groups", None)
            if groups is None or not is_optimizer(optimizer):
                continue
            trained = [weight for group in groups for weight in group["params"]]
            missing = [
                weight
                for weight in trained
                if weight.requires_grad
                and (place := _place_of(weight)) is not None
                and place not in places
                # A state may hold copies.
                and not any(_is_copy(tensor, weight) for tensor in kept)
            ]
            if missing:
                part = "" if len(missing) == len(trained) else f"{len(missing)} of its "
                raise TaskError(
                    f"{self.label}: {name} trains {part}{len(trained)} weights that no object "
                    "named in join(...) has, so that no checkpoint would hold them; name "
                    f"{'the model' if not part else 'what has them'} as well, as in "
                    "join(..., model=model)"
                )

    def _parts_of_objects(self) -> dict[str, list[Any]]:
        """What a state of each object must fit: the weights of a module, and an optimiser's groups.

        Of a group it is how many weights it has.
        """
        parts: dict[str, list[Any]] = {
            name: [inner for inner, _ in module.named_parameters()]
            for name, module in self._named_modules()
        }
        for name, value in self.objects.items():
            if is_optimizer(value):
                parts[name] = [len(group.get("params", ())) for group in value.param_groups]
        return parts

    def _check_parts(self) -> None:
        """Refuse a loop that adds a layer or a group: no copy could take the state over.

        Raises:
            TaskError: An object is made of other parts than at the loop.
        """
        for name, parts in self._parts_of_objects().items():
            if parts != self._made_of[name]:
                raise TaskError(
                    f"{self.label}: its loop has given {name} other weights or groups than it had "
                    "before the loop; a copy and a resume begin at the loop, and could not take "
                    "its state over. Add them before the loop, and let the loop begin to train "
                    "them with requires_grad_(True)"
                )

    def _check_thread_modes(self) -> None:
        """Refuse a loop inside of a mode that would hold for everybody while the script waits."""
        for mode, value in _thread_modes().items():
            if value != self._began_in[mode]:
                raise TaskError(
                    f"{self.label}: its loop over pbt.steps() or pbt.batches() stands inside of "
                    f"{mode}, which would hold for others while it waits; put that into the loop"
                )


def _variables(frame: FrameType) -> dict[str, Any]:
    """What a script has at its loop, by name: variables, and what its loaders draw from."""
    variables = dict(frame.f_locals)
    # The loop of a trainer: what it trains are its attributes.
    mine = getattr(variables.get("self"), "__dict__", {})
    variables |= {f"self.{name}": value for name, value in mine.items()}
    # Of a notebook, the variables of all cells would be found.
    if "__file__" in frame.f_globals:
        variables = {**frame.f_globals, **variables}
    for name, value in list(variables.items()):
        if _is_loader(value):
            drawn_from = generators_of(value)
            if drawn_from and not any(one is drawn_from[0] for one in variables.values()):
                variables[f"{name}.generator"] = drawn_from[0]
    return variables


_MOST_LOADERS = 100
"""What holds more is not looked into for loaders."""


def _loaders(frame: FrameType) -> list[Any]:
    """The loaders that a script has at its loop: its variables, and what is in these."""
    found = dict[int, Any]()
    for value in _variables(frame).values():
        if inspect.ismodule(value):
            continue
        for part in [value, *getattr(value, "__dict__", {}).values()]:
            inner: Iterable[Any] = (part,)
            # A container of many things holds data.
            if isinstance(part, dict | list | tuple) and len(part) <= _MOST_LOADERS:
                inner = part.values() if isinstance(part, dict) else part
            found |= {id(one): one for one in inner if _is_loader(one)}
    return list(found.values())


def _is_loader(value: Any) -> bool:
    return isinstance(value, Iterable) and hasattr(value, "batch_sampler")


def _place_of(tensor: Any) -> int | None:
    """Where the numbers of a tensor lie; None while it has none, as of a lazy module."""
    from torch.nn.parameter import is_lazy

    place: int | None = None if is_lazy(tensor) else tensor.data_ptr()
    return place


def _is_copy(tensor: Any, weight: Any) -> bool:
    same = tensor.shape == weight.shape and tensor.dtype == weight.dtype
    return same and bool((tensor.to(weight.device) == weight).all())


def _tensors_in(state: Any) -> Iterator[Any]:
    """All tensors of a state, however deep they lie in it."""
    if hasattr(state, "data_ptr"):
        yield state
    elif isinstance(state, Mapping):
        for part in state.values():
            yield from _tensors_in(part)
    elif isinstance(state, list | tuple):
        for part in state:
            yield from _tensors_in(part)


def _thread_modes() -> dict[str, bool]:
    """The modes of torch that are a thread's, and not a greenlet's."""
    import torch

    return {
        "torch.no_grad() or torch.enable_grad()": torch.is_grad_enabled(),
        "torch.inference_mode()": torch.is_inference_mode_enabled(),
        'torch.autocast("cpu")': torch.is_autocast_enabled("cpu"),
        'torch.autocast("cuda")': torch.is_autocast_enabled("cuda"),
    }


def _name_of(function: Callable[..., Any]) -> str:
    name = getattr(function, "__name__", type(function).__name__)
    code = getattr(function, "__code__", None)
    if name != "<lambda>" or code is None:
        return str(name)
    return f"the lambda in line {code.co_firstlineno}"
