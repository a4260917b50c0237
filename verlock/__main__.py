"""`python -m verlock`: the command line without nox."""

import sys
from types import TracebackType

from verlock.cli import main


def _scrubbed(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A bug shows its traceback, but no password that stands in a variable."""
    import traceback

    from verlock.system import addresses

    sys.stderr.write(addresses.scrubbed("".join(traceback.format_exception(kind, error, trace))))


if __name__ == "__main__":
    sys.excepthook = _scrubbed
    sys.exit(main())
