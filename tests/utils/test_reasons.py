"""The reason that is shown for an exception: one line, with its type."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import sys
import traceback
from collections.abc import Callable
from multiprocessing.pool import ExceptionWithTraceback

import numpy as np
import pytest
import torch
from single_turns import plan, worker

from pbt_flow.engines.jobs import Inspect
from pbt_flow.engines.returned import read_metrics, read_score
from pbt_flow.engines.worker import Worker
from pbt_flow.population.checkpoints import read_record
from pbt_flow.population.records import Turn, turn_from_json, turn_to_json
from pbt_flow.tracking.turn_metrics import _error_tag
from pbt_flow.utils.reasons import account_of, in_short, reason_in, reason_of


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("it has no words")


class LineByLine(ValueError):
    def __str__(self) -> str:
        return "\n".join(map(str, self.args))


def chained() -> None:
    try:
        raise KeyError("first")
    except KeyError as error:
        raise LineByLine("cannot go on", "[0., 0.]])") from error


def while_handling() -> None:
    try:
        raise KeyError("first")
    except KeyError:
        raise LineByLine("cannot go on either", "Traceback of nothing") from None


def noted() -> None:
    error = LineByLine("it went wrong", "in two lines")
    error.__notes__ = ["a note", "of two", "lines"]  # what add_note does, from Python 3.11 on
    raise error


def loads_another_model() -> None:
    torch.nn.Linear(2, 3).load_state_dict(torch.nn.Linear(3, 2).state_dict())


def is_no_python() -> None:
    compile("x = 1\ny = = 2\n", "mine.py", "exec")


def fails_in_a_thread() -> None:
    with concurrent.futures.ThreadPoolExecutor() as pool:
        pool.submit(chained).result()


def fails_in_a_process() -> None:
    # As a pool of processes hands an exception over.
    error = caught(chained)
    rebuild, given = ExceptionWithTraceback(error, error.__traceback__).__reduce__()
    raise rebuild(*given)


def goes_too_deep() -> None:
    goes_too_deep()


def says_nothing() -> None:
    raise ValueError


def begins_with_an_empty_line() -> None:
    raise LineByLine("", "what is wrong", "and more")


def quotes_a_traceback() -> None:
    raise LineByLine("the tool failed:", *traceback_of(chained).splitlines())


def says_one_line() -> None:
    raise OSError(2, "No such file or directory", "data.csv")


HERE = f"{__name__}."
RAISES: dict[Callable[[], None], str] = {
    says_one_line: "FileNotFoundError: [Errno 2] No such file or directory: 'data.csv'",
    says_nothing: "ValueError",
    chained: f"{HERE}LineByLine: cannot go on",
    while_handling: f"{HERE}LineByLine: cannot go on either",
    noted: f"{HERE}LineByLine: it went wrong",
    begins_with_an_empty_line: f"{HERE}LineByLine: what is wrong",
    loads_another_model: "RuntimeError: Error(s) in loading state_dict for Linear: size mismatch "
    "for weight: copying a param with shape torch.Size([2, 3]) from checkpoint, the shape in "
    "current model is torch.Size([3, 2]).",
    goes_too_deep: "RecursionError: maximum recursion depth exceeded",
    fails_in_a_thread: f"{HERE}LineByLine: cannot go on",
    fails_in_a_process: f"{HERE}LineByLine: cannot go on",
}


def caught(call: Callable[[], None]) -> BaseException:
    try:
        call()
    except Exception as error:
        return error
    raise AssertionError("it raised nothing")


def traceback_of(call: Callable[[], None]) -> str:
    """What records of older versions hold."""
    error = caught(call)
    return "".join(traceback.format_exception(type(error), error, error.__traceback__))


@pytest.mark.parametrize("call", RAISES, ids=lambda call: call.__name__)
def test_the_reason_is_the_line_with_the_type_in_old_records_too(call):
    error = caught(call)
    assert reason_of(error) == RAISES[call]
    assert reason_in(account_of(error)) == RAISES[call]
    assert reason_in(traceback_of(call)) == RAISES[call]
    # The whole traceback is kept.
    assert account_of(error).endswith(traceback_of(call).splitlines()[-1] + "\n")


def test_what_only_the_exception_itself_can_tell_is_told():
    error = caught(is_no_python)
    assert reason_of(error) == "SyntaxError: invalid syntax (mine.py, line 2)"
    assert reason_in(traceback_of(is_no_python)) == "SyntaxError: invalid syntax"
    # A message may quote a traceback: where the exception is at hand, nothing is guessed.
    said = f"{HERE}LineByLine: the tool failed: Traceback (most recent call last):"
    assert reason_in(account_of(caught(quotes_a_traceback))) == said


def test_an_exception_that_cannot_say_what_it_is_has_a_reason_all_the_same():
    def fails() -> None:
        raise Unspeakable

    assert reason_of(caught(fails)) == f"{HERE}Unspeakable: <exception str() failed>"
    assert reason_in(traceback_of(fails)) == f"{HERE}Unspeakable: <exception str() failed>"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="a group of exceptions is of Python 3.11")
def test_the_reason_of_a_group_names_the_first_of_it():
    def fails() -> None:
        inner = ExceptionGroup("inner", [LineByLine("so", "and so"), KeyError("x")])  # noqa: F821
        raise ExceptionGroup("unhandled errors", [inner, OSError("more")])  # noqa: F821

    head = "ExceptionGroup: unhandled errors (2 sub-exceptions)"
    inner = (
        f"; the first: ExceptionGroup: inner (2 sub-exceptions); the first: {HERE}LineByLine: so"
    )
    assert reason_in(account_of(caught(fails))) == head + inner
    assert reason_in(traceback_of(fails)) == head


def test_a_long_reason_is_cut():
    error = ValueError("x" * 10_000)
    assert len(reason_in(account_of(error))) == 500
    assert account_of(error).count("x") > 10_000


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", ""),
        ("  \n ", ""),
        ("the score is nan", "the score is nan"),
        (
            "the observation of step 3 is not finite:\n[nan]",
            "the observation of step 3 is not finite: [nan]",
        ),
        ("Traceback (most recent call last):\n  cut off", "cut off"),
    ],
)
def test_a_text_that_is_no_traceback_has_its_first_line(text, reason):
    assert reason_in(text) == reason


# --- in a turn ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [chained, loads_another_model, begins_with_an_empty_line],
    ids=lambda call: call.__name__,
)
def test_a_turn_shows_it_and_its_record_keeps_the_traceback(call, tmp_path, monkeypatch):
    made = worker(tmp_path)
    monkeypatch.setattr("sample_tasks.Regression.train", lambda *_: call())
    turn = made.run(plan())
    assert turn.reason == RAISES[call]
    folder = tmp_path / "m0" / "turns" / "000001"
    assert read_record((folder / "turn.json").read_text(), 0, 1).reason == RAISES[call]
    assert (folder / "error.txt").read_text().startswith(RAISES[call])
    assert "Traceback (most recent call last)" in (folder / "error.txt").read_text()
    old = {**turn_to_json(turn), "error": traceback_of(call)}
    assert turn_from_json(json.loads(json.dumps(old))).reason == RAISES[call]


def test_the_tag_of_a_long_error_has_the_reason_and_the_end():
    error = f"ValueError: short\n\n{'frame' * 3000}\nValueError: short\nthe end"
    turn = Turn(plan=plan(), status="failed", error=error)
    tag = _error_tag(turn)
    assert len(tag) == 5000
    assert tag.startswith("turn 1 failed: ValueError: short\n")
    assert tag.endswith("ValueError: short\nthe end")
    brief = dataclasses.replace(turn, error="ValueError: short\n\nTraceback")
    assert _error_tag(brief) == "turn 1 failed: ValueError: short\n\nTraceback"


def test_an_inspection_shows_it_too(tmp_path, monkeypatch):
    made = worker(tmp_path)
    turn = made.run(plan())
    monkeypatch.setattr("sample_tasks.Regression.report", lambda self: chained())
    report = made.inspect(Inspect(member=0, checkpoint=turn.checkpoint))
    assert reason_in(report.error) == RAISES[chained]
    assert isinstance(made, Worker)


def test_a_score_that_is_none_is_refused_on_one_line():
    for returned, shown in (
        (torch.zeros(2, 2), "tensor([[0., 0.], [0., 0.]])"),
        (np.zeros((2, 2)), "array([[0., 0.], [0., 0.]])"),
        ([], "[]"),
        ("0.5", "'0.5'"),
        ([1, None], "[1, None]"),
    ):
        with pytest.raises(TypeError) as told:
            read_score(returned)
        said = f"evaluate() must return a number or a sequence of numbers, got {shown}"
        assert reason_of(told.value) == f"TypeError: {said}"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (10**400, "1000"),
        (10**5000, "an object of type int"),
        (None, "None"),
        ([1, 2], "[1, 2]"),
        ("much", "'much'"),
        (torch.zeros(2), "tensor([0., 0.])"),
        (1j, "1j"),
        (Unspeakable, "<class "),
    ],
    ids=lambda value: str(type(value)),
)
def test_a_metric_that_is_no_number_is_named_with_its_value(value, shown):
    with pytest.raises(TypeError) as told:
        read_metrics({"good": 1, "l\n oss": value}, "train()")
    reason = reason_of(told.value)
    assert reason.startswith("TypeError: train() must return a mapping of names to numbers")
    assert f"the metric 'l\\n oss' is {shown}" in reason
    assert len(reason) <= 500


def len_of(value: object) -> str:
    return type(value).__name__


LONG = ["x" * 10**6, list(range(10**6)), {"a": 10**5000}, 10**10**5]


@pytest.mark.parametrize("value", LONG, ids=len_of)
def test_a_long_value_is_shown_in_short(value):
    assert len(in_short(value)) <= 120
