"""A real problem that a core trains in seconds: a small language model of Python's own help texts.

The model predicts the next character from the six before it. Its texts are those that `help()`
shows (`pydoc_data.topics`), so that there is nothing to download; but they change with Python's
version, and the figures with them: see `CORPUS`.

    python -m benchmarks.search --problems CharLM --seeds 8

Source of the model: Bengio et al. 2003, "A neural probabilistic language model", JMLR 3, section 2,
without the direct connections.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from optuna.distributions import FloatDistribution

from pbt_flow.space import Hparams, Space
from pbt_flow.task import Task
from pbt_flow.tasks.decay import Decay, Kind

ALPHABET = "abcdefghijklmnopqrstuvwxyz .,()\n'_=:-0"
"""The characters that are kept, after all are made small."""
LENGTH = 300_000
CORPUS = "40276018870c8150bfdbb942d327f723d4c771fda8ebe33773f8b80a0518968b"
"""The SHA-256 of the text with which the figures were measured: that of Python 3.11.7."""
CONTEXT, EMBEDDING, HIDDEN, BATCH = 6, 10, 64, 32
SELECTION, REPORT = 2_000, 10_000
"""How many positions of the held-out fifth are scored by, and how many others are reported."""

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Text:
    """The text as indices into the alphabet, and the positions that are predicted."""

    characters: Indices
    trained: int
    """Training predicts from the positions below this one."""
    selection: Indices
    report: Indices
    digest: str
    """The SHA-256 of the text."""

    def at(self, positions: Indices) -> tuple[Indices, Indices]:
        """The contexts that begin at some positions, (N, 6), and the characters that follow."""
        context = self.characters[positions[:, None] + np.arange(CONTEXT)]
        return context, self.characters[positions + CONTEXT]


@functools.cache
def read_text() -> Text:
    """The help texts of this Python."""
    topics = importlib.import_module("pydoc_data.topics").topics
    whole = "".join(topics[name] for name in sorted(topics)).lower()
    place = {character: index for index, character in enumerate(ALPHABET)}
    text = "".join(character for character in whole if character in place)[:LENGTH]
    last = len(text) - CONTEXT - 1
    trained = int(0.8 * last)
    # No held-out context reaches into what training has seen.
    held_out = np.random.default_rng(7).permutation(np.arange(trained + 10, last))
    return Text(
        characters=np.array([place[character] for character in text]),
        trained=trained,
        selection=held_out[:SELECTION],
        report=held_out[SELECTION : SELECTION + REPORT],
        digest=hashlib.sha256(text.encode()).hexdigest(),
    )


class CharLM(Task):
    """An embedding, a hidden layer of 64 rectified units, and a softmax, by SGD with momentum.

    The score is the mean loss in nats a character on 2,000 held-out positions, and the report that
    on 10,000 others, which no decision sees.
    """

    space: ClassVar[Space] = {
        "lr": FloatDistribution(1e-3, 3.0, log=True),
        "one_minus_momentum": FloatDistribution(0.01, 1.0, log=True),
        "dropout": FloatDistribution(0.0, 0.5),
    }
    direction = "minimize"
    report_direction = "minimize"
    defaults: ClassVar[Mapping[str, Any]] = {"population": 8, "turns": 20, "interval": 50}

    def __init__(self, *, seed: int, device: str = "cpu", decay: Kind = "none") -> None:
        """Draw the weights.

        Args:
            seed: Seeds them.
            device: Not used: training is done by NumPy.
            decay: With `cosine`, the learning rate is the first one, and falls to 0.
        """
        super().__init__(seed=seed, device=device)
        self.text = read_text()
        self.decay = Decay(decay)
        self.follows_budget = self.decay.is_on

        def drawn(rows: int, columns: int, deviation: float) -> Floats:
            return (self.rng.normal(size=(rows, columns)) * deviation).astype(np.float32)

        inputs = CONTEXT * EMBEDDING
        self.weights: dict[str, Floats] = {
            "embedding": drawn(len(ALPHABET), EMBEDDING, 0.3),
            "hidden": drawn(inputs, HIDDEN, 1 / math.sqrt(inputs)),
            "hidden_bias": np.zeros(HIDDEN, np.float32),
            "output": drawn(HIDDEN, len(ALPHABET), 1 / math.sqrt(HIDDEN)),
            "output_bias": np.zeros(len(ALPHABET), np.float32),
        }
        self.momenta = {name: np.zeros_like(values) for name, values in self.weights.items()}

    def train(self, hparams: Hparams, steps: int) -> Mapping[str, float]:
        """Take `steps` steps of a batch of 32 positions each."""
        first, dropout = float(hparams["lr"]), float(hparams["dropout"])  # type: ignore[arg-type]
        momentum = np.float32(1 - float(hparams["one_minus_momentum"]))  # type: ignore[arg-type]
        # A rate that is too great drives the weights to infinity; the score then says so.
        with np.errstate(all="ignore"):
            for _ in range(steps):
                rate = np.float32(first * self.decay.factor(self.budget))
                positions = self.rng.integers(0, self.text.trained, size=BATCH)
                kept = self.rng.random((BATCH, HIDDEN), dtype=np.float32) >= dropout
                for name, gradient in self.gradients(positions, kept / (1 - dropout)).items():
                    self.momenta[name] *= momentum
                    self.momenta[name] += gradient
                    self.weights[name] -= rate * self.momenta[name]
                self.decay.age += 1
        return {"rate/lr": float(rate)} if self.decay.is_on else {}

    def gradients(self, positions: Indices, scale: Floats) -> dict[str, Floats]:
        """The gradients of the mean loss at some positions.

        Args:
            positions: Where the contexts begin.
            scale: What each hidden unit is multiplied by at each position: 0 where it is dropped.
        """
        weights = self.weights
        contexts, targets = self.text.at(positions)
        inputs = weights["embedding"][contexts].reshape(len(positions), -1)
        before = inputs @ weights["hidden"] + weights["hidden_bias"]
        mask = ((before > 0) * scale).astype(np.float32)
        hidden = before * mask
        logits = hidden @ weights["output"] + weights["output_bias"]
        errors = np.exp(logits - logits.max(1, keepdims=True))
        errors /= errors.sum(1, keepdims=True)
        errors[np.arange(len(positions)), targets] -= 1
        errors /= np.float32(len(positions))
        of_before = (errors @ weights["output"].T) * mask
        of_inputs = (of_before @ weights["hidden"].T).reshape(-1, EMBEDDING)
        return {
            "embedding": _ONE_HOT[contexts.ravel()].T @ of_inputs,
            "hidden": inputs.T @ of_before,
            "hidden_bias": of_before.sum(0),
            "output": hidden.T @ errors,
            "output_bias": errors.sum(0),
        }

    def loss(self, positions: Indices) -> float:
        """The mean loss at some positions in nats, without dropout."""
        weights = self.weights
        contexts, targets = self.text.at(positions)
        with np.errstate(all="ignore"):
            inputs = weights["embedding"][contexts].reshape(len(positions), -1)
            before = inputs @ weights["hidden"] + weights["hidden_bias"]
            logits = np.maximum(before, 0) @ weights["output"] + weights["output_bias"]
            logits -= logits.max(1, keepdims=True)
            losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(positions)), targets]
        return float(losses.mean())

    def evaluate(self) -> float:
        """The loss by which members are selected."""
        return self.loss(self.text.selection)

    def state_dict(self) -> dict[str, Any]:
        parts = {"weights": self.weights, "momenta": self.momenta}
        state = {
            part: {name: torch.from_numpy(values.copy()) for name, values in of.items()}
            for part, of in parts.items()
        }
        return {**state, **self.decay.state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for part, of in (("weights", self.weights), ("momenta", self.momenta)):
            of.update({name: state[part][name].numpy().copy() for name in of})
        self.decay.restore(state)

    def average(self, states: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The first state with the mean of all states' weights, and its own momenta."""
        first = states[0]
        means = {
            name: torch.stack([state["weights"][name] for state in states]).mean(0)
            for name in first["weights"]
        }
        return {**first, "weights": means}

    def report(self) -> Mapping[str, float]:
        """The loss on positions that selection never saw."""
        return {"loss": self.loss(self.text.report)}


class DecayedCharLM(CharLM):
    """The same under a cosine decay."""

    def __init__(self, *, seed: int, device: str = "cpu") -> None:
        super().__init__(seed=seed, device=device, decay="cosine")


_ONE_HOT = np.eye(len(ALPHABET), dtype=np.float32)
