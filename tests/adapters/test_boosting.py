"""Boosted trees keep the contract of a task, and grow with what was asked."""

import re
from pathlib import Path

import pytest
from optuna.distributions import FloatDistribution
from single_turns import trained

pytest.importorskip("lightgbm", reason="LightGBM is not installed")

from pbt_flow import TaskError
from pbt_flow.task import find_task
from pbt_flow.testing import TaskContract

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "boosting.py"
Digits = find_task(f"{EXAMPLE}:Digits")


class TestBoostingContract(TaskContract):
    task, steps, begins_anew = Digits, 2, True  # Each turn draws its bags from its own seed.


def test_after_an_exploit_everything_that_was_asked_is_live():
    donor, copy = Digits(seed=0), Digits(seed=1)
    trained(donor)
    copy.load_state_dict(donor.state_dict())
    asked = {"learning_rate": 0.2, "num_leaves": 5, "bagging_fraction": 0.55, "lambda_l2": 3.5}
    told = trained(copy, 2, **asked)
    assert told == {f"live/{name}": value for name, value in asked.items()}
    # The trees themselves tell: 10 classes, so 10 trees a round.
    text = copy.state_dict()["model"]
    rates = [float(one) for one in re.findall(r"^shrinkage=(.*)$", text, re.MULTILINE)]
    leaves = [int(one) for one in re.findall(r"^num_leaves=(.*)$", text, re.MULTILINE)]
    assert len(rates) == len(leaves) == 20
    assert rates[10:] == [0.2] * 10
    assert max(leaves[10:]) == 5 < max(leaves[:10])


@pytest.mark.parametrize("name", ["eta", "dropout"])
def test_a_name_that_lightgbm_does_not_write_down_is_refused(name):
    space = {**Digits.space, name: FloatDistribution(0.1, 0.2)}
    with pytest.raises(TaskError, match=f"no parameter '{name}'"):
        trained(type("Task", (Digits,), {"space": space})(seed=0))
