"""Options of the suite of faults (`--list`, `--quick`, `--plant`), its one scene, and its count at the end."""

from __future__ import annotations

import concurrent.futures
import os
import queue

import judge
import matrix
import plants
import pytest
import scene as scenes
import toy


def pytest_addoption(parser):
    group = parser.getgroup("faults")
    group.addoption("--list", action="store_true", help="show the matrix of faults and try none")
    group.addoption("--quick", action="store_true", help="try only the faults that every submission must survive")
    group.addoption("--plant", choices=sorted(plants.PLANTS), help="plant this defect in the toy's verlock first")


def pytest_configure(config):
    if config.getoption("list", False):
        print(matrix.table())
        pytest.exit("", returncode=0)


def pytest_collection_modifyitems(config, items):
    if config.getoption("quick", False):
        cells = [(item, item.callspec.params.get("cell") if hasattr(item, "callspec") else None) for item in items]
        items[:] = [item for item, cell in cells if cell is None or cell.quick]


@pytest.fixture(scope="session")
def tries(request, tmp_path_factory):
    """A future for each cell that is asked for: what is wrong with it. As many are tried at once as there are cores."""
    if toy.compiler() is None:
        pytest.skip("no C compiler to make the toy's shared objects with")
    edits = plants.PLANTS.get(request.config.getoption("plant", None) or "", ())
    stages: queue.SimpleQueue[scenes.Scene] = queue.SimpleQueue()
    cores = len(os.sched_getaffinity(0))
    for _ in range(cores):
        stages.put(scenes.Scene(tmp_path_factory.mktemp("faults"), edits))

    def judged(cell):
        stage = stages.get()
        try:
            return judge.tried(stage, cell)
        finally:
            stages.put(stage)

    pool = concurrent.futures.ThreadPoolExecutor(cores)
    asked = [item.callspec.params["cell"] for item in request.session.items if "survives" in item.name]
    yield {id(cell): pool.submit(judged, cell) for cell in asked}
    pool.shutdown(cancel_futures=True)


def pytest_terminal_summary(terminalreporter):
    """The count: a fault is a row of the matrix, and survived where it was survived at every step that was tried."""
    survived = {}
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.getreports(outcome):
            if "test_survives[" in report.nodeid and (report.when == "call" or outcome == "error"):
                step, _, kind = report.nodeid.partition("[")[2][:-1].partition(" / ")
                survived.setdefault(kind, {})[step] = outcome == "passed"
    if survived:
        cells = [good for steps in survived.values() for good in steps.values()]
        whole = sum(all(steps.values()) for steps in survived.values())
        terminalreporter.write_line(
            f"{len(survived)} faults, {whole} survived ({sum(cells)} of {len(cells)} at single steps)"
        )
