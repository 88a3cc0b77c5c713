"""Ctrl-C in a real terminal, at ten moments of `mlflow run` and of `pbt-flow run`.

    python -m benchmarks.interrupts [mlflow|pbt-flow] [MOMENT ...]

Each row starts the command in a new folder and in a terminal of its own, presses Ctrl-C at one
moment, and tells what was seen: a traceback, the exit code, the status of every run, and whether it
was said how to go on. In the first two seconds `mlflow` imports itself, which is not ours.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import pty
import re
import select
import shutil
import signal
import sqlite3
import struct
import sys
import tempfile
import termios
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CTRL_C = b"\x03"
BAD = ("Traceback", "Exception ignored", "database is locked")
"""What no user should see who has pressed Ctrl-C."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a command in a terminal came to."""

    text: str
    code: int
    seconds: float
    """How long it went on after the last Ctrl-C."""

    @property
    def bad(self) -> list[str]:
        """The words on the screen that no user should see."""
        return [word for word in BAD if word in self.text]


def in_terminal(
    command: Sequence[str],
    presses: Sequence[tuple[str, float]],
    *,
    folder: Path,
    width: int = 80,
    environment: Mapping[str, str] | None = None,
    limit: float = 180.0,
) -> Seen:
    """Run a command in a terminal of its own, and press Ctrl-C.

    Args:
        command: What is run; its group is the terminal's foreground.
        presses: For each Ctrl-C what must have been printed before it (a regular expression, or
            nothing), and how many seconds later it comes.
        folder: Where it runs.
        width: Characters of a line.
        environment: Variables beside those of this process.
        limit: Seconds after which all is killed.

    Raises:
        TimeoutError: It did not end.
    """
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.execvpe(command[0], list(command), {**os.environ, **(environment or {})})
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    began = pressed = time.monotonic()
    text, left = "", list(presses)
    due: float | None = None
    while True:
        now = time.monotonic()
        if now - began > limit:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise TimeoutError(f"{command} did not end; it printed {text[-2000:]}")
        if due is None and left and re.search(left[0][0], text):
            due = now + left[0][1]
        if due is not None and now >= due:
            os.write(terminal, CTRL_C)
            pressed, due = now, None
            left.pop(0)
        if select.select([terminal], [], [], 0.02)[0]:
            try:
                new = os.read(terminal, 65536)
            except OSError:  # nobody holds the terminal's other end any more
                break
            text += new.decode(errors="replace").replace("\r\n", "\n")
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    return Seen(
        text=text, code=os.waitstatus_to_exitcode(status), seconds=time.monotonic() - pressed
    )


def statuses(folder: Path, *, seconds: float = 20.0) -> list[str]:
    """The status of every run in the folder's store, each once.

    `mlflow run` writes FAILED when all is over, which is mended a moment later: waited for.
    """
    database = folder / "mlflow.db"
    if not database.is_file():
        return []
    end, found = time.monotonic() + seconds, ["FAILED"]
    while {"FAILED", "RUNNING"} & set(found) and time.monotonic() < end:
        time.sleep(0.2)
        with contextlib.suppress(sqlite3.OperationalError), sqlite3.connect(database) as store:
            asked = "SELECT DISTINCT status FROM runs ORDER BY status"
            found = [row[0] for row in store.execute(asked)]
    return found


COMMANDS = {
    "mlflow": [
        sys.executable, "-m", "mlflow", "run", str(ROOT), "-e", "pbt", "--env-manager", "local",
        "-P", "task=toy", "-P", "turns=150", "-P", "interval=100000", "-P", "workers=2",
    ],
    "pbt-flow": [
        sys.executable, "-m", "pbt_flow", "run", "--task", "toy", "--turns", "150",
        "--interval", "100000", "--workers", "2",
    ],
}  # fmt: skip
MOMENTS: dict[str, list[tuple[str, float]]] = {
    "0.3 s": [("", 0.3)],
    "1 s": [("", 1.0)],
    "3 s": [("", 3.0)],
    "5 s": [("", 5.0)],
    "while the runs are made": [("sqlite|Running command", 2.2)],
    "at the id": [("population [0-9a-f]{32}", 0.0)],
    "first turn": [("population [0-9a-f]{32}", 1.0)],
    "in the middle": [("population [0-9a-f]{32}", 4.0)],
    "twice": [("population [0-9a-f]{32}", 3.0), ("", 0.4)],
    "while it reports": [("reporting on", 0.0)],
    "after the summary": [("finished: ", 0.0)],
}


def main() -> None:
    """Print a table of what each moment came to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    known = [*COMMANDS, *MOMENTS]
    parser.add_argument("wanted", nargs="*", metavar="COMMAND or MOMENT", help=", ".join(known))
    wanted = parser.parse_args().wanted
    if unknown := sorted(set(wanted) - set(known)):
        parser.error(f"neither a command nor a moment: {', '.join(unknown)}")
    commands = [name for name in COMMANDS if not set(wanted) & set(COMMANDS) or name in wanted]
    moments = [name for name in MOMENTS if not set(wanted) & set(MOMENTS) or name in wanted]
    environment = {"MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONPATH": str(ROOT)}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    print("| command | Ctrl-C | exit code | seconds after it | runs | on the screen |")
    print("|---|---|---|---|---|---|")
    for command in commands:
        for moment in moments:
            folder = Path(tempfile.mkdtemp(prefix="interrupts-"))
            words = list(COMMANDS[command])
            if moment in ("while it reports", "after the summary"):
                words = [word.replace("150", "3") for word in words]
            seen = in_terminal(words, MOMENTS[moment], folder=folder, environment=environment)
            how = "how to go on" if re.search("resume [0-9a-f]{8}", seen.text) else ""
            shown = ", ".join([*seen.bad, how]).strip(", ") or "-"
            runs = " ".join(statuses(folder)) or "none"
            print(
                f"| {command} | {moment} | {seen.code} | {seen.seconds:.1f} | {runs} | {shown} |",
                flush=True,
            )
            if os.environ.get("SHOW"):
                print(seen.text)
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
