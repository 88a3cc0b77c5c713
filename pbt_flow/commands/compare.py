"""Populations of one task and budget side by side, by method."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from pbt_flow.commands.publish import writing_to
from pbt_flow.commands.stored_population import CONTROL, StoredPopulation
from pbt_flow.reporting.comparison import Comparison
from pbt_flow.reporting.comparison_page import page
from pbt_flow.tracking.adoption import launched_run
from pbt_flow.tracking.client import connect
from pbt_flow.utils.scratch import temporary_folder


def compare(run_ids: Sequence[str], *, out: str | None = None, unequal: bool = False) -> Comparison:
    """Compare populations of one task and budget by method, paired by seed.

    Args:
        run_ids: The populations' runs, at least one of each method. Of a single one that was
            trained with a control, that is the other.
        out: A folder to write the page and the numbers into. Under `mlflow run` they are put on its
            run as well.
        unequal: Whether to accept populations that did not train equally long, and to say so.

    Raises:
        StoreError: A run is no population.
        ComparisonError: They differ in task or budget, or are all of one method.
    """
    launched_for = _launched_for_comparison()
    opened = [StoredPopulation.open(run_id) for run_id in dict.fromkeys(run_ids)]
    # One population may have been named in two ways.
    each = {stored.run_id: stored for stored in opened}
    if len(opened) == 1 and (control := opened[0].store.tags().get(CONTROL)) is not None:
        each[control] = StoredPopulation.open(control)
    made = Comparison.of([stored.entry() for stored in each.values()], unequal=unequal)
    with temporary_folder() as folder:
        place = Path(out or folder)
        with writing_to(str(place)):
            place.mkdir(parents=True, exist_ok=True)
            (place / "comparison.html").write_text(page(made), encoding="utf-8")
            (place / "comparison.json").write_text(json.dumps(made.to_json(), indent=1), "utf-8")
        if launched_for is not None:
            client, _ = connect()
            client.log_artifacts(launched_for, str(place), "comparison")
            client.set_tag(launched_for, "mlflow.note.content", made.table())
    return made


def _launched_for_comparison() -> str | None:
    """The run that `mlflow run` made for a comparison, where there is one.

    Raises:
        StoreError: The run that MLFLOW_RUN_ID names is something already: it would lose its
            description.
    """
    if not os.environ.get("MLFLOW_RUN_ID"):
        return None
    run = launched_run(*connect())
    os.environ.pop("MLFLOW_RUN_ID")
    return None if run is None else str(run.info.run_id)
