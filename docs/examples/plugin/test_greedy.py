"""The strategy keeps to what any exploit strategy must keep to."""

from greedy import Greedy

from pbt_flow.testing import ExploitContract


class TestGreedy(ExploitContract):
    strategy = Greedy()
