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


# tests of e2e that use the real environments, which some of them damage for a moment, or start a Ray or a Slurm
WHOLE_MACHINE = {
    f"test_{name}.py"
    for name in ("bench_environments", "doctor", "launch", "nodes", "patch_behaviour", "ray", "readme", "real", "rehearsal",
                 "sbom", "slurm", "smoke_environments", "v1_wheel")
}  # fmt: skip


def pytest_collection_modifyitems(items):
    for item in items:
        e2e = "e2e" in item.path.parts
        if e2e:
            item.add_marker("e2e")
        # where pytest runs in several processes, one of them has all tests of a group: what is dear to make is made once
        group = "whole machine" if e2e and item.path.name in WHOLE_MACHINE else str(item.path)
        if not (e2e and item.path.name == "test_create.py" and item.cls is None):  # many, which share nothing
            item.add_marker(pytest.mark.xdist_group(group))


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
