"""What has become of a population, rebuilt from MLflow: as a result, or as an Optuna study."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pbt_flow.commands.stored_population import StoredPopulation
from pbt_flow.population.result import Result

if TYPE_CHECKING:
    from optuna import Study


def load(run_id: str) -> Result:
    """What has become of a population so far, rebuilt from MLflow; it may be running still.

    Raises:
        StoreError: The run is no population.
        RecordError: A turn record cannot be trusted.
    """
    return StoredPopulation.open(run_id).result()


def to_study(run_id: str) -> Study:
    """The turns of a population as an in-memory Optuna study.

    How they are told is in `pbt_flow.reporting.optuna_study`.

    Raises:
        StoreError: The run is no population.
        RecordError: A turn record cannot be trusted.
    """
    from pbt_flow.reporting.optuna_study import study_of

    stored = StoredPopulation.open(run_id)
    return study_of(stored.read_history(), stored.store.space, stored.run_id)
