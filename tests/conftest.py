"""What all tests share: a project of its own for every test that asks, and no settings of this user's shell."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from verlock import console, paths

settings.register_profile("verlock", deadline=None, max_examples=50)
settings.load_profile("verlock")


def pytest_collection_modifyitems(items):
    for item in items:
        if "e2e" in item.path.parts:
            item.add_marker("e2e")


@pytest.fixture(autouse=True)
def loud():
    """`--quiet` in one test is not `--quiet` in the next."""
    console.set_quiet(False)


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A copy of the clone's data, in which a test may break things, with environments and caches of its own."""
    root = tmp_path / "clone"
    for name in ("recipes", "locks", "environments", "certificates"):
        if (paths.ROOT / name).is_dir():
            shutil.copytree(paths.ROOT / name, root / name)
    for name in ("RECIPES", "LOCKS", "ENVIRONMENTS", "CERTIFICATES"):
        monkeypatch.setattr(paths, name, root / name.lower())
    monkeypatch.setattr(paths, "ROOT", root)
    for name in list(os.environ):
        if name.startswith("VERLOCK_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("VERLOCK_ENVS", str(tmp_path / "envs"))
    monkeypatch.setenv("VERLOCK_CACHE", str(tmp_path / "cache"))
    return root


@pytest.fixture
def edit():
    """Replace a text that must be there, in a file."""

    def replace(path: Path, old: str, new: str) -> None:
        text = path.read_text(encoding="utf-8")
        assert text.count(old) >= 1, f"{old!r} is not in {path}"
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    return replace


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """A nvidia-smi that shows the GPUs it is told to: name, memory and driver each, and a UUID where one matters."""
    folder = tmp_path / "nvidia-smi"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.delenv(name, raising=False)

    def show(*gpus):
        code = f"#!{sys.executable}\nimport sys\nrows = []\n"
        for index, (name, memory, driver, *uuid) in enumerate(gpus):
            row = {"index": index, "uuid": uuid[0] if uuid else f"GPU-{index:08x}", "name": name}
            code += f"rows.append({ {**row, 'memory.total': memory, 'driver_version': driver, 'mig.mode.current': '[N/A]'}!r})\n"
        code += (
            "(asked,) = [each.partition('=')[2] for each in sys.argv if each.startswith('--query-gpu=')]\n"
            "assert '--format=csv,noheader,nounits' in sys.argv\n"
            "for row in rows:\n    print(*(row[field] for field in asked.split(',')), sep=', ')\n"
        )
        return says(code)

    def says(code):
        path = folder / "nvidia-smi"
        path.write_text(code)
        path.chmod(0o755)

    show.says = says
    return show
