"""Read by Python at its start, where PYTHONPATH names this folder: does to a running verlock what a test asks for in FAULT.

FAULT is JSON: what to `do` at the first audit event of a name whose arguments contain a text. Audit events are what the
process does to the system (opens, renames, starts of programs), so nothing here knows verlock's functions.

hold: wait there until a signal comes; the file `held` says that it is reached. refuse: fail with an errno, at every such
event. slow: take 20 ms for each, as a busy disk does. clock: so many seconds off.
"""

import functools
import json
import os
import sys
import time


def _hook(order):
    own, busy = os.getpid(), []

    def matches(event, arguments):
        if event != order["event"]:
            return False
        if event == "subprocess.Popen":
            arguments = [" ".join(map(str, arguments[1]))]
        return order.get("text", "") in " ".join(map(str, arguments))

    def hook(event, arguments):
        if busy or os.getpid() != own or not matches(event, arguments):
            return
        if order["do"] == "refuse":
            raise OSError(order["errno"], os.strerror(order["errno"]), str(arguments[0]))
        if order["do"] == "slow":
            time.sleep(0.02)
            return
        busy.append(True)
        with open(order["held"], "w") as file:  # noqa: PTH123 (no import that a plain Python does not have)
            file.write(event)
        for _ in range(600):
            time.sleep(0.05)
            if os.path.exists(order["held"] + ".go"):  # noqa: PTH110
                return

    return hook


def _off(real, seconds):
    return real() + seconds


def _begin():
    if "FAULT" not in os.environ or sys.orig_argv[1:3] != ["-m", "verlock"]:
        return
    for order in json.loads(os.environ["FAULT"]):
        if order["do"] == "clock":
            time.time = functools.partial(_off, time.time, order["seconds"])
        else:
            sys.addaudithook(_hook(order))


_begin()
