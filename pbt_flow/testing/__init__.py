"""What a task, a strategy or an engine must keep to, as test classes to inherit.

    from pbt_flow.testing import ExploitContract, TaskContract

    class TestMyTask(TaskContract):
        task = MyTask

    class TestMyExploit(ExploitContract):
        strategy = MyExploit()

pytest then runs every sentence of the contract against the task, the strategy or the engine.
"""

from pbt_flow.testing.engine_contract import EngineContract
from pbt_flow.testing.strategy_contracts import (
    EVERY_KIND,
    ExploitContract,
    ExploreContract,
    SamplerContract,
)
from pbt_flow.testing.task_contract import (
    LOOKS,
    TaskContract,
    assert_same,
    look_at,
    middle,
    same,
    through_checkpoint,
)

__all__ = [
    "EVERY_KIND",
    "LOOKS",
    "EngineContract",
    "ExploitContract",
    "ExploreContract",
    "SamplerContract",
    "TaskContract",
    "assert_same",
    "look_at",
    "middle",
    "same",
    "through_checkpoint",
]
