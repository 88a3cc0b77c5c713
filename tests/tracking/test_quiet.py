"""MLflow logs warnings alone while the store is used, unless the user has asked for more."""

import logging

import pytest

from pbt_flow.tracking.client import short_requests


@pytest.mark.parametrize(
    ("chosen", "level"),
    [
        (None, logging.WARNING),
        # The command line sets this for MLflow's import, which may have been before.
        ("WARNING", logging.WARNING),
        ("nonsense", logging.WARNING),
        ("info", logging.INFO),
        ("DEBUG", logging.INFO),
    ],
)
def test_mlflow_is_as_loud_as_the_user_wants(chosen, level, monkeypatch):
    logger = logging.getLogger("mlflow")
    monkeypatch.setattr(logger, "level", logging.INFO)
    monkeypatch.delenv("MLFLOW_LOGGING_LEVEL", raising=False)
    if chosen is not None:
        monkeypatch.setenv("MLFLOW_LOGGING_LEVEL", chosen)
    with short_requests():
        assert logger.level == level
    assert logger.level == logging.INFO
