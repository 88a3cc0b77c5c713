"""The report's page: what is in it, for populations of all kinds; the picture; the saved view."""

from __future__ import annotations

import base64
import dataclasses
import html
import json
import re
import zlib
from itertools import pairwise

import pytest
from optuna.distributions import FloatDistribution
from report_subjects import Rich, drawn, subject, text

from pbt_flow.population.history import History
from pbt_flow.population.records import Member
from pbt_flow.population.result import Result
from pbt_flow.reporting import series
from pbt_flow.reporting import summary_image as picture
from pbt_flow.reporting.page import page
from pbt_flow.reporting.plotly_charts import charts
from pbt_flow.reporting.report_data import ReportData
from pbt_flow.reporting.series import Shades
from pbt_flow.settings import Settings
from pbt_flow.tracking.saved_view import MOST, population_view, view_address, view_tag


def test_the_page_is_whole_and_asks_for_nothing_from_outside():
    one = subject()
    whole = page(one)
    assert "plotly.js v" in whole
    assert not re.search(r'(src|href)\s*=\s*"', text(one))
    assert not re.search(r"https?://", text(one))
    assert not re.search(r"@[A-Z]+@", text(one))


@pytest.mark.parametrize(
    "settings",
    [{"population": 4, "turns": 10}, {"population": 64, "turns": 3}, {"population": 20}],
    ids=str,
)
def test_every_chart_has_its_place_on_the_page(settings):
    one = subject(**settings)
    places = set(re.findall(r'class="chart" id="([\w-]+)"', text(one)))
    assert places == drawn(one).keys()
    assert {"scores", "tree", "founders", "time", "hparam-0", "hparam-3"} <= places


@pytest.mark.parametrize("population", [3, 4, 8, 16, 64, 200])
def test_each_founder_has_a_label_or_every_second_or_so(population):
    one = subject(population=population, turns=4)
    tree = charts(one, Shades.of(one.history))["tree"]["layout"]
    axis, height = tree["yaxis"], tree["height"]
    shown = [int(label) for label in axis["ticktext"]]
    step = shown[1] - shown[0]
    assert shown == list(range(0, population, step))
    assert step == 1 or height == 900
    # No label covers another.
    pixels = [(height - 60) * row / axis["range"][0] for row in axis["tickvals"]]
    assert min(below - above for above, below in pairwise(pixels)) > 12.9


def test_every_table_stands_in_a_box_that_scrolls_where_a_phone_has_no_room():
    one = subject(population=4)
    winner = one.result.winner
    own = dataclasses.replace(winner, parents=((winner.member, winner.turn),) * 3)
    with_averages = dataclasses.replace(one.result, own_average=own)
    whole = text(dataclasses.replace(one, result=with_averages))
    assert "What averaging brings" in whole
    boxes = re.findall(r'<div class="(?:table|scroll)"[^>]*>\s*<table', whole)
    assert len(boxes) == whole.count("<table")


def test_every_colour_that_a_chart_names_is_in_the_pages_style():
    one = subject(control=True, population=9, faults={(0, 2): ["raises"]})
    named = set(re.findall(r"var\((--\w+)\)", json.dumps(drawn(one)) + text(one)))
    style = text(one).split("</style>")[0]
    assert named <= set(re.findall(r"(--\w+):", style))


def test_the_scores_are_those_of_the_members():
    one = subject(population=5)
    lines = [line for line in drawn(one)["scores"]["data"] if line["name"] == "members"]
    for line, points in zip(lines, series.scores(one.history).values(), strict=True):
        assert line["x"] == [point.trained for point in points]
        assert line["y"] == pytest.approx([point.value for point in points], rel=1e-5)


def test_founders_of_members_that_have_done_fewer_turns_have_descendants_too():
    # The first score reaches the target, so that some members end without a turn.
    one = subject(population=4, exploit="none", target=1e9)
    assert len({member.turn for member in one.history.members.values()}) > 1
    assert "4 of 4 founders have descendants" in text(one)


def test_each_hyperparameter_is_on_its_own_scale():
    axes = [drawn(subject())[f"hparam-{n}"]["layout"]["yaxis"] for n in range(4)]
    assert [axis.get("type") for axis in axes] == ["log", None, None, None]
    assert axes[0]["range"] == pytest.approx([-4.16, 0.16])
    assert [html.unescape(name) for name in axes[3]["ticktext"]] == ["<b>", "&", "None"]


def test_the_winners_schedule_is_the_last_line_of_each_hyperparameter():
    one = subject(population=8)
    line = drawn(one)["hparam-0"]["data"][-1]
    assert line["line"]["color"] == "var(--ink)"
    values = [turn.plan.hparams["lr"] for turn in one.path for _ in (0, 1)]
    assert line["y"] == pytest.approx(values, rel=1e-5)
    assert line["x"][0] == 0
    assert line["x"][-1] == one.history.winner().step


def test_a_control_is_drawn_beside_the_population_and_named_in_the_cards():
    names = {line["name"] for line in drawn(subject(control=True))["scores"]["data"]}
    own = {"members", "best", "mean", "the winner's line"}
    assert names == {*own, "control, best", "control, mean"}
    assert "score of the winner of the control" in text(subject(control=True))
    assert "control" not in text(subject()).split("</style>")[1]


def test_the_headline_quotes_the_report_and_the_table_has_every_member():
    one = subject(population=6)
    whole = text(one)
    assert f"<h1>{html.escape(one.result.headline)}</h1>" in whole
    members = whole.split('<table id="members">')[1].split("</table>")[0]
    rows = re.findall(r"<tr[^>]*><td>(\d+)</td><td[^>]*>([^<]+)<", members)
    scores = [float(score) for _, score in rows]
    assert sorted(member for member, _ in rows) == [f"{n:02d}" for n in range(6)]
    assert scores == sorted(scores)


def test_a_row_of_other_values_than_the_winners_is_not_marked_as_its_own(monkeypatch):
    """The row of a member that has trained on since it won is what it came to later."""
    one = subject()
    standing = text(one)
    assert '<tr class="winner">' in standing
    assert "has trained on since" not in standing
    earlier = one.history.turns[one.history.winner().member][1]
    assert earlier.ok
    monkeypatch.setattr(History, "winner", lambda history: earlier)
    later = text(one)
    assert '<tr class="winner">' not in later
    assert f"Member {earlier.member:02d} won by its turn {earlier.number}, whose values" in later


def test_two_numbers_of_one_winner_are_explained_where_they_stand():
    explained = "The headline quotes loss, the first metric of the report"
    assert explained in text(subject())
    one = subject()
    same = dataclasses.replace(one.result.winner, report={"loss": one.result.winner.score})
    alike = dataclasses.replace(one, result=dataclasses.replace(one.result, winner=same))
    assert "The headline quotes" not in text(alike)


def test_runs_are_links_where_a_server_shows_them_and_named_where_none_does():
    one = subject(population=3)
    named = dataclasses.replace(one, member_runs=["aaa", "bbb", "ccc"])
    assert 'title="run bbb">01<' in text(named)
    linked = text(dataclasses.replace(named, runs_address="http://there/#/experiments/7/runs"))
    for run_id in ("0123abcd", "aaa", "bbb", "ccc"):
        assert f'href="http://there/#/experiments/7/runs/{run_id}" target="_blank"' in linked


def test_the_page_says_what_the_population_was_made_with():
    one = subject(population=3, seed=5)
    shown = text(dataclasses.replace(one, versions={"torch": "9.8.7"}))
    for name, value in {"seed": 5, "option dimensions": 3, "version of torch": "9.8.7"}.items():
        assert f"<dt>{name}</dt><dd>{value}</dd>" in shown
    assert "<dt>first turn began</dt><dd>1970-01-01 " in shown


def test_warnings_stand_on_the_page_and_nothing_of_the_users_is_markup():
    one = subject(
        warnings={"score<i>": "it </script> stands still"}, name="<script>alert(1)</script>"
    )
    whole = text(one)
    assert "it &lt;/script&gt; stands still" in whole
    assert "<script>alert" not in whole
    assert "<b>" not in whole.split('id="charts">')[1].split("</script>")[0]
    assert "warnings" not in text(subject()).split("</style>")[1]


def test_what_failed_is_marked_where_its_weights_came_from():
    one = subject(population=5, faults={(2, 3): ["raises"], (4, 1): ["nan"]})
    (failed,) = (
        line
        for line in drawn(one)["tree"]["data"]
        if line.get("marker", {}).get("symbol") == "x-thin"
    )
    assert len(failed["x"]) == 2
    assert any("failed" in label for label in failed["text"])


def test_a_population_that_has_done_nothing_yet_has_a_page_too():
    history = History(direction="minimize")
    history.begin(Member(index=n, hparams={}) for n in range(3))
    made, _ = Settings.for_task(Rich, population=3)
    result = Result.of(
        history,
        run_id="x",
        tracking_uri="",
        member_runs=["a", "b", "c"],
        reports={},
        max_failures=3,
        status="running",
    )
    whole = page(ReportData(result=result, settings=made, space=Rich.space))
    assert "No turn is done yet" in whole
    assert "nothing to draw" in whole


def test_scores_over_decades_get_a_logarithmic_axis_and_others_do_not():
    one = subject(population=6)
    axis = charts(one, Shades.of(one.history))["scores"]["layout"]["yaxis"]
    assert "type" not in axis
    for turns in one.history.turns.values():
        object.__setattr__(turns[-1], "score", 1e-5)
    axis = charts(one, Shades.of(one.history))["scores"]["layout"]["yaxis"]
    assert axis["type"] == "log"


@pytest.mark.parametrize("settings", [{"population": 3}, {"population": 9, "control": True}])
@pytest.mark.paints
def test_the_picture_is_drawn(settings, tmp_path):
    picture.draw(subject(**settings), tmp_path / "summary.png")
    data = (tmp_path / "summary.png").read_bytes()
    assert data[:4] == b"\x89PNG"
    assert 20_000 < len(data) < 300_000


def test_the_pictures_title_fits_and_only_powers_of_ten_are_formulas():
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = picture._make_figure(subject(name="$cost$ " * 30), Figure)
    FigureCanvasAgg(figure).draw()
    (title,) = (text for text in figure.texts if "cost" in text.get_text())
    assert title.get_text().startswith(r"\$cost\$")
    assert title.get_window_extent().width < figure.bbox.width
    assert title.get_window_extent().y0 > figure.axes[0].get_window_extent().y1
    labels = [label for axes in figure.axes for label in axes.get_yticklabels()]
    powers = [label for label in labels if "mathdefault" in label.get_text()]
    assert powers
    assert all(label.get_parse_math() for label in powers)


# --- the saved view -------------------------------------------------------------------------------


def test_the_saved_view_shows_all_members_score_hyperparameters_and_lineage():
    tag = json.loads(population_view("abc", "mine", Rich.space, 12.5))
    assert (tag["name"], tag["createdAt"]) == ("mine", 12500)
    packed = tag["state"].removeprefix("deflate;")
    state = json.loads(zlib.decompress(base64.b64decode(packed)))
    assert state["searchFilter"] == "tags.`mlflow.parentRunId` = 'abc'"
    assert state["runsHiddenMode"] == "SHOWALL"
    assert [section["name"] for section in state["compareRunSections"]] == [
        "Score",
        "Hyperparameters",
        "Lineage",
        "Together",
    ]
    lines = [chart for chart in state["compareRunCharts"] if "metricKey" in chart]
    scales = {chart["metricKey"]: chart["scaleType"] for chart in lines}
    assert scales == {
        "score": "linear",
        "hparam/lr": "log",
        "hparam/share": "linear",
        "hparam/layers": "linear",
        "hparam/kind": "linear",
        "donor": "linear",
        "step": "linear",
    }
    places = {section["uuid"] for section in state["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in state["compareRunCharts"]} == places


def test_the_saved_view_of_fifty_hyperparameters_fits_into_a_tag():
    space = {f"hyperparameter_{n}": FloatDistribution(0, 1) for n in range(50)}
    assert len(population_view("a" * 32, "mine", space, 0.0)) < MOST


def test_the_address_of_the_view_names_its_tag():
    key = view_tag("abc").removeprefix("mlflow.sharedViewState.")
    assert f"viewStateShareKey={key}&" in view_address("7", "abc")
    assert view_address("7", "abc").startswith("#/experiments/7/runs?")


@pytest.mark.parametrize(
    ("settings", "waiting"), [({"engine": "inline"}, 0.0), ({"workers": 2}, 0.5)], ids=str
)
def test_time_is_shared_among_the_workers_that_there_were(settings, waiting):
    one = subject(population=3, turns=1, **settings)
    for index, turns in enumerate(one.history.turns.values()):
        object.__setattr__(turns[0], "started", 100.0 + 10 * index)
        object.__setattr__(turns[0], "seconds", {"train": 10.0})
    bars = {bar["name"].split()[0]: bar["x"][0] for bar in drawn(one)["time"]["data"]}
    assert bars.get("waiting", 0.0) == pytest.approx(waiting)
    assert bars["train"] == pytest.approx(1 - waiting)
