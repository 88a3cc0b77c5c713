"""A population is asked to end from elsewhere, or is deleted with all that belongs to it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from typing import Any

from pbt_flow.exceptions import PopulationError
from pbt_flow.utils.text import byte_count


def stop(run_id: str) -> str:
    """Ask a population or a replay that is training, here or elsewhere, to end in order.

    Its controller reads this with its next heartbeat, lets the turns under way finish, and ends as
    after Ctrl-C.

    Args:
        run_id: Its run, the beginning of its id, or `last`.

    Returns:
        What was done, in a sentence.

    Raises:
        StoreError: There is no such population.
        PopulationError: It is not running.
    """
    from pbt_flow.commands.stored_population import StoredPopulation
    from pbt_flow.tracking.client import short_requests
    from pbt_flow.tracking.lease import HEARTBEAT_SECONDS, ask_to_stop

    with short_requests():
        store = StoredPopulation.open(run_id).store
        if store.status != "running":
            raise PopulationError(
                f"population {store.run_id} is not running: it is {store.status}, and there is "
                "nothing to stop"
            )
        with store.talk():
            ask_to_stop(store.client, store.run_id)
    return (
        f"population {store.run_id} is asked to end: it hears of it within "
        f"{HEARTBEAT_SECONDS:.0f} s, and lets the turns under way finish"
    )


def delete(run_id: str, *more: str, confirm: Callable[[str], bool] = lambda question: True) -> str:
    """Delete populations or replays: their runs, with all their artifacts, and their saved views.

    All of them are looked at before the first is deleted. What is left of one that never began,
    since a kill came while it was made, goes as well. MLflow keeps the rows of a deleted run until
    `mlflow gc`. Versions of registered models stay, with the models that they are; the question and
    the answer name them.

    Args:
        run_id: Its run, the beginning of its id, or `last`.
        more: Those of others.
        confirm: Is asked, before anything is deleted, whether what the question says is wanted.

    Returns:
        What was done, in a sentence for each.

    Raises:
        StoreError: There is no such population, or the store refuses.
        PopulationError: One is running, or it was not confirmed.
    """
    from pbt_flow.tracking.catalogue import find_run_to_delete
    from pbt_flow.tracking.client import connect_to_present, moving, short_requests
    from pbt_flow.tracking.deletion import delete_runs

    with short_requests():
        client, uri = connect_to_present(f"no run {run_id}")
        runs = [find_run_to_delete(client, uri, word) for word in (run_id, *more)]
        # Two words may mean one population.
        found = {run.info.run_id: run for run in runs}
        told = {one: _described(client, uri, run) for one, run in found.items()}
        if not confirm(f"delete {', and '.join(told.values())}?"):
            raise PopulationError(f"{_populations(told)} not deleted")
        for number, one in enumerate(told):
            gone = list(told)[:number]
            before = f" ({_populations(gone)} deleted before)" if gone else ""
            with moving(uri, f"does not delete population {one}; try it again{before}"):
                delete_runs(client, uri, one)
    rows = "; `mlflow gc` takes its rows out of MLflow's database"
    return "\n".join(f"deleted {what}{rows}" for what in told.values())


def _described(client: Any, uri: str, run: Any) -> str:
    """A population that is to be deleted, in words.

    Raises:
        StoreError: The store refuses.
        PopulationError: It is running.
    """
    from pbt_flow.tracking.catalogue import describe_runs
    from pbt_flow.tracking.client import talking
    from pbt_flow.tracking.deletion import registered_versions

    run_id, short = run.info.run_id, run.info.run_id[:12]
    with talking(uri, run_id):
        (about,) = describe_runs(client, [run])
        versions = registered_versions(client, run_id)
    if about.status == "running":
        raise PopulationError(
            f"population {run_id} is running; stop it first: python -m pbt_flow stop {short}"
        )
    if about.status == "being made":
        raise PopulationError(
            f"population {run_id} is just being made; stop it where it began, or try again"
        )
    size = "" if about.disk is None else f", {byte_count(about.disk)}"
    stays = ""
    if versions:
        names = ", ".join(sorted(versions.values()))
        stays = f"; {names} will point to a run that is deleted, and the model itself stays"
    return f"{about.name} ({short}): {about.members} members{size}{stays}"


def _populations(run_ids: Collection[str]) -> str:
    """The subject of a sentence about populations that were something."""
    if len(run_ids) == 1:
        return f"population {next(iter(run_ids))} was"
    return f"populations {', '.join(run_ids)} were"


def ask_in_terminal(question: str) -> bool:
    """Ask a person, and take nothing but a yes for one.

    Raises:
        PopulationError: Nobody is there to be asked.
    """
    if not sys.stdin.isatty():
        raise PopulationError(f"{question} Nobody can be asked here; with --yes it is done")
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
