"""`python -m verlock`: the command line without nox."""

import sys

from verlock.cli import main

if __name__ == "__main__":
    sys.exit(main())
