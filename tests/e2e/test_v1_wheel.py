"""The real wheel of `v1`, built twice under different circumstances, against its lock and against the released wheel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from verlock import paths
from verlock.errors import NetworkError, SourceUnavailable
from verlock.sources import git_commit, wheel_store
from verlock.system import files
from verlock.variant import lockfiles, receipt
from verlock.variant.chosen import choose

pytestmark = pytest.mark.e2e

CHOSEN = choose("v1")
V1 = CHOSEN.recipe
LOCKED = lockfiles.sources(CHOSEN.locks)["wheel"]
BUILD = """
import sys
from pathlib import Path
from verlock.sources import source_wheel
from verlock.variant.chosen import choose
v1 = choose("v1")
print(source_wheel.wheel(v1.recipe, Path(sys.argv[1]), v1.pip_layer().build_requirements, None))
"""


def pythons() -> list[Path]:
    """Interpreters of the built v1 environments, that of the variant's first Python first."""
    return [chosen.interpreter for chosen in CHOSEN.pythons() if (chosen.prefix / receipt.NAME).exists()]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Two wheels of the same inputs: other day, folder, HOME, time zone, locale, umask, and another Python where there is one."""
    if not pythons():
        pytest.skip(f"{CHOSEN.prefix} is not built (nox -s env-v1): setup.py needs its torch")
    try:
        git_commit.store(V1.source)
        donor = wheel_store.precompiled(V1.source.precompiled, V1.python[0])
    except (NetworkError, SourceUnavailable) as error:
        pytest.skip(f"{error.problem}; {error.remedy}")
    store = git_commit.store_path(V1.source)
    wheels = []
    for number, (python, zone, locale, umask) in enumerate(
        [(pythons()[0], "Pacific/Kiritimati", "tr_TR.UTF-8", 0o077), (pythons()[-1], "America/St_Johns", "C", 0o002)]
    ):
        home = tmp_path_factory.mktemp("home \u00e9" if number else "h")
        cache = home / "deep" / "er" / "cache" if number else home / "c"
        shutil.copytree(store, cache / "sources" / store.name)
        (cache / "wheels" / donor.parent.name).mkdir(parents=True)
        (cache / "wheels" / donor.parent.name / donor.name).symlink_to(donor)
        (home / ".gitconfig").write_text("[core]\n\tautocrlf = true\n[apply]\n\twhitespace = fix\n")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "VERLOCK_SOURCE"))}
        kept.setdefault("UV_CACHE_DIR", str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "uv"))
        kept |= {
            "HOME": str(home),
            "TZ": zone,
            "LANG": locale,
            "VERLOCK_CACHE": str(cache),
            "PYTHONPATH": str(paths.ROOT),
        }
        done = subprocess.run(
            [sys.executable, "-c", BUILD, a_year_on(home, python) if number else python],
            env=kept,
            cwd=home,
            umask=umask,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        wheels.append(Path(done.stdout.strip().splitlines()[-1]))
    yield wheels, donor
    for wheel in wheels:
        wheel.unlink()


def a_year_on(folder: Path, python: Path) -> Path:
    """The same interpreter, with a clock that is a year ahead."""
    (folder / "clock").mkdir()
    (folder / "clock/sitecustomize.py").write_text(
        "import time; _now = time.time; time.time = lambda: _now() + 31_536_000\n"
    )
    wrapper = folder / "python"
    wrapper.write_text(f'#!/bin/sh\nPYTHONPATH="$PYTHONPATH:{folder}/clock" exec "{python}" "$@"\n')
    wrapper.chmod(0o755)
    return wrapper


def test_one_sha256(built):
    (one, two), _ = built
    assert one != two
    assert one.parent.name == two.parent.name == files.sha256(one) == files.sha256(two) == LOCKED["sha256"]


def test_every_object_is_the_released_one(built):
    (wheel, _), donor = built
    with zipfile.ZipFile(wheel) as ours, zipfile.ZipFile(donor) as released:
        objects = [name for name in released.namelist() if name.endswith(".so")]
        assert len(objects) == 5
        assert [name for name in ours.namelist() if name.endswith(".so")] == sorted(objects)
        for name in objects:
            assert ours.read(name) == released.read(name)
        assert ours.testzip() is None


def test_the_patch_is_in_and_everything_else_is_the_commits(built, tmp_path):
    (wheel, _), _ = built
    git_commit.checkout(V1.source, tmp_path)
    touched = {
        item["path"]: item["after"] for entry in lockfiles.sources(CHOSEN.locks)["patches"] for item in entry["touches"]
    }
    with zipfile.ZipFile(wheel) as ours:
        ours.extractall(tmp_path / "out")
    commits = {path.relative_to(tmp_path).as_posix() for path in (tmp_path / "vllm").rglob("*") if path.is_file()}
    for name in commits:
        if name in touched:
            assert files.sha256_if_there(tmp_path / "out" / name) == touched[name]
        else:
            assert (tmp_path / "out" / name).read_bytes() == (tmp_path / name).read_bytes(), name
    own = {
        path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out/vllm").rglob("*") if path.is_file()
    }
    more = {name for name in own - commits if not name.endswith(".so")}
    flash = "vllm/vllm_flash_attn"
    assert more == {"vllm/_version.py", f"{flash}/__init__.py", f"{flash}/flash_attn_interface.py"}


def test_its_requirements_are_what_the_environment_asks_for(built):
    """environments/v1/requirements.in names by hand what the wheel, installed without its dependencies, needs."""
    (wheel, _), _ = built
    with zipfile.ZipFile(wheel) as ours:
        metadata = next(name for name in ours.namelist() if name.endswith(".dist-info/METADATA"))
        lines = ours.read(metadata).decode().splitlines()
    wanted = [Requirement(line.removeprefix("Requires-Dist: ")) for line in lines if line.startswith("Requires-Dist: ")]
    text = (paths.ENVIRONMENTS / "v1/requirements.in").read_text().splitlines()
    here = [Requirement(line) for line in text if line and not line.startswith(("#", "-r"))]
    for python in V1.python:
        assert needed(wanted, python) == needed(here, python)


def needed(items: list[Requirement], python: str) -> set[tuple[str, str, str]]:
    """What of it counts on this Python, without extras of the package itself."""
    place = {"python_version": python, "extra": ""}
    return {
        (canonicalize_name(item.name), str(item.specifier), ",".join(sorted(item.extras)))
        for item in items
        if item.marker is None or item.marker.evaluate(place)
    }
