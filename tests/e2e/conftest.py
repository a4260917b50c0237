"""What several of the slow tests need."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from verlock.env import launcher
from verlock.variant import receipt
from verlock.variant.chosen import choose


@pytest.fixture(scope="module")
def chosen():
    """The environment that VERLOCK_REHEARSAL names, or envs/vllm073."""
    chosen = choose("vllm073")
    prefix = Path(os.environ.get("VERLOCK_REHEARSAL") or chosen.prefix).absolute()
    if not (prefix / receipt.NAME).exists() or launcher.NAME not in receipt.read(prefix)["files"]:
        pytest.skip(f"no environment with {launcher.NAME} at {prefix}: `nox -s env-{chosen.name}` makes it")
    patch = pytest.MonkeyPatch()
    patch.setenv("VERLOCK_ENVS", str(prefix.parent))
    yield chosen
    patch.undo()
