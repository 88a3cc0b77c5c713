"""Random numbers that are drawn beside a script's own change none of them, on any device."""

import random

import numpy as np
import torch

from pbt_flow.joining.randomness import OwnRandomness, preserved, seed_generators


class OneGPU:
    """The generator of a GPU, as torch hands it out; torch seeds it with all others."""

    def __init__(self, monkeypatch):
        self.generator = torch.Generator().manual_seed(5)
        cuda = torch.cuda
        monkeypatch.setattr(cuda, "is_initialized", lambda: True)
        monkeypatch.setattr(cuda, "get_rng_state_all", lambda: [self.generator.get_state()])
        monkeypatch.setattr(
            cuda, "set_rng_state_all", lambda states: self.generator.set_state(states[0])
        )
        seed_all = torch.manual_seed

        def seed(number):
            self.generator.manual_seed(number)
            return seed_all(number)

        monkeypatch.setattr(torch, "manual_seed", seed)

    def draws(self):
        numbers = [random.random(), np.random.random(), torch.rand(()).item()]  # noqa: NPY002
        return [*numbers, torch.rand((), generator=self.generator).item()]


def test_what_is_drawn_in_between_changes_no_generator(monkeypatch):
    gpu = OneGPU(monkeypatch)
    seed_generators(1)
    expected = [gpu.draws(), gpu.draws()]
    seed_generators(1)
    first = gpu.draws()
    with preserved():
        seed_generators(2)
        gpu.draws()
    own = OwnRandomness(3)
    with own:
        drawn = gpu.draws()
    assert [first, gpu.draws()] == expected
    # And it goes on by itself, whatever is drawn outside.
    with own:
        more = gpu.draws()
    seed_generators(3)
    assert [drawn, more] == [gpu.draws(), gpu.draws()]
