"""The toy of the PBT paper, whose answer is known.

    python -m pbt_flow run --task toy
    python -m pbt_flow.tasks.toy figure2.png        # draws the paper's four panels

Source: Jaderberg et al. 2017, section 2 and Figure 2 (arXiv 1711.09846).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from optuna.distributions import FloatDistribution

from pbt_flow.space import Hparams, Space
from pbt_flow.task import Task


class Toy(Task):
    """Maximise 1.2 - theta0^2 - theta1^2 with gradients of 1.2 - h0 theta0^2 - h1 theta1^2.

    The surrogate that is trained on agrees with the objective only at h = (1, 1); a member with
    h = (1, 0) never moves its second coordinate, and ends at 1.2 - 0.9^2 = 0.39.
    """

    space: ClassVar[Space] = {"h0": FloatDistribution(0, 1), "h1": FloatDistribution(0, 1)}
    report_direction = "maximize"
    # Members that see one coordinate each score the same until one of them has copied.
    defaults: ClassVar[Mapping[str, Any]] = {
        "turns": 20,
        "interval": 4,
        "exploit": "truncation:ties=true",
    }
    quick: ClassVar[Mapping[str, Any]] = {"population": 4, "turns": 5}

    def __init__(self, *, seed: int, device: str = "cpu", rate: float = 0.01) -> None:
        """Start at (0.9, 0.9), whatever the seed; `rate` is the step of gradient ascent."""
        super().__init__(seed=seed, device=device)
        self.rate = rate
        self.theta = (0.9, 0.9)

    def train(self, hparams: Hparams, steps: int) -> Mapping[str, float]:
        """Take `steps` steps of gradient ascent on the surrogate."""
        h = (float(hparams["h0"]), float(hparams["h1"]))  # type: ignore[arg-type]
        for _ in range(steps):
            self.theta = (
                self.theta[0] * (1 - 2 * self.rate * h[0]),
                self.theta[1] * (1 - 2 * self.rate * h[1]),
            )
        return {"theta0": self.theta[0], "theta1": self.theta[1]}

    def evaluate(self) -> float:
        """The true objective; at most 1.2."""
        return 1.2 - self.theta[0] ** 2 - self.theta[1] ** 2

    def state_dict(self) -> dict[str, Any]:
        return {"theta": self.theta}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.theta = tuple(state["theta"])

    def report(self) -> Mapping[str, float]:
        """The objective again: it is known exactly, and has no data to hold out."""
        return {"q": self.evaluate()}


def figure(path: str) -> None:
    """Draw the paper's Figure 2 into `path`: two members, with and without exploit and explore.

    As in the paper's panel, exploit copies the weights only: had it copied h as well, both members
    would go on with the same h, and exploit alone would stay at 0.39.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    from pbt_flow.testing.simulation import simulate

    start = [{"h0": 1.0, "h1": 0.0}, {"h0": 0.0, "h1": 1.0}]
    # Explore alone moves h where nobody copies: a member that copies its own kind of hparams only.
    panels: dict[str, dict[str, Any]] = {
        "grid search": {"exploit": "none"},
        "exploit only": {"exploit": "truncation:copies=weights,ties=true", "explore": "none"},
        "explore only": {"exploit": "truncation:copies=hparams,ties=true"},
        "PBT": {"exploit": "truncation:copies=weights,ties=true"},
    }
    rows, axes = pyplot.subplots(2, 4, figsize=(13, 6), layout="constrained")
    for column, (title, settings) in enumerate(panels.items()):
        settings = {"explore": "gaussian:sigma=0.1", **settings}
        history = simulate(
            Toy, population=2, initial=start, turns=50, mode="generational", seed=1, **settings
        ).history
        above, below = axes[0, column], axes[1, column]
        for member, turns in history.turns.items():
            theta = [(turn.metrics["theta0"], turn.metrics["theta1"]) for turn in turns]
            sizes = np.linspace(40, 4, len(turns))
            above.scatter(*zip(*theta, strict=True), s=sizes, label=f"member {member}")
            below.plot([turn.plan.trained for turn in turns], [turn.score for turn in turns])
        best = history.winner()
        assert best is not None
        above.set(title=title, xlabel="theta 0", ylabel="theta 1", xlim=(-0.05, 1), ylim=(-0.05, 1))
        below.set(xlabel="step", ylabel="Q", ylim=(-0.5, 1.25), title=f"best Q {best.score:.3f}")
        below.axhline(1.2, color="grey", linestyle=":")
    axes[0, 0].legend()
    rows.savefig(path)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m pbt_flow.tasks.toy FIGURE.png")
    figure(sys.argv[1])
