"""The settings of a population. The command line, the MLproject and the run's params are views of
this one dataclass.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn, get_args, get_type_hints

import numpy as np

from pbt_flow.exceptions import SettingsError, StrategyError
from pbt_flow.population.history import Candidate
from pbt_flow.population.stages import NOBODY, StagePlan, check_stages
from pbt_flow.space import Hparams, Space, check_hparams, draw
from pbt_flow.strategies.exploit import (
    EXPLOITS,
    GOOD_COPIES,
    MOST_COPIES,
    Exploit,
    NoExploit,
    Phased,
    expected_copies,
    groups_of,
    in_stage,
)
from pbt_flow.strategies.explore import EXPLORES, Explore
from pbt_flow.strategies.multiple_frequencies import MultipleFrequencies
from pbt_flow.strategies.samplers import SAMPLERS, LatinHypercube, OptunaSampler, Sampler, Sobol
from pbt_flow.strategies.text import blaming, check_copies, parse, write
from pbt_flow.task import Declaration, Task, complete_options, declare
from pbt_flow.utils.devices import usual_workers
from pbt_flow.utils.text import did_you_mean, listed, nearest

Mode = Literal["async", "generational"]
NONE = "none"
"""The word that takes away the value of a setting which may be without one, such as `seconds`.

Python's None cannot say that: it means that the user has not given the setting, and that the value
from before stays.
"""


def _setting(default: Any, help: str, *, on_resume: bool = False) -> Any:
    """A field with its help text; `on_resume` says that a resumed population may change it."""
    return field(default=default, metadata={"help": help, "on_resume": on_resume})


def check_model_name(name: str) -> None:
    """Refuse a text that cannot be the name of a registered model.

    Raises:
        SettingsError: The text is empty, or has a character that MLflow uses in addresses.
    """
    if not name or set(name) & set("/:@"):
        raise SettingsError(f"register must name a model, without any of / : @, got {name!r}")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that defines a population; make one with `Settings.for_task`."""

    task: str = _setting(
        None,
        "the learning problem: a name such as rl, module:Class, path/file.py:Class, or a script "
        "that calls pbt_flow.join, with its own arguments at the end, behind --",
    )
    options: Mapping[str, Any] = field(
        default_factory=dict, metadata={"help": "options of the task"}
    )
    population: int = _setting(8, "members trained side by side, at least 2")
    workers: int = _setting(
        None,
        "turns that run at once, each in a process; default: one a core, or one a GPU, and one a "
        "member where engine is ray",
        on_resume=True,
    )
    turns: int = _setting(20, "turns of each member (the budget)", on_resume=True)
    interval: int = _setting(1000, "steps of training in a turn, in the task's own unit")
    mode: Mode = _setting(
        "async",
        "async: who may have to copy waits for three quarters; generational: all wait for all",
    )
    stages: str = _setting(
        NOBODY,
        "how many members go on and for how long, within the same budget: none (all to the end), "
        "narrow, wide (twice as many founders race, the best go on for longer), or a plan as in "
        "16x2:none,8x4:hparams,4x8:hparams,2x32:both",
    )
    exploit: str = _setting(
        "truncation",
        "whom to copy: truncation, tournament, ttest, mfpbt (sub-populations that decide at their "
        "own intervals) or none (random search), with settings as in "
        "truncation:fraction=0.2,copies=hparams,until=0.5",
    )
    explore: str = _setting(
        "perturb",
        "how a copy moves: perturb, gaussian, resample or none, with settings as in "
        "perturb:factors=0.8/1.2,resample_probability=0",
    )
    init: str = _setting(
        "latin",
        "the first hyperparameters: latin (hypercube), sobol, uniform, or optuna:sampler=NAME",
    )
    resample: str = _setting(
        "uniform",
        "where resampled values come from: uniform, optuna:sampler=TPESampler, or pb2 (which with "
        "explore resample is Population Based Bandits)",
    )
    initial: Sequence[Mapping[str, Any]] = field(
        default=(), metadata={"help": "hyperparameters of the first members, as JSON objects"}
    )
    seed: int = _setting(0, "seeds every member, turn and decision")
    seconds: float | None = _setting(
        None, "stop after this many seconds; none: no limit", on_resume=True
    )
    target: float | None = _setting(None, "stop at this score; none: at no score", on_resume=True)
    max_failures: int = _setting(
        3, "turns in a row that may fail before a member is retired", on_resume=True
    )
    keep: int = _setting(
        2, "checkpoints kept of each member while others may still copy them", on_resume=True
    )
    samples: Literal["end", "rounds", "none"] = _setting(
        "end",
        "what the task shows of its models: at the end the winner's samples; rounds: after each "
        "round those of its best member as well; none",
        on_resume=True,
    )
    finalists: Literal["average", "own", "fresh", "none"] = _setting(
        "average",
        "how the winner is chosen: fresh, by evaluating the members' last records and the two "
        "best ever again on data that no decision has seen, at most once for two turns; none, of "
        "the last records by its score; average: as fresh, and the average of finalists' weights "
        "is handed over where it is better still; own: as average, with the average of the "
        "winner's own last three checkpoints beside it as a control, for which three of each "
        "member are kept",
        on_resume=True,
    )
    register: str | None = _setting(
        None,
        "the registered model of which the winner is to be a version, and the champion; none: of "
        "no model",
        on_resume=True,
    )
    turn_timeout: float | None = _setting(
        None,
        "seconds after which a turn counts as hung and is run again; default: 20 times the median "
        "turn and at least 5 minutes, as none says too; inf: never",
        on_resume=True,
    )
    engine: Literal["processes", "inline", "ray"] = _setting(
        "processes",
        "where turns run: worker processes, which keep what a turn prints as its output.txt, "
        "inline in this one, or ray: on the Ray cluster that RAY_ADDRESS names",
        on_resume=True,
    )
    device: str = _setting(
        "cpu",
        "cpu, cuda (a worker sees one GPU; more workers than GPUs share them) or as torch names it",
        on_resume=True,
    )
    gpu_share: float | None = _setting(
        None,
        "GPUs that each worker of engine ray holds, such as 0.5 of one; default: 1 where device "
        "is cuda, else none",
        on_resume=True,
    )
    threads: int = _setting(
        1,
        "CPU threads of torch in each worker; rounding, and so results, depend on them",
        on_resume=True,
    )
    warm: int | None = _setting(
        None,
        "members that a worker has in memory at most; the others it builds and restores when it "
        "is their turn. Default: a worker's share of the population, on a GPU while there is room",
        on_resume=True,
    )
    name: str | None = _setting(None, "the name of the population's run in MLflow")
    experiment: str | None = _setting(None, "the MLflow experiment; default: MLflow's own")

    @classmethod
    def for_task(
        cls, task: str | type[Task] | Declaration, *, quick: bool | None = None, **given: Any
    ) -> tuple[Settings, Declaration]:
        """The settings for a task.

        A setting that is not given is the task's own default, and else the default of this class.

        Args:
            task: A task class, the name of one, or what one declares.
            quick: Whether the task's settings for a run of seconds go before its other defaults.
            given: Fields of this class. None counts as not given. The word `none` takes away a
                limit that the task's defaults set. A strategy may be an object in place of its
                text.

        Returns:
            The checked settings, with every default filled in, and what the task declares.

        Raises:
            SettingsError: A setting is unknown or out of its range.
            TaskError: The task cannot be found, or what it declares cannot be.
            StrategyError: A strategy is unknown or has no such setting.
            SpaceError: An initial point lies outside the space.
        """
        kind = task if isinstance(task, Declaration) else declare(task)
        _refuse_unknown_names(kind, given)
        budget = [given.get(name) for name in ("population", "turns", "interval")]
        if quick and not kind.quick and None in budget:
            raise SettingsError(
                f"task {kind.label} has no quick settings; give population, turns and interval"
            )
        values = cls._with_defaults([kind.defaults, kind.quick if quick else {}], given)
        options, initial = values.get("options", {}), values.get("initial", ())
        if not isinstance(options, Mapping):
            raise SettingsError(f"options must map names to values, got {options!r}")
        if isinstance(initial, str | Mapping) or not isinstance(initial, Sequence):
            raise SettingsError(f"initial must be a list of hyperparameters, got {initial!r}")
        if not all(isinstance(point, Mapping) for point in initial):
            raise SettingsError(f"initial must hold one mapping for each member, got {initial!r}")
        values["options"] = complete_options(kind, options)
        values["initial"] = tuple(check_hparams(point, kind.space) for point in initial)
        for name, kinds in STRATEGIES.items():
            if not isinstance(values.get(name, ""), str):
                values[name] = write(values[name], kinds)
        if isinstance(values.get("stages"), StagePlan):
            values["stages"] = str(values["stages"])
        settings = cls(task=kind.name, **values)
        if given.get("stages") is None and settings.useful_stages() is None:
            settings = dataclasses.replace(settings, stages=NOBODY)
        settings = dataclasses.replace(settings, stages=settings._planned_stages())
        settings._check()
        settings.check_model(kind)
        settings._try_strategies(kind.space)
        return settings, kind

    @classmethod
    def check_given(cls, given: Mapping[str, Any]) -> None:
        """Refuse what no task could make right, before a task is imported: that takes seconds.

        Args:
            given: As in `for_task`, which checks the rest.

        Raises:
            SettingsError: A value has the wrong type or is out of its range.
            StrategyError: A strategy is unknown or has no such setting.
        """
        given = cls._read_given(given)
        # Which settings and options there are, only the task knows.
        names = {f.name for f in dataclasses.fields(cls)} - {"task", "options", "initial"}
        values = {name: value for name, value in given.items() if name in names}
        for name in ("stages", *STRATEGIES):
            text = values.get(name)
            # An object is written out later, and a class of the user's own may come with the task.
            if not isinstance(text, str) or "." in text.partition(":")[0]:
                values.pop(name, None)
        check_stages(values.get("stages", NOBODY))
        made = cls(**{"task": "", "workers": 1, **values})
        made._check_values()
        made.strategies()

    @classmethod
    def _with_defaults(
        cls, defaults: Sequence[Mapping[str, Any]], given: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The settings that were given, over defaults of the task, of which a later one goes first.

        An option that is given leaves the task's other options as they are.
        """
        values, options = dict[str, Any](), dict[str, Any]()
        for source in (*defaults, cls._read_given(given)):
            values |= source
            if isinstance(values.get("options"), Mapping):
                options |= source.get("options", {})
                values["options"] = dict(options)
        if values.get("workers") is None:
            # How many workers a cluster has room for is not known here, and may change.
            on_cluster = values.get("engine") == "ray"
            members = values.get("population", cls.population)
            values["workers"] = members if on_cluster else usual_workers(values.get("device"))
        return values

    def useful_stages(self) -> StagePlan | None:
        """The plan of `stages`, or None where nobody who did not ask for stages gains by them.

        They are of use where members wait for workers. Where each has one, stages make the same
        budget last longer; and where nobody copies, they would make another method of a random
        search.

        Raises:
            SettingsError: Another setting is of a wrong type or out of its range.
        """
        self._check_values()
        exploit = self.strategies().exploit
        if self.population < 2 * self.workers or isinstance(exploit, NoExploit):
            return None
        try:
            plan = dataclasses.replace(self, stages=self._planned_stages()).stage_plan
            if plan is not None:
                _check_copies_in_stages(exploit, plan)
        except SettingsError:
            # As where a budget of a few turns has none for the last stage.
            return None
        return plan

    def _planned_stages(self) -> str:
        """The stages written out, since what `wide` means depends on the number of workers.

        A resume may change that number, and must not change the stages.

        Raises:
            SettingsError: There are no such stages, or not within the budget.
        """
        self._check_values()
        plan = StagePlan.of(
            self.stages, population=self.population, turns=self.turns, workers=self.workers
        )
        if plan is None:
            return NOBODY
        exploit = self.strategies().exploit
        check_copies(exploit)
        if exploit.copies is None:
            # Successive halving: what the stages would let members copy is copied by nobody.
            plan = plan.without_copies()
        return str(plan)

    @property
    def stage_plan(self) -> StagePlan | None:
        """The stages; None where all members train to the end.

        Raises:
            SettingsError: The budget has no turn for the last stage.
        """
        return StagePlan.resumed(self.stages, population=self.population, turns=self.turns)

    @property
    def founders(self) -> int:
        """How many members begin."""
        plan = self.stage_plan
        return self.population if plan is None else plan.founders

    @property
    def last_turn(self) -> int:
        """The turns of a member that trains to the end."""
        plan = self.stage_plan
        return self.turns if plan is None else plan.ends[-1]

    @property
    def budget(self) -> int:
        """The steps of a member that trains to the end."""
        return self.last_turn * self.interval

    @property
    def all_turns(self) -> int:
        """The turns of all members together."""
        plan = self.stage_plan
        return self.population * self.turns if plan is None else plan.total

    def describe_members(self) -> list[str]:
        """How the members differ in what they do, in sentences; empty where all do the same."""
        exploit, told = self.strategies().exploit, list[str]()
        if (stages := self.stage_plan) is not None:
            told.append(stages.describe())
        if isinstance(exploit, MultipleFrequencies):
            told.append(exploit.describe(self.population))
        return told

    @property
    def groups(self) -> list[int]:
        """The number of each member's sub-population; all 0 where there is only one.

        Raises:
            SettingsError: The exploit strategy cannot share out so many members.
        """
        exploit = self.strategies().exploit
        try:
            return groups_of(exploit, self.founders)
        except ValueError as error:
            raise SettingsError(f"exploit {self.exploit}: {error}") from None

    @property
    def has_groups(self) -> bool:
        """Whether there is more than one sub-population."""
        return max(self.groups) > 0

    def draw_founders(self, space: Space, rng: np.random.Generator) -> list[Hparams]:
        """The first hyperparameters of every member.

        The first `population` of them do not depend on the stages, so that a control with the same
        seed begins with the very same. Stages that begin with more members draw the others later.
        """
        sampler, count = self.strategies().init, self.population - len(self.initial)
        points = [*self.initial, *sampler.initial(space, count, rng)]
        if (more := self.founders - self.population) > 0:
            points += sampler.initial(space, more, rng)
        return [check_hparams(point, space) for point in points[: self.founders]]

    def _try_strategies(self, space: Space) -> None:
        """Use each strategy once on the space, so that one that fails there fails now.

        Raises:
            StrategyError: A strategy cannot work on this space.
        """
        made, rng = self.strategies(), np.random.default_rng(0)
        point = draw(space, rng)
        two = [Candidate(member=n, fitness=float(n), sample=(float(n), n + 1.0)) for n in (0, 1)]
        check_copies(made.exploit)
        with blaming("exploit", made.exploit):
            made.exploit(two[0], two[1:], rng)
        with blaming("explore", made.explore):
            check_hparams(made.explore(point, space, lambda: draw(space, rng), rng), space)
        with blaming("init", made.init):
            made.init.initial(space, 1, rng)
        with blaming("resample", made.resample):
            made.resample.fresh(space, [], rng)

    def _check(self) -> None:
        """Refuse settings that cannot be, alone or together.

        Raises:
            SettingsError: A value has the wrong type, is out of its range or contradicts another.
            StrategyError: A strategy is unknown or has no such setting.
        """
        self._check_values()
        if len(self.initial) > self.population:
            raise SettingsError(
                f"initial gives {len(self.initial)} members to a population of {self.population}"
            )
        exploit = self.strategies().exploit
        plan, has_groups = self.stage_plan, self.has_groups
        if plan is not None and has_groups:
            raise SettingsError(
                f"exploit {self.exploit} has sub-populations, and stages {self.stages} would take "
                "members out of some of them; take stages none, or another exploit"
            )
        if plan is not None:
            _check_copies_in_stages(exploit, plan)

    def _check_values(self) -> None:
        """Refuse values that cannot be, whatever the others are.

        Raises:
            SettingsError: A setting has such a value.
        """
        if type(self.stages) is not str:
            raise SettingsError(f"stages must be a text or a StagePlan, got {self.stages!r}")
        hints = get_type_hints(type(self))
        for f in dataclasses.fields(self):
            value, hint = getattr(self, f.name), hints[f.name]
            if value is None and type(None) in get_args(hint):
                continue
            if hint in (int, int | None) and type(value) is not int:
                raise SettingsError(f"{f.name} must be a whole number, got {value!r}")
            if hint in (str, str | None) and not isinstance(value, str):
                raise SettingsError(f"{f.name} must be a text, got {value!r}")
            if hint == float | None:
                number = isinstance(value, int | float) and not isinstance(value, bool)
                never = f.name == "turn_timeout" and value == math.inf
                # An integer may be greater than any float; NaN fails the comparison.
                if not number or not (abs(value) <= sys.float_info.max or never):
                    raise SettingsError(
                        f"{f.name} must be a finite number, or {NONE}, got {value!r}"
                    )
            elif (
                (choices := get_args(hint)) and isinstance(choices[0], str) and value not in choices
            ):
                meant = did_you_mean(str(value), choices)
                raise SettingsError(
                    f"{f.name} must be one of {listed(choices)}, got {value!r}{meant}"
                )
        if self.population < 2:
            raise SettingsError(
                f"population must be at least 2, got {self.population}: a single member has nobody "
                "to copy (for a single run, train it with your own script)"
            )
        for name in ("workers", "turns", "interval", "max_failures", "keep", "warm", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingsError(f"{name} must be at least 1, got {value}")
        if self.seed < 0:
            raise SettingsError(f"seed must not be negative, got {self.seed}")
        for name in ("seconds", "turn_timeout"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise SettingsError(f"{name} must be above 0, got {value}")
        if self.register is not None:
            check_model_name(self.register)
        self._check_gpu_share()

    def _check_gpu_share(self) -> None:
        """Refuse a number of GPUs that Ray has no room for on any machine.

        Raises:
            SettingsError: It is negative, or more than one and no whole number.
        """
        share = self.gpu_share
        if share is None:
            return
        if share < 0 or (share > 1 and share != int(share)):
            raise SettingsError(
                f"gpu_share must be a part of 1, or a whole number of GPUs, got {share:g}"
            )
        if share != round(share, 4):
            raise SettingsError(
                f"gpu_share must have four decimal places at most, as Ray counts, got {share!r}"
            )
        if share and self.engine != "ray":
            raise SettingsError(
                f"gpu_share is for engine ray, got {share:g} with engine {self.engine}, where a "
                "worker takes a GPU if device is cuda; give gpu_share none"
            )

    def check_model(self, kind: Declaration) -> None:
        """Refuse to register the model of a task that keeps none.

        Raises:
            SettingsError: `register` is set, and the task has no `model()`.
        """
        if self.register is not None and not kind.has_model:
            raise SettingsError(f"register: task {kind.label} keeps no model: it has no model()")

    def strategies(self) -> Strategies:
        """The strategies that the settings name.

        Raises:
            StrategyError: A strategy does not exist, or does not take its settings.
        """
        made = Strategies(
            **{name: parse(getattr(self, name), kinds, name) for name, kinds in STRATEGIES.items()}
        )
        if isinstance(made.resample, OptunaSampler):
            try:
                made.resample.check_learns()
            except ValueError as error:
                raise StrategyError(f"resample: {error}") from None
        if isinstance(made.resample, Sobol | LatinHypercube):
            raise StrategyError(
                f"resample: {self.resample} only makes an initial population; choose uniform"
            )
        return made

    @property
    def is_control(self) -> bool:
        """Whether the population is random search: nobody copies, and nobody leaves."""
        return self.stages == NOBODY and isinstance(self.strategies().exploit, NoExploit)

    @property
    def method(self) -> str:
        """What the population does, in words."""
        copies_nobody = isinstance(self.strategies().exploit, NoExploit)
        if self.stages == NOBODY:
            return "random search" if copies_nobody else "Population Based Training"
        return "successive halving" if copies_nobody else "Population Based Training in stages"

    def copies_warning(self) -> str | None:
        """What to tell the user if members would copy too often; None if they would not.

        A population in stages gets no warning. Of the two members of a last stage one copies the
        other at every turn, and that is meant.
        """
        if self.stages != NOBODY:
            return None
        exploit = self.strategies().exploit
        copies = expected_copies(exploit, population=self.population, turns=self.turns)
        if copies is None or copies <= MOST_COPIES:
            return None
        remedies = ["a longer interval with fewer turns"]
        worst = int(GOOD_COPIES * self.population / self.turns)
        if worst >= 1:
            remedies.insert(0, f"truncation:fraction={worst / self.population:.3g}")
        return (
            f"exploit {self.exploit}: with turns={self.turns} a member will copy about "
            f"{copies:.3g} times; above {MOST_COPIES} times, what looks good for the moment wins "
            "over what is good in the end. Better: " + ", or ".join(remedies)
        )

    @classmethod
    def _read_given(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """The settings that were given, with None in place of the word `none`.

        Those that are None were not given, and are left out.
        """
        hints = get_type_hints(cls)
        optional = {
            f.name
            for f in dataclasses.fields(cls)
            if f.metadata.get("on_resume") and type(None) in get_args(hints[f.name])
        }
        return {
            name: None if name in optional and value == NONE else value
            for name, value in given.items()
            if value is not None
        }

    def resumed(self, **given: Any) -> Settings:
        """These settings with those changed that a resumed population may change.

        Args:
            given: Fields of this class. None counts as not given. The word `none` lifts a limit, as
                in `seconds="none"`.

        Raises:
            SettingsError: A setting is given that defines the population.
        """
        changes = self._read_given(given)
        if "options" in changes:
            self._refuse_change("options")
        return self.changed(changes)

    def _refuse_change(self, name: str) -> NoReturn:
        allowed = [f.name for f in dataclasses.fields(self) if f.metadata.get("on_resume")]
        if name not in type(self).__dataclass_fields__:
            raise SettingsError(
                f"no setting {name!r}{did_you_mean(name, allowed)}; what can change on resume: "
                f"{allowed}"
            )
        raise SettingsError(
            f"{name} cannot change on resume, since it defines the population; what can: {allowed}"
        )

    def changed(self, changes: Mapping[str, Any]) -> Settings:
        """These settings with the values of a resume, where None is the value of a lifted limit.

        The changes may bring options that the population does not have, since its task's class may
        have got more of them. They cannot change an option that it has.

        Raises:
            SettingsError: One of the settings defines the population, and cannot change.
        """
        for name in changes:
            known = type(self).__dataclass_fields__.get(name)
            if name != "options" and not (known and known.metadata.get("on_resume")):
                self._refuse_change(name)
        settings = dataclasses.replace(
            self, **{**changes, "options": {**changes.get("options", {}), **self.options}}
        )
        settings._check()
        return settings

    def to_json(self) -> dict[str, Any]:
        """The settings as plain JSON values."""
        return {f.name: value_to_json(getattr(self, f.name)) for f in dataclasses.fields(self)}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Settings:
        """The inverse of `to_json`.

        Raises:
            SettingsError: A field is unknown to this version.
        """
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := sorted(set(plain) - known):
            raise SettingsError(f"settings of another version: unknown {unknown[0]!r}")
        settings = cls(**{**plain, "initial": tuple(plain.get("initial", ()))})
        settings._check()
        return settings


def _refuse_unknown_names(kind: Declaration, given: Mapping[str, Any]) -> None:
    """Refuse names that are no settings, given by the user or by the task.

    Raises:
        SettingsError: There is such a name. The message says which may have been meant.
    """
    known = {f.name for f in dataclasses.fields(Settings)} - {"task"}
    # Where turns run is decided before the task is read, and is not the task's affair.
    of_task = known - {"engine", "workers", "device", "threads", "gpu_share"}
    sources = (
        ("", given, known),
        (f"defaults of task {kind.label}: ", kind.defaults, of_task),
        (f"quick of task {kind.label}: ", kind.quick, of_task),
    )
    for source, values, possible in sources:
        unknown = sorted(set(values) - possible)
        if not unknown:
            continue
        word, options = unknown[0], [] if source else list(kind.options)
        near = nearest(word, [*possible, *options])
        if word in options:
            way = f"; as an option of the task it goes into options={{{word!r}: ...}}"
        elif near in options:
            way = f" (did you mean the option of the task, options={{{near!r}: ...}}?)"
        else:
            way = f"{did_you_mean(word, possible)}; there are {listed(sorted(possible))}"
        raise SettingsError(f"{source}no setting {word!r}{way}")


def _check_copies_in_stages(exploit: Exploit, plan: StagePlan) -> None:
    """Refuse an exploit that copies otherwise than the stages say.

    Raises:
        SettingsError: Both the exploit's own setting and the stages say what is copied.
        StrategyError: The exploit has no setting for what it copies.
    """
    check_copies(exploit)
    if exploit.copies in ("weights", "hparams"):
        own = f"copies={exploit.copies}"
        if isinstance(exploit, Phased) and exploit.until is not None:
            own += f",until={exploit.until:g}"
        raise SettingsError(
            f"exploit {exploit} says what is copied, and each of the stages {plan} does so too; "
            f"leave out {own}, or write the stages out with :{exploit.copies} behind those that "
            "are to copy only that"
        )
    for stage in plan.stages:
        in_stage(exploit, stage.copies)


def value_to_json(value: Any) -> Any:
    """The value of a setting as JSON has it, with lists in place of tuples."""
    if isinstance(value, Mapping):
        return {k: value_to_json(v) for k, v in value.items()}
    return [value_to_json(v) for v in value] if isinstance(value, list | tuple) else value


@dataclass(frozen=True, kw_only=True)
class Strategies:
    """The strategies that settings name, built."""

    exploit: Exploit
    explore: Explore
    init: Sampler
    resample: Sampler


STRATEGIES: dict[str, dict[str, type[Any]]] = {
    "exploit": EXPLOITS,
    "explore": EXPLORES,
    "init": SAMPLERS,
    "resample": SAMPLERS,
}
