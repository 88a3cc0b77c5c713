"""`python -m pbt_flow`, and the program `pbt-flow`."""

from __future__ import annotations

import atexit
import os
import signal
import sys

from pbt_flow.cli import suggestions
from pbt_flow.cli.launched import Launch
from pbt_flow.cli.program import program
from pbt_flow.utils.collection import collection_paused
from pbt_flow.utils.interrupts import Interrupts, handle_by


def main() -> int:
    """Run the command line, and return its exit code; Ctrl-C never ends it with a traceback."""
    if sys.argv[1:2] == [suggestions.COMMAND]:
        # Before all that takes long: someone has pressed Tab.
        return suggestions.print_suggestions(sys.argv[2:])
    launch = Launch()
    handler = Interrupts(launch.is_there)

    def leave(number: int) -> None:
        # Nothing has been written, and an exception may be lost in the middle of an import.
        os.write(2, f"\n{program()}: interrupted before anything was begun\n".encode())
        launch.tell("KILLED")
        os._exit(130)

    def tell_at_last() -> None:
        # Python puts the handlers of before back as it ends, and an interrupt would then be how
        # this process ended. What is ignored stays so.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # Whoever presses when all has been said makes the launcher write that the run has failed.
        if code == 0 and handler.asked:
            launch.tell("FINISHED")

    code: int | None = None
    # What is registered first is called last.
    atexit.register(tell_at_last)
    with handler.doing(leave):
        # Never taken back: this process has no traceback to show until it is gone.
        handle_by(handler)
        with collection_paused():
            from pbt_flow.cli.main import run_command
    code = run_command(sys.argv[1:], handler, launch)
    return code


if __name__ == "__main__":
    sys.exit(main())
