"""A worker without a process, and plans of single turns for it."""

from pbt_flow.engines.jobs import WorkerContext
from pbt_flow.engines.worker import Worker
from pbt_flow.population.checkpoints import LocalFolders, load_state
from pbt_flow.population.records import Plan
from pbt_flow.task import TaskSpec
from pbt_flow.testing.task_contract import middle

HPARAMS = {"lr": 0.01, "batch": 4, "loss": "l2"}


def worker(tmp_path, task="Regression", warm=2, **options):
    spec = TaskSpec(name=f"sample_tasks:{task}", options=options)
    made = Worker(WorkerContext(task=spec, seed=3, warm=warm))
    made.folders = LocalFolders({0: str(tmp_path / "m0"), 1: str(tmp_path / "m1")})
    return made


def plan(member=0, turn=1, start=None, **changes):
    values = {"member": member, "turn": turn, "seed": 11 + turn, "hparams": HPARAMS, "steps": 4}
    return Plan(**values, trained=4 * turn, start=start, start_step=4 * (turn - 1), **changes)


def trained(task, number=1, steps=1, **hparams):
    """Train a task without a worker, under the middle of its space for what is not given.

    The turn has its seed from its number. Returns what the task's `train` does.
    """
    task.reseed(number)
    return task.train({**middle(task.space), **hparams}, steps)


def state(tmp_path, turn):
    return load_state(turn.checkpoint, tmp_path / f"m{turn.checkpoint.member}")
