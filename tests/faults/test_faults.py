"""Every fault of the matrix (`nox -s faults -- --list`) at every step: does verlock survive it?"""

from __future__ import annotations

import matrix
import plants
import pytest

from verlock import paths

pytestmark = pytest.mark.faults
CELLS = matrix.cells()


@pytest.mark.parametrize("cell", list(CELLS.values()), ids=list(CELLS))
def test_survives(tries, cell):
    wrong = tries[id(cell)].result()
    assert not wrong, "\n".join(wrong)


def test_every_empty_cell_has_its_reason():
    for kind in matrix.KINDS:
        assert set(kind.cells) <= set(matrix.STEPS)
        for step in set(matrix.STEPS) - set(kind.cells):
            assert kind.reason(step), f"{kind.name} has neither a cell nor a reason for {step}"


def test_no_kind_is_there_twice():
    names = [kind.name for kind in matrix.KINDS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", plants.PLANTS)
def test_planted_defects_still_fit_the_code(name):
    for file, old, _ in plants.PLANTS[name]:
        assert old in (paths.ROOT / file).read_text(encoding="utf-8"), f"{old!r} is not in {file}"
