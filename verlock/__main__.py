"""`python -m verlock`: the command line without nox."""

import os
import signal
import sys

from verlock.cli import main

ENDING = (signal.SIGTERM, signal.SIGHUP)


def end_like_ctrl_c() -> None:
    """Let SIGTERM and SIGHUP end this process as Ctrl-C does, with its clean-up; processes forked from it end at once.

    The second of them disturbs the clean-up no more: a closed terminal sends SIGHUP, and nox passes its own on.
    """

    def end(number: int, frame: object) -> None:
        for each in heard:
            signal.signal(each, lambda number, frame: None)
        raise KeyboardInterrupt(number)

    heard = [number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN]  # nohup ignores SIGHUP
    for number in heard:
        signal.signal(number, end)
    os.register_at_fork(after_in_child=lambda: [signal.signal(number, signal.SIG_DFL) for number in heard])


if __name__ == "__main__":
    end_like_ctrl_c()
    sys.exit(main())
