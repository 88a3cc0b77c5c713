"""What is printed when a population has ended: what became of it, and how to go on."""

from __future__ import annotations

from pbt_flow.population.finalist import Finalist
from pbt_flow.population.result import NO_WINNER, Result, effort_note
from pbt_flow.utils.passwords import hide_password
from pbt_flow.utils.text import number, values


def summary(result: Result) -> str:
    """What a person wants to know when a population has ended."""
    told = result.reason and result.reason != result.status
    lines = [
        f"\n{result.status}: {result.members} members, {result.turns_told}"
        + (f" ({result.reason})" if told else "")
    ]
    if result.left:
        lines.append(f"{result.left} members left at the end of a stage, as planned")
    if result.retired:
        lines.append(f"{result.retired} members failed too often and were retired")
    if result.winner is None:
        lines += _last_failure(result)
    else:
        lines += _finalist("winner", result.winner)
        if result.average is not None:
            lines += _average(result.average)
            if metric := result.better_alone:
                lines.append(
                    f"  its {metric} is worse than the winner's own; it was chosen by its score, "
                    "on other data"
                )
        lines += _own_average(result)
        if result.budget_note and result.status != "running":
            lines.append(f"  {_budget(result)}")
        lines.append(f"  mean score of the population {number(result.mean_score)}")
    # Where nobody copied, each member is an initial setting, and the winner the best of them today.
    if result.has_copies and result.best_initial is not None and result.winner is not None:
        if result.best_initial == result.winner:
            lines.append("the winner is an initial setting that was never changed")
        else:
            what, best = f"best initial setting, {result.fate}", result.best_initial
            lines += _finalist(what, best, f"the best of {result.initial_scores} on the way")
    if result.control is not None:
        lines += _control(result, result.control)
    lines += ["", f"population {result.run_id}", *ui(result)]
    if result.status == "running":
        lines += ["follow it with", f"  python -m pbt_flow watch {result.run_id}"]
    elif result.status != "finished":
        lines += ["go on with", f"  python -m pbt_flow resume {result.run_id}"]
    elif result.reason:
        limit = "target" if "target" in result.reason else "seconds"
        again = f"  python -m pbt_flow resume {result.run_id} --{limit} none"
        lines += ["go on without that limit", again]
    if result.retired == result.members:
        lines[-1] += " --max-failures N"
        lines.append("once the task is mended, with more failures allowed than there have been")
    elif result.reason == NO_WINNER:
        lines[-1] += " --turns N"
        lines.append("once the task is mended, with more turns than there have been")
    return "\n".join(lines)


def _control(result: Result, control: Result) -> list[str]:
    if control.status != "finished":
        return [
            f"its control, random search, is {control.status} after {control.turns} turns, and "
            "nothing is compared with it; go on with",
            f"  python -m pbt_flow resume {control.run_id}",
            f"  python -m pbt_flow report {result.run_id} --control {control.run_id}",
        ]
    lines = [f"its control, random search, {control.run_id}:"]
    if control.winner is not None:
        lines += [f"  {line}" for line in _finalist("winner", control.winner)[:-1]]
        if control.budget_note:
            lines.append(f"    {_budget(control)}")
    note = effort_note(result, control)
    if note:
        lines.append(f"  warning: {note}")
    return [*lines, f"  mean score of the population {number(control.mean_score)}"]


def _budget(result: Result) -> str:
    return f"{'warning: ' if result.is_over_budget else ''}{result.budget_note}"


def _last_failure(result: Result) -> list[str]:
    """What became of the newest turn, where none went well."""
    turns = [turn for own in result.history.turns.values() for turn in own if not turn.ok]
    if not turns:
        return []
    last = max(turns, key=lambda turn: (turn.number, turn.member))
    return [f"member {last.member:02d} turn {last.number}, the last: {last.status}, {last.reason}"]


def _finalist(what: str, one: Finalist, chosen: str = "what selection went by") -> list[str]:
    lines = [f"{what}: member {one.member:02d} after turn {one.turn} (step {one.step})"]
    lines.append(f"  score {number(one.score)}, {chosen}")
    if one.fresh is not None:
        lines.append(f"  fresh score {one.fresh}, on data that no decision has seen")
    if one.report:
        # A task whose score is exact may report the score again.
        apart = ", on data that selection never saw" * ([*one.report.values()] != [one.score])
        lines.append(f"  report {values(one.report)}{apart}")
    lines.append(f"  {values(one.hparams)}")
    return lines


def _average(average: Finalist) -> list[str]:
    """What is handed over in place of the winner, where it is better."""
    lines = [f"handed over: the average of {len(average.parents)} finalists' weights"]
    lines.append(f"  {average.parents_told}")
    return lines + _worth(average)


def _worth(average: Finalist) -> list[str]:
    """The score of an average, and its report."""
    if average.fresh is None:
        lines = [f"  score {number(average.score)}, on the data that selection went by"]
    else:
        lines = [f"  fresh score {average.fresh}, on data that no choice has seen"]
    if average.report:
        lines.append(f"  report {values(average.report)}")
    return lines


def _own_average(result: Result) -> list[str]:
    """What averaging finalists brings beyond the average of the winner's own checkpoints."""
    if (own := result.own_average) is None:
        return []
    lines = [f"as a control, the average of the winner's own last {len(own.parents)} checkpoints"]
    lines.append(f"  {own.parents_told}")
    lines += _worth(own)
    if result.average is None:
        lines.append("  no average of finalists is better than the winner, which is handed over")
    return lines


def ui(result: Result) -> list[str]:
    """How to open MLflow's UI on the population."""
    if result.tracking_uri.startswith("http"):
        place = hide_password(result.tracking_uri)
        return [f"look at it in the MLflow UI at {place}/{result.charts}"]
    command = f"  python -m pbt_flow ui {result.run_id}"
    return ["look at it in MLflow's UI with", command]
