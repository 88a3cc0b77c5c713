"""The report of a population, made anew: on its run, or in a folder."""

from __future__ import annotations

import os
from pathlib import Path

from pbt_flow.commands.publish import write, writing_to
from pbt_flow.commands.stored_population import StoredPopulation
from pbt_flow.exceptions import PopulationError
from pbt_flow.reporting.comparable import check_ended, check_equal, check_pair
from pbt_flow.utils.scratch import temporary_folder


def report(
    run_id: str, *, control: str | None = None, out: str | None = None, unequal: bool = False
) -> list[str]:
    """Make the report of a population anew, whether it is running or has ended.

    Args:
        run_id: The population's run.
        control: The run of a population to compare it with.
        out: A folder to write into; None for the population's run in MLflow.
        unequal: Whether to accept a control that did not train equally long; the page says so.

    Returns:
        The files that were written, or where they are on the run.

    Raises:
        StoreError: A run is no population.
        RecordError: A turn record cannot be trusted.
        ComparisonError: The control is of another task or budget, or has not ended.
    """
    os.environ.pop("MLFLOW_RUN_ID", None)
    stored = StoredPopulation.open(run_id)
    if stored.is_replay:
        raise PopulationError(
            f"run {run_id} is a replay, which has no report: what it came to stands on its page"
        )
    result = stored.result()
    beside = result.control
    if control is not None:
        known = StoredPopulation.open(control).entry()
        check_ended(known)
        # A population that has not ended is seen beside its control on the way; the page says so.
        on_the_way = result.status in ("running", "interrupted")
        check_equal(stored.entry_of(result), known, unequal=unequal or on_the_way)
        check_pair(known, stored.settings)
        beside = known.result
    data = stored.report_data(result, beside)
    if out is not None:
        with writing_to(out):
            return [str(path) for path in write(data, Path(out))]
    with temporary_folder() as folder:
        names = [str(path.relative_to(folder)) for path in write(data, Path(folder))]
        stored.store.artifacts.keep(Path(folder))
    return names
