"""The average of finalists: handed over where it is better than the winner, and only there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from histories import begun, do
from mlflow.tracking import MlflowClient
from optuna.distributions import FloatDistribution
from sample_tasks import Regression

import pbt_flow
from pbt_flow.commands.stored_population import StoredPopulation
from pbt_flow.commands.summary import summary
from pbt_flow.engines import Engine, LostJob
from pbt_flow.engines.jobs import AverageEvaluated, EvaluateAfresh, EvaluateAverage, EvaluatedAfresh
from pbt_flow.population.averages import finalists_told
from pbt_flow.population.records import Checkpoint
from pbt_flow.task import Task
from pbt_flow.training.averaging import average_finalists, average_own_records
from pbt_flow.training.finalists import judge_finalists


class Numbers(Engine):
    """Models are one number each; an average has their mean, and a score is -(w - 1)^2."""

    slots = 2

    def __init__(
        self, *numbers: float, top: float = 0.0, noise: float = 0.0, fails: bool = False
    ) -> None:
        self.numbers, self.top, self.noise, self.fails = numbers, top, noise, fails
        self.tried: list[tuple[int, ...]] = []
        self._done: list[Any] = []

    def start(self, context: Any, *, slots: int = 1) -> None: ...

    def open(self, folders: Any, runs: Any = None) -> None: ...

    def close(self) -> None: ...

    def submit(self, job: Any) -> None:
        if isinstance(job, EvaluateAfresh):
            scores = self._scores([job.checkpoint], job)
            self._done.append(EvaluatedAfresh(request=job, scores=scores))
            return
        assert isinstance(job, EvaluateAverage)
        members = [parent.member for parent in job.parents]
        if self.fails:
            self._done.append(LostJob(job=job, reason="the worker died"))
            return
        self.tried.append(tuple(members))
        state = Checkpoint(member=members[0], turn=4, digest="average", size=1)
        self._done.append(
            AverageEvaluated(
                request=job,
                scores=self._scores(job.parents, job),
                metrics={} if job.folder is None else {"q": 1.0},
                checkpoint=None if job.folder is None else state,
            )
        )

    def _number(self, checkpoint: Checkpoint) -> float:
        return self.numbers[checkpoint.member]

    def _scores(self, parents: Sequence[Checkpoint], job: Any) -> tuple[float, ...]:
        weight = sum(map(self._number, parents)) / len(parents)
        numbers = range(job.first, job.first + job.times)
        return tuple(self.top - (weight - 1) ** 2 + self.noise * number for number in numbers)

    def wait(self, timeout: float | None = None) -> list[Any]:
        return [self._done.pop()]


def of_one_founder(members: int) -> Any:
    """A history in which all descend from member 0."""
    history = begun(members)
    for member in range(members):
        do(history, member)
    for member in range(members):
        do(history, member, copy=(0, 1) if member else None)
    for _ in range(2):
        for member in range(members):
            do(history, member)
    return history


def records(history: Any) -> list[tuple[int, int]]:
    return [(turn.member, turn.number) for turns in history.turns.values() for turn in turns]


def averaged(history: Any, engine: Engine, say: Any = lambda text: None) -> Any:
    history.fresh.update(judge_finalists(history, engine, say).fresh)
    return average_finalists(history, engine, Path(), say)


def test_whoever_makes_the_average_worse_is_left_out():
    """The weights .7, 1.4 and 1.9 have the scores -.09, -.16 and -.81. The mean of the first two is
    1.05 (-.0025); with the third it would be 1.33 (-.11).
    """
    history, engine = of_one_founder(3), Numbers(0.7, 1.4, 1.9)
    found = averaged(history, engine)
    assert [turn.member for turn in found.parents] == [0, 1]
    assert engine.tried == [(0, 1), (0, 1, 2), (0, 1)]
    assert found.fresh.mean == pytest.approx(-0.0025)
    assert found.report == {"q": 1.0}


def test_the_average_is_worth_what_it_is_on_data_that_no_choice_has_seen():
    history, engine = of_one_founder(3), Numbers(0.7, 1.4, 1.9, noise=1.0)
    found = averaged(history, engine)
    times = history.fresh[history.winner().checkpoint].readings
    later = sum(range(times, 2 * times)) / times
    assert found.fresh.readings == times
    assert found.fresh.mean == pytest.approx(-0.0025 + later)


def test_where_all_turns_were_scored_on_the_same_data_nothing_is_called_fresh():
    history, engine = of_one_founder(3), Numbers(0.0, 2.0, 0.0, top=2.0)
    assert history.winner().score == 1.0  # what the engine says of each, too
    found = averaged(history, engine)
    assert not history.fresh
    assert [turn.member for turn in found.parents] == [0, 1]
    assert (found.score, found.fresh) == (2.0, None)


def test_a_score_that_comes_again_by_chance_does_not_pass_for_one_on_the_same_data():
    """Training was too short for finalists to be judged, and the winner's first evaluation is 1."""
    history, engine = of_one_founder(3), Numbers(0.0, 2.0, 0.0, top=2.0, noise=1.0)
    found = average_finalists(history, engine, Path(), print)
    assert (found.score, found.fresh.mean) == (3.0, 3.0)


def test_an_average_that_is_no_better_is_not_handed_over():
    assert averaged(of_one_founder(3), Numbers(1.0, 1.4, 1.9)) is None


class Numbered(Numbers):
    """The same, where the number of a model is that of its record: member and turn."""

    def __init__(self, numbers: Mapping[tuple[int, int], float], **more: Any) -> None:
        super().__init__(**more)
        self.of = numbers

    def _number(self, checkpoint: Checkpoint) -> float:
        return self.of[checkpoint.member, checkpoint.turn]


def test_the_winners_own_last_three_records_are_averaged_better_or_not():
    """Member 1 copied turn 1 of member 0, so that its line is 0-1, 1-2, 1-3 and 1-4."""
    history = of_one_founder(2)
    numbers = {(1, 4): 1.1, (1, 3): 0.6, (1, 2): 0.1, (0, 4): 3.0}
    engine = Numbered({**dict.fromkeys(records(history), 9.0), **numbers})
    history.fresh.update(judge_finalists(history, engine, print).fresh)
    own = average_own_records(history, engine, Path(), print)
    assert [(turn.member, turn.number) for turn in own.parents] == [(1, 4), (1, 3), (1, 2)]
    assert own.score == pytest.approx(-((0.6 - 1) ** 2))
    assert own.score < history.fresh[history.winner().checkpoint].mean
    assert own.report == {"q": 1.0}


def test_the_line_of_a_winner_that_has_copied_goes_on_with_its_donor():
    history = begun(2)
    for member in range(2):
        do(history, member)
        do(history, member)
    do(history, 0)
    do(history, 1, copy=(0, 2))
    engine = Numbered({**dict.fromkeys(records(history), 9.0), (1, 3): 1.0})
    history.fresh.update(judge_finalists(history, engine, print).fresh)
    own = average_own_records(history, engine, Path(), print)
    assert [(turn.member, turn.number) for turn in own.parents] == [(1, 3), (0, 2), (0, 1)]


def test_records_whose_checkpoints_are_gone_are_left_out_and_a_record_alone_has_no_average():
    history = of_one_founder(2)
    engine = Numbered({**dict.fromkeys(records(history), 9.0), (1, 4): 1.0})
    history.fresh.update(judge_finalists(history, engine, print).fresh)
    history.forget(1, 2)
    own = average_own_records(history, engine, Path(), print)
    assert [(turn.member, turn.number) for turn in own.parents] == [(1, 4), (1, 3)]
    history.forget(1, 3)
    assert average_own_records(history, engine, Path(), print) is None


def test_both_averages_are_judged_on_the_same_data():
    history = of_one_founder(2)
    engine = Numbered(dict.fromkeys(records(history), 0.9), noise=1.0)
    engine.of |= {(1, 4): 0.8, (0, 4): 1.3, (1, 3): 0.8, (1, 2): 0.8}
    history.fresh.update(judge_finalists(history, engine, print).fresh)
    across = average_finalists(history, engine, Path(), print)
    own = average_own_records(history, engine, Path(), print)
    assert {turn.member for turn in across.parents} == {0, 1}
    assert own.fresh.readings == across.fresh.readings
    # Without what the data adds to both, they are what their numbers say.
    found = across.fresh.mean - own.fresh.mean
    assert found == pytest.approx(0.2**2 - 0.05**2)


def test_finalists_of_different_founders_are_not_averaged():
    history = begun(3)
    for _ in range(4):
        for member in range(3):
            do(history, member)
    engine = Numbers(0.7, 1.4, 1.9)
    assert averaged(history, engine) is None
    assert not engine.tried


def test_a_worker_that_dies_of_an_average_costs_the_average_only():
    said: list[str] = []
    assert averaged(of_one_founder(3), Numbers(0.7, 1.4, 1.9, fails=True), said.append) is None
    assert said[-1] == "no average of 2 records: the worker died"


class DyingOfThree(Numbers):
    """A worker dies where it has to hold three states."""

    def submit(self, job: Any) -> None:
        self.fails = isinstance(job, EvaluateAverage) and len(job.parents) > 2
        super().submit(job)


def test_what_was_better_already_is_handed_over_though_a_worker_dies_of_the_next_average():
    said: list[str] = []
    found = averaged(of_one_founder(3), DyingOfThree(0.7, 1.4, 1.9), said.append)
    assert [turn.member for turn in found.parents] == [0, 1]
    assert "no average of 3 records: the worker died" in said


# --- whole populations ----------------------------------------------------------------------------


class Scattered(Regression):
    """Every turn ends beside the best weights, in a direction of chance: the mean is better."""

    space: ClassVar = {"lr": FloatDistribution(0.01, 0.02)}
    defaults: ClassVar = {
        "population": 4,
        "turns": 8,
        "interval": 1,
        "exploit": "truncation:fraction=0.5",
        "mode": "generational",
    }

    def train(self, hparams: Any, steps: int) -> dict[str, float]:
        with torch.no_grad():
            self.net.bias.zero_()
            self.net.weight.copy_(1 + 0.3 * torch.randn(1, 3))
        return {}

    def report(self) -> dict[str, float]:
        return {"distance": (self.net.weight - 1).norm().item()}


def test_the_average_is_in_the_result_in_mlflow_and_in_the_registered_model(database):
    result = pbt_flow.run(Scattered, engine="inline", quiet=True, register="mean", seed=1)
    average, winner = result.average, result.winner
    assert len(average.parents) > 1
    assert average.parents[0] == (winner.member, winner.turn)
    assert average.report["distance"] < winner.report["distance"]
    assert result.best is average
    # Its weights are the mean of its parents', in the result, after loading, and in the model.
    stored = StoredPopulation.open(result.run_id)
    loaded = pbt_flow.load(result.run_id)
    assert loaded.average == average
    parents = [result.history.turn(*parent).checkpoint for parent in average.parents]
    weights = [stored.revive(parent).net.weight for parent in parents]
    expected = torch.stack(weights).mean(0)
    assert torch.equal(average.task().net.weight, expected)
    assert torch.equal(loaded.best.task().net.weight, expected)
    assert loaded.average.task().report() == average.report
    import mlflow

    model = mlflow.pytorch.load_model("models:/mean@champion")
    assert torch.equal(model.weight, expected)
    run = MlflowClient().get_run(result.run_id)
    assert run.data.metrics["average/distance"] == average.report["distance"]
    assert run.data.tags["pbt.average"] == average.parents_told
    assert result.headline.startswith(f"The average of {len(parents)} finalists reaches distance")
    assert "handed over: the average of" in summary(result)
    page = pbt_flow.report(result.run_id, out="made")[0]
    assert average.parents_told in Path(page).read_text()


@pytest.mark.slow
def test_the_control_of_averages_is_told_beside_what_is_handed_over(database):
    result = pbt_flow.run(Scattered, engine="inline", quiet=True, finalists="own", seed=1)
    own, winner = result.own_average, result.winner
    assert own.parents[0] == (winner.member, winner.turn)
    assert len(own.parents) == 3
    stored = StoredPopulation.open(result.run_id)
    states = [stored.revive(result.history.turn(*parent).checkpoint) for parent in own.parents]
    expected = torch.stack([one.net.weight for one in states]).mean(0)
    assert own.report["distance"] == pytest.approx((expected - 1).norm().item())
    # It is a control: what is handed over, and who wins, is what it was without it.
    without = pbt_flow.run(Scattered, engine="inline", quiet=True, seed=1)
    assert (result.best.parents, result.best.score) == (without.best.parents, without.best.score)
    assert without.own_average is None
    assert pbt_flow.load(result.run_id).own_average == own
    metrics = MlflowClient().get_run(result.run_id).data.metrics
    assert metrics["own_average/distance"] == own.report["distance"]
    told = summary(result)
    assert "as a control, the average of the winner's own last 3 checkpoints" in told
    assert f"report distance={own.report['distance']:.4g}" in told
    page = Path(pbt_flow.report(result.run_id, out="made")[0]).read_text()
    rows = page.split("What averaging brings")[1].split("</section>")[0]
    names = ["the winner, no average", "average of its own last 3 checkpoints"]
    names.append(finalists_told(result.average))
    found = [rows.index(name) for name in names]
    assert found == sorted(found)


@pytest.mark.slow
def test_a_random_search_has_that_control_too(database):
    result = pbt_flow.run(
        Scattered, engine="inline", quiet=True, finalists="own", exploit="none", seed=1
    )
    assert {member for member, _ in result.own_average.parents} == {result.winner.member}
    assert [turn for _, turn in result.own_average.parents] == [
        result.winner.turn - back for back in range(3)
    ]


def test_with_the_setting_fresh_nothing_is_averaged(database):
    result = pbt_flow.run(Scattered, engine="inline", quiet=True, finalists="fresh", seed=1)
    assert result.average is None
    assert result.winner.fresh is not None
    assert pbt_flow.load(result.run_id).average is None


@pytest.mark.slow
def test_an_average_of_before_a_resume_is_no_longer_named(database):
    result = pbt_flow.run(Scattered, engine="inline", quiet=True, seed=1)
    assert result.average is not None
    longer = pbt_flow.resume(result.run_id, turns=9, finalists="fresh", quiet=True)
    assert longer.average is None
    assert MlflowClient().get_run(result.run_id).data.tags["pbt.average"] == "none"
    assert pbt_flow.load(result.run_id).best == longer.winner


class OneCount(Task):
    """Its model has a tensor of floats and one of integers."""

    space: ClassVar = {"lr": FloatDistribution(0, 1)}

    def __init__(self, *, seed: int, device: str = "cpu", live: bool = True) -> None:
        super().__init__(seed=seed, device=device)
        self.net, self.live = torch.nn.BatchNorm1d(2), live
        self.moment = torch.zeros(1)

    def train(self, hparams: Any, steps: int) -> dict[str, float]:
        return {}

    def evaluate(self) -> float:
        return 0.0

    def state_dict(self) -> dict[str, Any]:
        return {
            "net": {k: v.clone() for k, v in self.net.state_dict().items()},
            "moment": self.moment.clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state["net"])
        self.moment = state["moment"].clone()

    def model(self) -> torch.nn.Module:
        if self.live:
            return self.net
        copy = torch.nn.BatchNorm1d(2)
        copy.load_state_dict(self.net.state_dict())
        return copy


def state_of(weight: float, count: int, moment: float) -> dict[str, Any]:
    task = OneCount(seed=0)
    with torch.no_grad():
        task.net.weight.fill_(weight)
    task.net.num_batches_tracked.fill_(count)
    task.moment.fill_(moment)
    return task.state_dict()


def test_floats_of_the_model_are_averaged_and_all_else_is_the_first_ones():
    states = [state_of(1, 3, 5), state_of(2, 4, 6)]
    made = OneCount(seed=0).average(states)
    assert made["net"]["weight"].tolist() == [1.5, 1.5]
    assert made["net"]["num_batches_tracked"].item() == 3
    assert made["moment"].item() == 5
    assert states[0]["net"]["weight"].tolist() == [1, 1]


def test_weights_that_are_no_numbers_have_an_average_that_is_judged_like_any_other():
    """Without one, as where the task has no model, no other finalist would be tried any more."""
    made = OneCount(seed=0).average([state_of(1, 3, 5), state_of(math.nan, 4, 6)])
    assert made["net"]["weight"].isnan().all()
    assert made["net"]["num_batches_tracked"].item() == 3


def test_a_model_that_is_a_copy_has_no_average():
    states = [state_of(1, 3, 5), state_of(2, 4, 6)]
    assert OneCount(seed=0, live=False).average(states) is None


def test_a_task_without_a_model_has_no_average(database):
    result = pbt_flow.run(
        "pbt_flow.tasks.quadratic:NoisyQuadratic",
        engine="inline",
        quiet=True,
        population=4,
        turns=4,
        interval=5,
    )
    assert result.average is None
