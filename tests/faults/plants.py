"""Planted defects: an edit of the product each, by which some rows of the table must turn red. The test of the test.

`nox -s faults -- --plant NAME` makes the edit in the toy's copy of verlock, never in the clone: file, old text, new text.
"""

from __future__ import annotations

PLANTS: dict[str, list[tuple[str, str, str]]] = {
    # every row whose next run must complete: all of them
    "nothing-is-sealed": [("verlock/variant/receipt.py", "durable=True)", "durable=True), (prefix / NAME).unlink()")],
    # rows in which verlock refuses something: networks, disks, bad data
    "errors-are-tracebacks": [
        ("verlock/cli.py", "except VerlockError as error:", "except ZeroDivisionError as error:")
    ],
    "system-errors-are-bugs": [("verlock/cli.py", "except OSError as error:", "except ZeroDivisionError as error:")],
    # signals
    "ctrl-c-is-a-bug": [
        ("verlock/cli.py", "except KeyboardInterrupt as interrupt:", "except ZeroDivisionError as interrupt:")
    ],
    "older-is-not-put-back": [("verlock/env/prefix_folder.py", "aside.rename(prefix)", "discard(aside, prefix.name)")],
    # networks
    "no-network-error": [("verlock/system/uv.py", "if _DNS_OR_CONNECT.search(text):", "if not text:")],
    "no-artefact-is-an-error": [
        ("verlock/env/create.py", "if making.options.strict or not artefact.optional:", "if making:")
    ],
    # damage
    "hashes-unread": [("verlock/env/verify.py", "if got != want.sha256:", "if not got:")],
    "strays-unseen": [("verlock/env/verify.py", "if path in expected or path in own", "if path in expected or path")],
    "kept-unhashed": [("verlock/env/artefacts.py", "if files.sha256(kept) == file.sha256:", "if kept:")],
    "damage-stays": [
        ("verlock/env/create.py", "_wheels(making, step, again=spoilt | ", "_wheels(making, step, again=")
    ],
    # disks, surroundings, two at once
    "no-lock": [("verlock/system/files.py", "fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)", "str(file)")],
    "no-file-system-without-locks": [("verlock/system/files.py", "if error.errno not in NO_LOCKS:", "if error:")],
    "users-uv-settings": [("verlock/system/process.py", 'f"UV_{name}": _DECIDED', 'f"NO_{name}": _DECIDED')],
    # bad data
    "half-a-receipt": [("verlock/variant/receipt.py", "except (OSError, ValueError):", "except OSError:")],
}
