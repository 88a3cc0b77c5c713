"""Imported last by a process that others are forked from: garbage is not looked for among the rest.

A worker in a forked process collects garbage whenever it drops a member, and would look at all that
the imports have made, hundreds of thousands of objects, each time.
"""

import gc

gc.collect()
gc.freeze()
