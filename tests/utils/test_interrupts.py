"""Ctrl-C and SIGTERM: one wish is heard once, and none is lost."""

from __future__ import annotations

import signal
import subprocess
import sys
import weakref

import pytest

from pbt_flow.utils.interrupts import (
    Interrupts,
    handled_by,
    interrupts_lead_to,
    one_interrupt_waits,
)

INT, TERM = signal.SIGINT, signal.SIGTERM


def heard(signals: list[int], *, launcher: bool) -> list[int]:
    """Which of some signals lead to an action."""
    found = list[int]()
    handler = Interrupts(lambda: launcher)
    with handled_by(handler), interrupts_lead_to(found.append):
        for number in signals:
            signal.raise_signal(number)
    assert handler.asked == bool(found)
    return found


@pytest.mark.parametrize(
    ("signals", "launcher", "expected"),
    [
        ([INT], True, [INT]),
        ([INT, TERM], True, [INT]),
        ([INT, TERM, TERM], True, [INT, TERM]),
        ([INT, TERM, INT], True, [INT, INT]),
        ([INT, INT, TERM], True, [INT, INT]),
        ([TERM], True, [TERM]),
        ([TERM, INT, TERM], True, [TERM, INT]),
        ([INT, TERM], False, [INT, TERM]),
    ],
)
def test_what_a_launcher_sends_after_ctrl_c_is_the_same_wish(
    signals: list[int], launcher: bool, expected: list[int]
) -> None:
    assert heard(signals, launcher=launcher) == expected


def test_outside_of_any_action_an_interrupt_is_raised_and_the_old_handlers_come_back() -> None:
    before = signal.getsignal(INT), signal.getsignal(TERM), sys.unraisablehook
    with pytest.raises(KeyboardInterrupt), handled_by(Interrupts()):
        signal.raise_signal(TERM)
    assert (signal.getsignal(INT), signal.getsignal(TERM), sys.unraisablehook) == before


def interrupted_in_the_middle(times: int, done: list[str]) -> None:
    """Work that hears of an interrupt so many times."""
    with one_interrupt_waits():
        for _ in range(times):
            signal.raise_signal(INT)
        done.append("all of it")


@pytest.mark.parametrize(("times", "expected"), [(1, ["all of it"]), (2, [])])
def test_a_first_interrupt_waits_for_what_must_not_be_left_half_done(
    times: int, expected: list[str]
) -> None:
    done = list[str]()
    with pytest.raises(KeyboardInterrupt):
        interrupted_in_the_middle(times, done)
    assert done == expected


def lose_an_interrupt() -> None:
    """Where the function of a weak reference raises, Python prints it and goes on."""

    class Thing:
        pass

    thing = Thing()
    with handled_by(Interrupts()):
        reference = weakref.ref(thing, lambda _: signal.raise_signal(INT))
        del thing
        assert reference() is None
        signal.pause()


def test_an_interrupt_that_python_swallows_comes_again() -> None:
    with pytest.raises(KeyboardInterrupt):
        lose_an_interrupt()


def test_ctrl_c_in_the_middle_of_the_first_imports_is_no_traceback() -> None:
    code = (
        "import signal, sys\n"
        "class Finder:\n"
        "    def find_spec(name, *rest):\n"
        "        if name == 'pbt_flow.settings':\n"
        "            signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder)\n"
        "sys.argv[1:] = ['list']\n"
        "from pbt_flow.__main__ import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 130
    assert done.stderr.strip() == "python -m pbt_flow: interrupted before anything was begun"
