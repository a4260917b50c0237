"""vllm073 and v1 out of a bundle, on a machine without a network, from an empty home: the environments that an index gives.

Takes 20 GB (bundle, wheel store, uv's cache), root (for a namespace without a network), a clone with nothing uncommitted, and
the caches that hold, or an index that gives, the wheels. VERLOCK_BUNDLE_TEST names a folder to work in; a bundle that is there is
brought up to date, and not deleted.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from verlock import paths
from verlock.system import files, host_python

pytestmark = pytest.mark.slow(
    "3.9 GB are packed, two environments made from them with empty caches, and every file is compared"
)

VARIANTS = ("vllm073", "v1")
PLACES = {"pyvenv.cfg", "bin/python", "bin/python3", "bin/python3.10"}  # name the interpreter's place
TIMES = {"created", "fingerprint"}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    if os.geteuid() or subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False).returncode:
        pytest.skip("a namespace without a network needs root")
    status = subprocess.run(
        ["git", "status", "--porcelain"], cwd=paths.ROOT, capture_output=True, text=True, check=False
    )
    if status.returncode or status.stdout:
        pytest.skip("this is no clone, or something in it is not committed")
    given = os.environ.get("VERLOCK_BUNDLE_TEST")
    return Path(given) if given else tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def other():
    """A second Python to start nox and the tools on."""
    found = host_python.find("3.12")  # no shim, which works in its owner's home alone
    if not found or sys.version_info[:2] == (3, 12):
        pytest.skip("no second Python 3.12 here")
    return str(found.executable)


def verlock(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "verlock", *words],
        cwd=paths.ROOT,
        env={**os.environ, **more},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def without_network(python: str, *words: str, home: Path, **more: str) -> str:
    """Run a program as somebody with an empty home would, where there is not even a loopback."""
    home.mkdir(exist_ok=True)
    command = ["unshare", "-n", "env", "-i", f"HOME={home}", "PATH=/usr/bin:/bin", "LANG=C.UTF-8"]
    command += [f"{name}={value}" for name, value in more.items()]
    done = subprocess.run([*command, python, *words], cwd=home, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def of_place(name: str, sealed: dict) -> bool:
    """Does a file name the place of the interpreter, or of a wheel that was built here? Or a time?"""
    own = sealed["source"]["package"] if sealed["source"] else None
    info = f"/{own}-" in name and ".dist-info/" in name
    return name in {*PLACES, "verlock.json"} or bool(
        own and info and name.endswith(("direct_url.json", "uv_cache.json", "RECORD"))
    )


def every_file(prefix: Path) -> dict[str, str]:
    sealed = json.loads((prefix / "verlock.json").read_text())
    found = {}
    for path in sorted(prefix.rglob("*")):
        name = str(path.relative_to(prefix))
        if path.is_file() and "__pycache__" not in name and not of_place(name, sealed):
            found[name] = files.sha256(path)
    return found


def receipt(prefix: Path) -> dict:
    """The receipt less time and place."""
    sealed = json.loads((prefix / "verlock.json").read_text())
    sealed = {key: value for key, value in sealed.items() if key not in TIMES}
    sealed["base"] = {key: sealed["base"][key] for key in ("kind", "version")}
    sealed["files"] = {name: value for name, value in sealed["files"].items() if name not in PLACES}
    sealed["missing"] = sorted(sealed["missing"])  # why differs: nobody was asked
    if sealed["source"]:
        sealed["packages"][sealed["source"]["package"]].pop("record")
    return sealed


def test_both_are_made_without_a_network_and_are_those_that_the_index_gives(work, other):
    envs, home = work / "envs", work / "home"
    shutil.rmtree(envs, ignore_errors=True)
    online = {}
    for name in VARIANTS:
        verlock("create", name, "--base", "host", VERLOCK_ENVS=str(envs))
        online[name] = every_file(envs / name), receipt(envs / name)
    shutil.rmtree(envs)

    minor = "{}.{}".format(*sys.version_info)
    verlock("bundle", *VARIANTS, "--base", "host", "--to", str(work / "bundle"), "--tools-for", minor, "3.12")
    starter = str(work / "bundle/verlock")
    shutil.rmtree(home, ignore_errors=True)
    try:
        for name in VARIANTS:
            said = without_network(sys.executable, starter, "env", name, "--into", str(home / "clone"),
                                   home=home, VERLOCK_ENVS=str(envs))  # fmt: skip
            assert f"{name} is ready" in said
            there, sealed = every_file(envs / name), receipt(envs / name)
            assert there.keys() == online[name][0].keys()
            assert {path for path in there if there[path] != online[name][0][path]} == set()
            assert sealed == online[name][1]
        # nox out of the bundle on a second Python; a clone without .nox; the environments are there by now
        without_network(
            other, starter, "env", "vllm073", "--into", str(home / "second"), home=home, VERLOCK_ENVS=str(envs)
        )
        subprocess.run(["git", "clone", "--quiet", str(paths.ROOT), str(home / "fresh")], check=True)
        nox = str(home / "second/.nox/front/bin/nox")
        words = (
            "-f",
            str(home / "fresh/noxfile.py"),
            "-s",
            "env-vllm073",
            "--",
            "--from",
            str(work / "bundle"),
            "--offline",
        )
        said = without_network(
            str(home / "second/.nox/front/bin/python"), nox, *words, home=home, VERLOCK_ENVS=str(envs)
        )
        assert "vllm073 is up to date" in said
        assert (home / "fresh/.nox/tools/verlock-tools").is_file()
    finally:
        shutil.rmtree(home, ignore_errors=True)
        shutil.rmtree(envs, ignore_errors=True)
