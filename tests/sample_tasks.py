"""Small real tasks that the tests train in worker processes, good ones and broken ones."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from pbt_flow import Task


class Idle(Task):
    """Trains nothing: for what is read of a task before it does."""

    space: ClassVar = {"lr": FloatDistribution(0, 1)}

    def train(self, hparams: Mapping[str, Any], steps: int) -> Mapping[str, float]:
        return {}

    def evaluate(self) -> float:
        return 0.0

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class Regression(Task):
    """A linear model with momentum on noisy data, in batches from `self.rng`."""

    space: ClassVar = {
        "lr": FloatDistribution(1e-4, 0.5, log=True),
        "batch": IntDistribution(2, 16),
        "loss": CategoricalDistribution(["l1", "l2"]),
    }
    direction = "minimize"
    report_direction = "minimize"
    defaults: ClassVar = {"population": 4, "turns": 4, "interval": 5}

    def __init__(self, *, seed: int, device: str = "cpu", noise: float = 0.1) -> None:
        super().__init__(seed=seed, device=device)
        torch.manual_seed(seed)
        self.noise = noise
        self.net = torch.nn.Linear(3, 1).to(device)
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=1.0, momentum=0.9)

    def batch(self, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.as_tensor(self.rng.normal(size=(size, 3)), dtype=torch.float32)
        y = x.sum(1, keepdim=True) + self.noise * torch.randn(size, 1)
        return x.to(self.device), y.to(self.device)

    def train(self, hparams: Mapping[str, Any], steps: int) -> Mapping[str, float]:
        for group in self.optimizer.param_groups:
            group["lr"] = hparams["lr"]
        measure = {"l1": torch.nn.functional.l1_loss, "l2": torch.nn.functional.mse_loss}
        for _ in range(steps):
            x, y = self.batch(hparams["batch"])
            loss = measure[hparams["loss"]](self.net(x), y)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        return {"loss": loss.item(), "live/lr": self.optimizer.param_groups[0]["lr"]}

    def evaluate(self) -> list[float]:
        with torch.no_grad():
            x, y = self.batch(256)
            return [(self.net(x) - y).square().mean().item() for _ in range(3)]

    def state_dict(self) -> dict[str, Any]:
        return {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])

    def metrics(self) -> Mapping[str, float]:
        return {"bias": self.net.bias.item()}

    def report(self) -> Mapping[str, float]:
        return {"error": (self.net.weight - 1).abs().max().item()}

    def samples(self, folder: Path) -> None:
        (folder / "weights.txt").write_text(str(self.net.weight.tolist()))

    def model(self) -> torch.nn.Module:
        return self.net


class DrawsItsReport(Regression):
    """Reports on data that it draws."""

    def report(self) -> Mapping[str, float]:
        return {"numpy": self.rng.random(), "torch": torch.rand(()).item()}


class KeepsTheDonorsRate(Regression):
    """The classic bug: the restored optimiser decides."""

    def train(self, hparams: Mapping[str, Any], steps: int) -> Mapping[str, float]:
        live = self.optimizer.param_groups[0]["lr"]
        restored = live if live != 1.0 else hparams["lr"]
        return super().train({**hparams, "lr": restored}, steps)


class ForgetsMomentum(Regression):
    """Its state lacks the optimiser: a restored turn differs from a warm one."""

    def state_dict(self) -> dict[str, Any]:
        return {"net": self.net.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state["net"])


class SavesAnObject(Regression):
    """Its state cannot be read back without running code."""

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "path": Path("somewhere")}


class DrawsFromItsOwnGenerator(Regression):
    """Holds a source of randomness that `reseed` does not know."""

    def __init__(self, *, seed: int, device: str = "cpu") -> None:
        super().__init__(seed=seed, device=device)
        self.own = torch.Generator().manual_seed(seed)

    def train(self, hparams: Mapping[str, Any], steps: int) -> Mapping[str, float]:
        metrics = super().train(hparams, steps)
        self.net.bias.data += torch.randn(1, generator=self.own)
        return metrics


class ExampleOfAnotherSize(Regression):
    """What it shows as an input of its model is none."""

    def example(self) -> np.ndarray[Any, Any]:
        return np.zeros((1, 7), dtype=np.float32)


class WithDropout(Regression):
    """Behaves otherwise in evaluation, and does what that takes."""

    def __init__(self, *, seed: int, device: str = "cpu") -> None:
        super().__init__(seed=seed, device=device)
        layers = [torch.nn.Linear(3, 16), torch.nn.Dropout(0.5), torch.nn.Linear(16, 1)]
        self.net = torch.nn.Sequential(*layers).to(device)
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=1.0, momentum=0.9)

    def train(self, hparams: Mapping[str, Any], steps: int) -> Mapping[str, float]:
        self.net.train()
        return super().train(hparams, steps)

    def evaluate(self) -> list[float]:
        self.net.eval()
        return super().evaluate()

    def metrics(self) -> Mapping[str, float]:
        return {}

    def report(self) -> Mapping[str, float]:
        return {"loss": self.evaluate()[0]}

    def samples(self, folder: Path) -> None:
        (folder / "loss.txt").write_text(str(self.report()))


class StaysInEvaluation(WithDropout):
    """From its second turn on it trains without dropout, unless it was restored in between."""

    def train(self, hparams: Mapping[str, Any], steps: int) -> Mapping[str, float]:
        return Regression.train(self, hparams, steps)


class TrainsInTheModeThatItFinds(WithDropout):
    """Its own evaluation restores the mode; somebody who looks at its model does not."""

    def train(self, hparams: Mapping[str, Any], steps: int) -> Mapping[str, float]:
        return Regression.train(self, hparams, steps)

    def evaluate(self) -> list[float]:
        found = super().evaluate()
        self.net.train()
        return found


class ReportsByTraining(Regression):
    """Its report trains on, and leaves what it has learnt."""

    def report(self) -> Mapping[str, float]:
        return self.train({"lr": 0.1, "batch": 4, "loss": "l2"}, 1)


class CountsItsSamples(Regression):
    """What it trains on next depends on what it has shown."""

    shown = 0

    def samples(self, folder: Path) -> None:
        self.shown += 1

    def batch(self, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = super().batch(size)
        return x, y + self.shown


class MovesWhatItShows(Regression):
    """Making its example changes a weight."""

    def example(self) -> np.ndarray[Any, Any]:
        self.net.bias.data.zero_()
        return np.zeros((1, 3), dtype=np.float32)


class KeepsItsSchedule(Regression):
    """Begins each turn with the rate that was set, and lets a schedule of its own lower it."""

    def __init__(self, *, seed: int, device: str = "cpu") -> None:
        super().__init__(seed=seed, device=device)
        self.schedule = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, gamma=0.9)

    def train(self, hparams: Mapping[str, Any], steps: int) -> Mapping[str, float]:
        for group in self.optimizer.param_groups:
            group["lr"] = hparams["lr"]
        for _ in range(steps):
            lowered = {**hparams, "lr": self.optimizer.param_groups[0]["lr"]}
            super().train(lowered, 1)
            self.schedule.step()
        return {}


class ScalesWhatIsAsked(KeepsItsSchedule):
    """Lets its schedule work from the rate that was set, with its position in the state."""

    def train(self, hparams: Mapping[str, Any], steps: int) -> Mapping[str, float]:
        for group in self.optimizer.param_groups:
            group["initial_lr"] = hparams["lr"]
        for _ in range(steps):
            group["lr"] = hparams["lr"] * 0.9**self.schedule.last_epoch
            super(KeepsItsSchedule, self).train({**hparams, "lr": group["lr"]}, 1)
            self.schedule.last_epoch += 1
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "schedule": self.schedule.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.schedule.load_state_dict(state["schedule"])


class MakesItsOptimizerAnew(Regression):
    """Each turn begins with a fresh optimiser, as some trainers make one for each fit."""

    def train(self, hparams: Mapping[str, Any], steps: int) -> Mapping[str, float]:
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=1.0, momentum=0.9)
        return super().train(hparams, steps)


class QuotesItsParameters(Regression):
    """Keeps its model as a text that quotes a parameter; no training ever looks at that one."""

    space: ClassVar = {**Regression.space, "leaves": IntDistribution(2, 64)}
    leaves = 0

    def train(self, hparams: Mapping[str, Any], steps: int) -> Mapping[str, float]:
        self.leaves = hparams["leaves"]
        return super().train(hparams, steps)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "text": f"num_leaves={self.leaves}"}


class TakesSignedSeeds(Regression):
    """Hands its seed to a library that takes signed numbers of 32 bits."""

    def reseed(self, seed: int) -> None:
        super().reseed(seed)
        seed.to_bytes(4, "little", signed=True)


class ReadsTheCommandLine(Regression):
    """Has its options from the words of the process."""

    def __init__(self, *, seed: int, device: str = "cpu") -> None:
        super().__init__(seed=seed, device=device)
        parser = argparse.ArgumentParser()
        parser.add_argument("--noise", type=float, default=0.1)
        self.noise = parser.parse_args().noise


class LeavesWhenBuilt(Regression):
    """Ends the process in its constructor."""

    def __init__(self, *, seed: int, device: str = "cpu") -> None:
        super().__init__(seed=seed, device=device)
        sys.exit(2)


class SaysTooMuch(Regression):
    """Complains about a state by printing all of it."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        raise KeyError("\n".join(f"unexpected key {n}" for n in range(3000)))


class Misbehaving(Regression):
    """Does what it is told, by files in a folder: `raise-2`, `die-2`, `hang-2`, `nan-2`, `slow`.

    The number counts this model's turns in the lineage of its weights; a file is used up. While
    there is `held-2`, every second turn waits.
    """

    def __init__(self, *, seed: int, device: str = "cpu", orders: str = "") -> None:
        super().__init__(seed=seed, device=device)
        self.orders = Path(orders)
        self.count = 0

    def ordered(self, what: str) -> bool:
        try:
            (self.orders / f"{what}-{self.count}").unlink()
        except OSError:
            return False
        return True

    def train(self, hparams: Mapping[str, Any], steps: int) -> Mapping[str, float]:
        self.count += 1
        if self.ordered("raise"):
            raise ZeroDivisionError("as ordered")
        if self.ordered("die"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.ordered("hang"):
            time.sleep(600)
        while (self.orders / f"held-{self.count}").exists():
            time.sleep(0.02)
        if (self.orders / "slow").exists():
            time.sleep(0.2)
        return super().train(hparams, steps)

    def evaluate(self) -> list[float]:
        for odd in ("nan", "inf"):
            if self.ordered(odd):
                return [float(odd)]
        return super().evaluate()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.count = state["count"]


class OneBlocked(Regression):
    """The first turn at a rate of 1e-4 lasts until `turns` others are done: a slow start."""

    def __init__(self, *, seed: int, device: str = "cpu", orders: str = "", turns: int = 0) -> None:
        super().__init__(seed=seed, device=device)
        self.orders, self.turns, self.blocked = Path(orders), turns, True

    def train(self, hparams: Mapping[str, Any], steps: int) -> Mapping[str, float]:
        deadline = time.monotonic() + 300
        while hparams["lr"] == 1e-4 and self.blocked and time.monotonic() < deadline:
            self.blocked = len(list(self.orders.iterdir())) < self.turns
            time.sleep(0.01)
        (self.orders / f"{os.getpid()}-{time.monotonic_ns()}").touch()
        return super().train(hparams, steps)


class CannotBeBuilt(Regression):
    """Raises on construction."""

    def __init__(self, *, seed: int, device: str = "cpu") -> None:
        raise OSError("the data set is not there")
