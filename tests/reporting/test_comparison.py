"""Methods side by side: paired by seed, with intervals, or refused with the reason."""

import json
import math
import re
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from sample_tasks import Regression

import pbt_flow
from pbt_flow import compare, report
from pbt_flow.cli.main import main
from pbt_flow.exceptions import ComparisonError
from pbt_flow.population.result import Result
from pbt_flow.reporting.comparable import Entry, check_pair
from pbt_flow.reporting.comparison import Comparison
from pbt_flow.reporting.comparison_page import page
from pbt_flow.settings import Settings
from pbt_flow.tasks.toy import Toy
from pbt_flow.testing.simulation import simulate
from pbt_flow.utils.interval import Interval

pytestmark = pytest.mark.usefixtures("database")
SMALL = {"engine": "inline", "turns": 3, "interval": 4, "quiet": True}


def train(seed=0, **settings):
    return pbt_flow.run(Regression, **{**SMALL, "seed": seed, **settings})


WHOLE, CONTROL = {"turns": 3}, {"turns": 3, "exploit": "none"}
EARLY = {**CONTROL, "target": 1e9}
"""A control that counts as finished after its first turn: any score reaches the target."""


@pytest.mark.slow
def test_populations_are_paired_by_seed_and_the_control_comes_first(trained):
    every = [{"seed": seed, "exploit": e} for seed in (0, 1, 2) for e in ("truncation", "none")]
    runs = [result.run_id for result in trained(*every)]
    made = compare(runs)
    assert list(made.methods) == ["random search", "PBT"]
    assert [entry.seed for entry in made.methods["PBT"]] == [0, 1, 2]
    results = [pbt_flow.load(run_id) for run_id in runs]
    # A smaller score is better here, so that a gain is the control's minus ours.
    expected = [results[n + 1].mean_score - results[n].mean_score for n in (0, 2, 4)]
    assert made.differences("PBT", "mean score") == expected
    assert made.gains()["PBT"]["mean score"] == Interval.of(expected)
    reports = [next(iter(result.best.report.values())) for result in results]
    assert made.differences("PBT", "best report") == [
        reports[n + 1] - reports[n] for n in (0, 2, 4)
    ]
    rows = [line for line in made.table().splitlines() if re.match(r"\| \d \|", line)]
    assert [row.split(" | ")[:2] for row in rows] == [
        [f"| {seed}", method] for seed in (0, 1, 2) for method in ("PBT", "random search")
    ]


@pytest.mark.slow
def test_the_command_prints_the_table_and_leaves_a_page(trained, capsys):
    runs = [result.run_id for result in trained(WHOLE, CONTROL)]
    assert main(["compare", *runs, "--out", "there", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads(Path("there/comparison.json").read_text())
    assert {p["population"] for p in told["populations"]} == set(runs)
    page = Path("there/comparison.html").read_text()
    assert 'id="mean"' in page
    assert "PBT, mean score, better by" in page


@pytest.mark.slow
def test_under_mlflow_run_it_is_put_on_that_run(trained, monkeypatch):
    runs = [result.run_id for result in trained(WHOLE, CONTROL)]
    client = MlflowClient()
    run = client.create_run("0")
    monkeypatch.setenv("MLFLOW_RUN_ID", run.info.run_id)
    # An MLproject hands over all of them as one text.
    assert main(["compare", " ".join(runs)]) == 0
    found = {info.path for info in client.list_artifacts(run.info.run_id, "comparison")}
    assert found == {"comparison/comparison.html", "comparison/comparison.json"}
    note = client.get_run(run.info.run_id).data.tags["mlflow.note.content"]
    assert "| PBT against random search | mean difference | pairs |" in note
    assert "| best score, better by |" in note


def test_methods_are_called_by_what_tells_them_apart():
    made = compare([train(exploit=e).run_id for e in ("truncation", "tournament")])
    assert list(made.methods) == ["PBT truncation", "PBT tournament"]
    assert made.baseline == "PBT truncation"


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        ({"turns": 3}, "their turns is 4 and 3"),
        ({"options": {"rate": 0.5}}, "the task's option rate is 0.01 and 0.5"),
        ({"seed": 1}, "all populations are of one method, PBT; add a control"),
    ],
)
def test_what_cannot_be_compared_says_why(other, sentence):
    with pytest.raises(ComparisonError, match=sentence):
        Comparison.of([entry(), entry(**other)])
    made = Comparison.of([entry(), entry(mode="generational")])
    assert list(made.methods) == ["PBT async", "PBT generational"]


def test_one_population_or_two_of_a_kind_are_refused():
    with pytest.raises(ComparisonError, match="two populations at least"):
        Comparison.of([entry()])
    with pytest.raises(ComparisonError, match="PBT has 2 populations of seed 0: .*; leave all"):
        Comparison.of([entry(exploit="none"), entry(), entry()])


@pytest.mark.slow
def test_a_control_is_trained_beside_with_the_same_members_budget_and_seed():
    result = train(population=2, control=True)
    control = result.control
    assert control.history.turns.keys() == result.history.turns.keys()
    for member, turns in control.history.turns.items():
        assert all(turn.plan.donor is None for turn in turns)
        assert turns[0].plan == result.history.turns[member][0].plan
        assert len(turns) == len(result.history.turns[member])
    assert pbt_flow.load(result.run_id).control.run_id == control.run_id
    page = MlflowClient().download_artifacts(result.run_id, "report/index.html")
    assert "the control, which had the same budget" in Path(page).read_text()
    assert result.to_json()["control"]["population"] == control.run_id
    assert "the winner of the control" in result.headline
    note = MlflowClient().get_run(result.run_id).data.tags["mlflow.note.content"]
    assert note.startswith(f"**{result.headline}**")
    assert result.headline in Path(page).read_text()


@pytest.mark.slow
def test_a_population_that_is_there_can_be_the_control(capsys):
    known = train(exploit="none")
    command = ["run", "--task", "sample_tasks:Regression", "--engine", "inline", "--turns", "3"]
    assert main([*command, "--interval", "4", "--control", known.run_id]) == 0
    assert f"its control, random search, {known.run_id}:" in capsys.readouterr().out


def test_a_control_that_is_no_population_is_refused_before_anything_runs():
    with pytest.raises(pbt_flow.exceptions.StoreError, match="no run 123"):
        train(control="123")
    assert not Path("mlruns").exists()


# --- the budget -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_population_that_ended_early_is_not_compared_with_one_that_did_all_its_turns(trained):
    whole, early = trained(WHOLE, EARLY)
    assert early.status == "finished"
    sentence = r"did 3 of 3 turns each and 0.5 of 3 turns each \(the target 1e\+09 is reached\)"
    with pytest.raises(ComparisonError, match=sentence):
        compare([whole.run_id, early.run_id])
    with pytest.raises(ComparisonError, match="--unequal"):
        report(whole.run_id, control=early.run_id)


@pytest.mark.slow
def test_who_insists_on_unequal_budgets_reads_so_beside_the_numbers(trained, capsys):
    whole, early = trained(WHOLE, EARLY)
    runs = [whole.run_id, early.run_id]
    assert main(["compare", *runs, "--unequal", "--json", "--out", "there"]) == 0
    told = capsys.readouterr()
    numbers = json.loads(told.out)
    assert not numbers["equal_budgets"]
    (warning,) = numbers["warnings"]
    assert "did not train equally long" in warning
    assert "0.5 of 3 turns each" in warning
    assert warning in told.err
    made = Path("there/comparison.html").read_text()
    assert "0.5 of 3 turns each" in made
    assert "same task and budget" not in made
    report(whole.run_id, control=early.run_id, out="here", unequal=True)
    made = Path("here/report/index.html").read_text()
    assert "the members of the control did 0.5 turns each, and those of this population 3" in made
    assert "had the same budget" not in made


@pytest.mark.slow
def test_populations_whose_turns_were_to_differ_can_be_compared_by_who_insists(trained):
    whole, control = trained({"turns": 2}, CONTROL)
    made = compare([whole.run_id, control.run_id], unequal=True)
    assert not made.is_equal
    assert "did 2 of 2 turns each" in made.warnings()[0]


@pytest.mark.slow
def test_a_control_that_ended_early_is_refused_before_anything_runs(trained):
    _, early = trained(WHOLE, EARLY)
    before = len(MlflowClient().search_runs(["0"]))
    same = {"population": 2, "interval": 3}
    with pytest.raises(ComparisonError, match=r"did 0.5 of 3 turns each .* are to do 3"):
        train(control=early.run_id, **same)
    assert len(MlflowClient().search_runs(["0"])) == before
    # One that may end early itself is compared when it has ended, and its page says what came.
    beside = train(control=early.run_id, target=-1.0, **same)
    made = Path(MlflowClient().download_artifacts(beside.run_id, "report/index.html")).read_text()
    assert "the two did not have the same budget" in made


def test_a_control_that_has_not_ended_is_refused(trained):
    whole, control = trained(WHOLE, CONTROL)
    MlflowClient().set_tag(control.run_id, "pbt.status", "running")
    MlflowClient().update_run(control.run_id, status="KILLED")
    with pytest.raises(ComparisonError, match="is not at its end: it is interrupted"):
        report(whole.run_id, control=control.run_id)


@pytest.mark.slow
def test_a_bare_unequal_takes_no_run_id_for_its_value(trained, capsys):
    runs = [result.run_id for result in trained({"turns": 2}, CONTROL)]
    assert main(["compare", *runs]) == 2
    assert "--unequal" in capsys.readouterr().err
    assert main(["compare", "--unequal", *runs]) == 0
    assert main(["compare", "--unequal=true", *runs]) == 0
    assert main(["compare", *runs, "--unequal", "false"]) == 2


@pytest.mark.slow
def test_a_replay_is_no_control(trained):
    whole, other = trained(WHOLE, CONTROL)
    MlflowClient().set_tag(other.run_id, "pbt.role", "replay")
    for beside in (
        lambda: compare([whole.run_id, other.run_id]),
        lambda: report(whole.run_id, control=other.run_id),
        lambda: train(control=other.run_id, population=2, interval=3),
    ):
        with pytest.raises(ComparisonError, match="is a replay"):
            beside()


# --- without MLflow -------------------------------------------------------------------------------


def entry(seed=0, report=None, direction=None, faults=None, budget=None, **settings) -> Entry:
    """A simulated population of the toy, whose winner has this report."""
    settings = {"population": 4, "turns": 4, "seed": seed, **settings}
    made, _ = Settings.for_task(Toy, **settings)
    history = simulate(Toy, faults=faults, **settings).history
    result = Result.of(
        history,
        run_id=f"{made.exploit}-{seed}",
        tracking_uri="",
        member_runs=[f"run-{member}" for member in history.members],
        reports={history.winner().checkpoint: report or {}},
        max_failures=made.max_failures,
        status="finished",
        budget=budget or made.turns * made.interval,
        report_direction=direction,
    )
    return Entry(result=result, settings=made)


def pair(seed=0, ours=None, theirs=None, **more) -> list[Entry]:
    return [entry(seed, ours, **more), entry(seed, theirs, exploit="none", **more)]


def everywhere(made: Comparison) -> list[str]:
    return [made.table(), json.dumps(made.to_json()), page(made).split("<script>")[0]]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"exploit": "truncation"}, "is no control: exploit is truncation.* copies nobody"),
        ({"seed": 5}, "is no control: its seed is 5 in place of 0"),
        ({"init": "uniform"}, "is no control: its init is 'uniform' in place of 'latin'"),
        ({"initial": [{"h0": 1.0, "h1": 0.0}]}, "is no control: its initial is"),
    ],
)
def test_a_control_copies_nobody_and_began_with_the_same_members(settings, sentence):
    ours = entry()
    control = entry(**{"exploit": "none", **settings})
    check_pair(entry(exploit="none"), ours.settings)
    with pytest.raises(ComparisonError, match=sentence):
        check_pair(control, ours.settings)


def test_methods_without_a_seed_in_common_are_refused_and_other_beginnings_told():
    with pytest.raises(
        ComparisonError, match=r"no seed is in common: random search has 5, the others 0;"
    ):
        Comparison.of([entry(), entry(seed=5, exploit="none")])
    made = Comparison.of([entry(), entry(exploit="none", init="uniform")])
    assert any("not all populations began alike" in note for note in made.notes())
    assert not any("began alike" in note for note in Comparison.of(pair()).notes())


def test_the_mean_is_over_what_the_members_stand_on_though_their_last_turns_failed():
    made = entry(faults={(member, 4): ["raises"] for member in range(3)}).result
    assert [own[-1].ok for _, own in sorted(made.history.turns.items())] == [False] * 3 + [True]
    standing = [made.history.standing(member) for member in made.history.members.values()]
    assert made.mean_score == pytest.approx(sum(turn.score for turn in standing) / 4)


def test_retired_members_are_told_and_refuse_nothing():
    fails = {(2, turn): ["raises"] for turn in (1, 2, 3)}
    made = Comparison.of([entry(), entry(exploit="none", faults=fails)])
    assert made.is_equal
    for text in everywhere(made):
        assert "1 of 4 members failed too often and were retired; it did 15 of 16 turns" in text


def test_a_winner_that_trained_beyond_its_budget_is_a_warning_and_one_below_it_a_note():
    # As if it had been given half of what it trained, and twice as much.
    over = Comparison.of([entry(budget=8), entry(exploit="none", budget=8)])
    below = Comparison.of([entry(budget=32), entry(exploit="none", budget=32)])
    for made, share, told in ((over, 2.0, over.warnings()), (below, 0.5, below.notes())):
        populations = made.to_json()["populations"]
        assert [one["winner_step_over_budget"] for one in populations] == [share, share]
        assert sum("the winner's weights have trained" in text for text in told) == 2
    for text in everywhere(over):
        assert "16 steps along their lineage, 2 times the 8 that a member was given" in text
    assert not below.warnings()
    for text in everywhere(below):
        assert "trained 16 of the 32 steps that a member was given" in text
    assert not any("the winner's weights" in text for text in everywhere(Comparison.of(pair())))


# --- which way a report is better -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("direction", "ours", "theirs", "gain", "ahead"),
    [
        ("maximize", 0.95, 0.7, 0.25, "ahead in 1 of 1"),
        ("minimize", 0.95, 0.7, -0.25, "ahead in 0 of 1"),
        ({"accuracy": "maximize", "loss": "minimize"}, 0.95, 0.7, 0.25, "ahead in 1 of 1"),
        ({"loss": "minimize"}, 0.95, 0.7, 0.25, "greater in 1 of 1"),
        (None, 0.7, 0.95, -0.25, "greater in 0 of 1"),
    ],
    ids=str,
)
def test_a_report_is_judged_by_its_own_direction_or_not_at_all(
    direction, ours, theirs, gain, ahead
):
    made = Comparison.of(
        pair(ours={"accuracy": ours}, theirs={"accuracy": theirs}, direction=direction)
    )
    assert made.differences("PBT", "best report") == pytest.approx([gain])
    assert made.describe_difference("PBT", "best report")[2] == ahead
    known = "greater" not in ahead
    table, numbers, whole = everywhere(made)
    row = next(line for line in table.splitlines() if line.startswith("| best report (accuracy)"))
    assert ("PBT minus random search" in row) != known
    assert ("PBT, best report (accuracy), better by" in whole) == known
    assert ("is better is not declared" in table) != known
    assert (json.loads(numbers)["gains"]["PBT"]["best report"]["direction"] is None) != known


def test_a_population_that_does_not_say_is_judged_by_what_others_of_its_task_say():
    old = pair(0, {"acc": 0.9}, {"acc": 0.5})
    new = pair(1, {"acc": 0.9}, {"acc": 0.5}, direction="maximize")
    assert Comparison.of([*old, *new]).report_direction == "maximize"
    odd = pair(2, {"acc": 0.9}, {"acc": 0.5}, direction="minimize")
    assert Comparison.of([*new, *odd]).report_direction is None


def test_reports_of_different_metrics_are_not_subtracted():
    made = Comparison.of(pair(ours={"bleu": 20.0, "loss": 1.0}, theirs={"loss": 3.0}))
    assert made.differences("PBT", "best report") == []
    assert "0 of 1 seeds have this number" in made.table()


# --- intervals ------------------------------------------------------------------------------------


def noisy(seeds):
    """Pairs whose reports differ by 1, 2, 3 and so on."""
    return [
        one
        for seed in seeds
        for one in pair(seed, {"q": 10.0 + seed + 1}, {"q": 10.0}, direction="maximize")
    ]


def test_an_interval_says_what_it_is_over_and_a_single_pair_has_none():
    made = Comparison.of(noisy(range(4)))
    bounds = Interval.of([1.0, 2.0, 3.0, 4.0]).bounds
    for text in everywhere(made):
        if text != json.dumps(made.to_json()):
            assert f"95% t interval {bounds} over 4 seeds" in text
    assert made.to_json()["gains"]["PBT"]["best report"]["seeds"] == 4
    same = Comparison.of([one for seed in range(2) for one in pair(seed, {"q": 1.0}, {"q": 1.0})])
    assert same.describe_difference("PBT", "best report")[2].endswith(" in 0 of 2, equal in 2")
    single = Comparison.of(noisy([0]))
    for text in everywhere(single):
        assert "95%" not in text
        assert "a single pair has no interval, and proves nothing" in text.lower()
    assert single.describe_difference("PBT", "best report")[1] == "one pair: no interval"


@pytest.mark.parametrize(("pairs", "least"), [(2, 0.5), (5, 0.0625), (6, None)])
def test_too_few_pairs_for_any_permutation_test_are_told(pairs, least):
    for text in everywhere(Comparison.of(noisy(range(pairs)))):
        assert ("a sign-flip permutation test cannot" in text) == (least is not None)
        assert least is None or f"cannot come below p = {least:g}" in text


def test_seeds_that_only_one_method_has_are_told():
    made = Comparison.of([*noisy(range(3)), entry(7, {"q": 1.0})])
    assert len(made.differences("PBT", "mean score")) == 3
    assert "PBT, mean score: 3 of 4 seeds have this number" in made.table()


def test_a_number_that_is_none_is_left_out_and_the_json_stays_json():
    made = Comparison.of(pair(ours={"q": math.nan}, theirs={"q": 1.0}))
    assert made.differences("PBT", "best report") == []
    assert "NaN" not in json.dumps(made.to_json())


# --- one task by two names ------------------------------------------------------------------------


def test_a_task_by_its_name_and_by_its_class_is_one_task():
    by_class = pbt_flow.run(Toy, turns=2, population=2, engine="inline", quiet=True)
    by_name = pbt_flow.run(
        "toy", turns=2, population=2, engine="inline", quiet=True, exploit="none"
    )
    made = compare([by_class.run_id, by_name.run_id])
    assert {entry.settings.task for _, entry in made.entries} == {"toy", "pbt_flow.tasks.toy:Toy"}
