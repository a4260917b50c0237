"""`python -m verlock`: the command line without nox."""

from __future__ import annotations

import gc
import os
import signal
import sys
from types import TracebackType

from verlock import straight


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
    if command := straight.way(sys.argv[1:]):
        signal.signal(signal.SIGINT, ctrl_c)
        try:  # noqa: SIM105 (contextlib is not imported yet)
            straight.become(command, os.environ)
        except OSError:  # the long way says what is wrong
            pass
    from verlock.cli import main

    # Looking for cycles among the rows of 240 RECORDs takes `verify` a twentieth of its time, and frees nothing.
    gc.disable()
    end_like_ctrl_c()
    signal.signal(signal.SIGINT, ctrl_c)
    return main()


def _scrubbed(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A bug shows its traceback, but no password that stands in a variable."""
    import traceback

    from verlock.system import addresses

    sys.stderr.write(addresses.scrubbed("".join(traceback.format_exception(kind, error, trace))))


def _settle_streams() -> None:
    """Have the three standard streams, and file names in UTF-8, whatever the caller closed or set."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if (
            getattr(sys, name) is None
        ):  # else the next file that is opened takes its number, and children write into that
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number:
                os.dup2(descriptor, number)
            setattr(sys, name, open(number, mode, encoding="utf-8"))  # noqa: SIM115, PTH123
    if sys.getfilesystemencoding() != "utf-8" and not sys.flags.utf8_mode:
        os.execve(sys.executable, sys.orig_argv, {**os.environ, "PYTHONUTF8": "1"})


if __name__ == "__main__":
    _settle_streams()
    sys.excepthook = _scrubbed
    sys.exit(run())
