"""What is said goes to standard error: plain lines where there is no terminal, nothing but warnings when quiet."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

from verlock import console, paths


def test_plain_lines(capsys):
    with console.step("wheels", "181 packages") as step:
        step.detail = "182 packages"
    console.say("done")
    console.warn("[odd] text")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "  wheels     181 packages ...",
        "  wheels     182 packages: 0.0 s",
        "done",
        "warning: [odd] text",
    ]


def test_what_takes_long_is_announced_once_it_is_known(capsys):
    with console.step("wheels") as step:
        assert capsys.readouterr().err == "", "a step that has nothing to say yet says nothing"
        step.announce("181 packages")
        assert capsys.readouterr().err == "  wheels     181 packages ...\n"
        step.detail = "181 packages, 3 fetched"
        assert capsys.readouterr().err == ""
    assert capsys.readouterr().err == "  wheels     181 packages, 3 fetched: 0.0 s\n"


def test_quiet(capsys):
    console.set_quiet(True)
    with console.step("wheels", "181 packages") as step:
        console.say("working")
        step.announce("182 packages")
    assert step.detail == "182 packages"
    console.warn("but this")
    assert capsys.readouterr() == ("", "warning: but this\n")


def test_a_failing_step_does_not_look_done(capsys):
    try:
        with console.step("wheels", "x"):
            raise ValueError
    except ValueError:
        pass
    assert "0.0 s" not in capsys.readouterr().err


def test_on_a_terminal():
    """Steps get a mark and warnings keep their brackets, which are no markup."""
    code = (
        "from verlock import console\nwith console.step('wheels', '3 packages') as step: step.announce('[b] packages')\n"
        "console.warn('keep [this] text')"
    )
    parent, child = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen([sys.executable, "-c", code], cwd=paths.ROOT, stderr=child, env=environment) as process:
        os.close(child)
        said = b""
        while True:
            try:
                if not (block := os.read(parent, 4096)):
                    break
            except OSError:  # Linux says EIO at the end of a terminal
                break
            said += block
    assert process.returncode == 0
    assert "✓".encode() in said and b"[b] packages" in said and b"keep [this] text" in said, said
