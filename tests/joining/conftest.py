"""What tests of joined scripts begin with."""

import functools

import pytest
from joined_scripts import make_script


@pytest.fixture
def script(tmp_path):
    """Makes a task of a script that begins as `joined_scripts.SCRIPT` does."""
    return functools.partial(make_script, tmp_path)
