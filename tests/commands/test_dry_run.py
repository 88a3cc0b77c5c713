"""A dry run trains one turn, says what all of it would cost, and writes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sample_tasks import Regression

import pbt_flow
from pbt_flow.cli.main import main
from pbt_flow.commands.progress import plan_sentence
from pbt_flow.utils.cores import count_cores


class Fails(Regression):
    """Fails in its first turn."""

    def train(self, hparams, steps):
        raise RuntimeError("no such file")


def test_a_dry_run_says_what_would_be_trained_and_leaves_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["run", "--task", "toy", "--turns", "7", "--engine", "inline", "--dry-run", "--json"]
    assert main(words) == 0
    printed = capsys.readouterr()
    told = json.loads(printed.out)
    assert told["settings"]["turns"] == 7
    assert set(told["space"]) == {"h0", "h1"}
    assert told["seconds_in_all"] == pytest.approx(told["seconds_of_a_turn"] * 7 * 8)
    assert told["bytes_of_a_checkpoint"] > 0
    assert "8 members, each for 7 turns of 4 steps: 56 turns, in this process" in printed.err
    assert not any(Path().iterdir())


@pytest.mark.parametrize(
    ("task", "given", "told"),
    [
        ("toy", {"population": 8, "workers": 2}, ["train the best for 25 turns instead of 10"]),
        ("toy", {"population": 8, "workers": 5}, []),
        ("toy", {"stages": "none"}, []),
        ("toy", {"exploit": "none"}, []),
        ("toy", {"exploit": "truncation:copies=hparams"}, []),
        ("toy", {"turns": 1}, []),
        ("rl", {"quick": True}, []),
    ],
)
def test_a_dry_run_says_what_stages_would_do_where_the_task_leaves_it_open(
    task: str, given: dict[str, Any], told: list[str]
) -> None:
    settings = {"population": 8, "turns": 10, "workers": 1, "engine": "inline", **given}
    notes = pbt_flow.dry_run(task, **settings).notes
    assert len(notes) == len(told)
    assert all(part in note for part, note in zip(told, notes, strict=True))


def test_workers_share_the_turns_of_an_estimate_as_far_as_there_are_cores() -> None:
    made = pbt_flow.dry_run("toy", turns=6, population=4, workers=3, control=True)
    assert made.seconds_in_all == pytest.approx(made.seconds * 4 * 6 / min(3, count_cores()))
    assert "random search, the control, trains as much again" in made.text()


def test_a_first_turn_that_fails_is_told() -> None:
    with pytest.raises(pbt_flow.PopulationError, match="the first turn failed: .*no such file"):
        pbt_flow.dry_run(Fails, engine="inline")
    with pytest.raises(pbt_flow.SettingsError, match="turns must be at least 1"):
        pbt_flow.dry_run("toy", engine="inline", turns=0)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"turns": 14, "interval": 15_000, "workers": 2},
            "8 members, each for 14 turns of 15,000 steps: 112 turns, by 2 workers on cpu",
        ),
        (
            {"turns": 1, "population": 2, "workers": 9},
            "2 members, each for 1 turn of 4 steps: 2 turns, by 2 workers on cpu",
        ),
    ],
)
def test_the_plan_is_one_sentence(given: dict[str, int], sentence: str) -> None:
    settings, _ = pbt_flow.Settings.for_task("toy", **given)
    assert plan_sentence(settings) == sentence
