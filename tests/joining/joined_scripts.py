"""Small scripts that join, as tasks whose turns a test runs itself."""

import textwrap

from pbt_flow.task import TaskSpec, find_task

SCRIPT = """
import argparse, collections, copy, random, sys
import numpy as np
import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution
import pbt_flow

RATE = FloatDistribution(1e-3, 1.0, log=True)
net = torch.nn.Sequential(torch.nn.Linear(3, 1), torch.nn.Dropout(0.5))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)

def update():
    loss = (net(torch.randn(8, 3)) - 1).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

def score():
    return net[0].bias.item()
"""
LOOP = """
for number in pbt.steps(range(1, 9)):
    update()
"""


def make_script(folder, text, *, name="joined.py", loop=False):
    """A task of a script that begins as `SCRIPT` does."""
    path = folder / name
    path.write_text(SCRIPT + textwrap.dedent(text) + (LOOP if loop else ""))
    return find_task(str(path))


def build(kind, seed=0, **options):
    return TaskSpec(name=str(kind.path), options=options).build(seed)


def turn(task, hparams, steps=2, seed=1):
    task.reseed(seed)
    return task.train(hparams, steps)


def group(task, name="optimizer"):
    return task._member.objects[name].param_groups[0]
