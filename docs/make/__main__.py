"""`python -m docs.make` writes the generated parts of all pages again; `--check` only says which are not current."""

from __future__ import annotations

import argparse
import sys

from docs.make import blocks
from verlock import paths


def main() -> int:
    """Returns 1 where `--check` finds a page that is not current."""
    parser = argparse.ArgumentParser(prog="python -m docs.make", description="write the generated parts of docs/ again")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where something would change")
    check = parser.parse_args().check
    changed = blocks.stale()
    for page, text in changed.items():
        print(f"{paths.shown(page)} {'is not current: run `nox -s docs`' if check else 'written'}")
        if not check:
            page.write_text(text, encoding="utf-8")
    return 1 if check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
