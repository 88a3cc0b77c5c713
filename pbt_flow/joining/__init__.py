"""Scripts that join a population: one flat loop, named objects, hyperparameters proved live.

It knows nothing of tasks, engines or trackers: `pbt_flow.task.joined_script` makes a task of it.
"""

from pbt_flow.joining.join import Join, join
from pbt_flow.joining.member import Member, Terms
from pbt_flow.joining.randomness import preserved
from pbt_flow.joining.script import Script
from pbt_flow.joining.source import is_joining, is_training

__all__ = ["Join", "Member", "Script", "Terms", "is_training", "is_joining", "join", "preserved"]
