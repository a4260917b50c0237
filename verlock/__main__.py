"""`python -m verlock`: the command line without nox."""

from __future__ import annotations

import os
import signal
import sys


def end_like_ctrl_c() -> None:
    """Let SIGTERM and SIGHUP end this process as Ctrl-C does, with its clean-up; processes forked from it end at once.

    The second of them disturbs the clean-up no more: a closed terminal sends SIGHUP, and nox passes its own on.
    """

    def end(number: int, frame: object) -> None:
        for each in heard:
            signal.signal(each, lambda number, frame: None)
        raise KeyboardInterrupt(number)

    # what was started to ignore one, as nohup does with SIGHUP, goes on ignoring it
    heard = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is not signal.SIG_IGN]
    for each in heard:
        signal.signal(each, end)
    os.register_at_fork(after_in_child=lambda: [signal.signal(each, signal.SIG_DFL) for each in heard])


def run() -> int:
    """Run the command line; returns the exit code."""
    ctrl_c = signal.getsignal(signal.SIGINT)
    if ctrl_c is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # until there is something to clean up, the end needs no traceback
    from verlock.cli import main

    end_like_ctrl_c()
    signal.signal(signal.SIGINT, ctrl_c)
    return main()


if __name__ == "__main__":
    sys.exit(run())
