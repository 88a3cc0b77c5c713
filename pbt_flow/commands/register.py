"""The winner's model as a version of a registered model."""

from __future__ import annotations

import os

from pbt_flow.commands.publish import keep_model
from pbt_flow.commands.stored_population import StoredPopulation
from pbt_flow.settings import check_model_name


def register(run_id: str, name: str) -> str:
    """Make the winner of a population a version of a registered model, and its champion.

    Args:
        run_id: The population's run.
        name: The registered model; it is made if there is none.

    Returns:
        The address of the model, as `mlflow.pytorch.load_model` takes it.

    Raises:
        StoreError: The run is no population, or the registry refuses.
        PopulationError: The population has no winner, or its task keeps no model.
    """
    check_model_name(name)
    os.environ.pop("MLFLOW_RUN_ID", None)
    stored = StoredPopulation.open(run_id)
    return keep_model(stored.store.artifacts, stored.result(), name)
