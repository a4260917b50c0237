"""A toy environment packed, unpacked at another place with the old one gone, mended there, and verified."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import channel
import pytest
import toy

from verlock.system import host_python

pytestmark = pytest.mark.skipif(toy.compiler() is None, reason="no C compiler to make the toy's shared objects with")


# the script ends, as by a kill, instead of the replacing of a file or link that has this number
DYING = """
_calls = []
_real = Path.replace


def _replace(self, to):
    _calls.append(to)
    if len(_calls) == {step}:
        os._exit(9)
    return _real(self, to)


Path.replace = _replace
"""


def packed(project: toy.Project) -> Path:
    """The archive of a made environment, which is gone afterwards."""
    tar = project.folder / "toy.tar"
    done = project.run("relocate", "toy", "--to", str(tar))
    assert done.returncode == 0, done.stderr
    shutil.rmtree(project.envs)
    return tar


def mended(tar: Path, into: Path, code: int = 0) -> str:
    """Unpack and run the script inside, in a shell that knows nothing else; returns what it said."""
    if not into.exists():
        into.mkdir(parents=True)
        with tarfile.open(tar) as archive:
            archive.extractall(into)
    done = subprocess.run(
        [into / "mend-toy"], capture_output=True, text=True, check=False, env={"PATH": "/usr/bin:/bin"}, cwd="/"
    )
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def works_at(project: toy.Project, envs: Path) -> None:
    """It verifies there, imports there, and nothing in it knows of the old place."""
    old = str(project.envs)
    project.envs, project.prefix = envs, envs / "toy"
    said = project.verify()
    assert f"moved: from {old}/toy" in said
    assert project.imports() == "2.5.1 0.7.3 0.3.0.post1"
    sealed = project.receipt()
    (move,) = sealed["moved"]
    assert (move["from"], move["to"]) == (f"{old}/toy", f"{envs}/toy")
    sealed["moved"] = []
    assert old not in json.dumps(sealed)
    done = subprocess.run([envs / "toy/bin/verlock-run", "python", "-c", "import vllm; print(vllm.__file__)"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout.startswith(f"{envs}/toy/lib")
    for path in envs.rglob("*"):
        if path.is_symlink():
            assert not str(path.readlink()).startswith(old), path
            assert path.exists(), path
        elif path.is_file() and path.name != "verlock.json":
            assert old.encode() not in path.read_bytes(), path


def test_on_the_host_s_python_it_brings_that_along(tmp_path):
    project = toy.Project(tmp_path / "project")
    project.create()
    python = Path(project.receipt()["base"]["from"])
    tar = packed(project)
    new = tmp_path / "new" / "much" / "longer" / "place" / "envs"
    assert "is ready" in mended(tar, new)
    works_at(project, new)
    sealed = project.receipt()
    assert Path(sealed["base"]["from"]).is_relative_to(new / ".python")
    assert str(python.parent) not in (new / "toy/pyvenv.cfg").read_text()
    loaded = host_python.probe(Path(sealed["base"]["from"]))
    assert loaded and (loaded.libpython is None or loaded.libpython.is_relative_to(new))
    assert "mended already" in mended(tar, new)
    said = project.create()
    assert "wheels" not in said and "is ready" in said, "it is looked at once, and not made again"
    assert "up to date" in project.create()
    # and once more, from there
    again = packed(project)
    assert "is ready" in mended(again, tmp_path / "third")
    assert len(json.loads((tmp_path / "third/toy/verlock.json").read_text())["moved"]) == 2


def test_a_mending_that_was_killed_at_any_step_is_finished_by_the_next(tmp_path):
    project = toy.Project(tmp_path / "project")
    project.create()
    tar = packed(project)
    for step in range(1, 40, 4):
        new = tmp_path / f"new{step}"
        new.mkdir()
        with tarfile.open(tar) as archive:
            archive.extractall(new)
        script = new / "mend-toy"
        whole = script.read_text()
        dying = DYING.format(step=step)
        script.write_text(whole.replace("class Refused", f"{dying}\n\nclass Refused", 1))
        done = subprocess.run([script], check=False, capture_output=True)
        script.write_text(whole)
        mended(tar, new)
        fresh = toy.Project.__new__(toy.Project)
        fresh.__dict__ |= {**project.__dict__, "envs": new, "prefix": new / "toy"}
        fresh.verify()
        shutil.rmtree(new)
        if done.returncode == 0:
            break
    else:
        raise AssertionError("more steps than were tried")
    assert step > 8


@pytest.mark.parametrize(("place", "reason"), [("with blank", "needs? quotes"), ("long" * 30, "too long")])
def test_a_place_where_no_script_would_start_is_refused_before_anything_is_touched(tmp_path, place, reason):
    project = toy.Project(tmp_path / "project")
    project.create()
    tar = packed(project)
    said = mended(tar, tmp_path / place, code=1)
    assert ("need quotes" if "quotes" in reason else reason) in said
    assert "moved" not in json.loads((tmp_path / place / "toy/verlock.json").read_text())


def test_what_is_damaged_is_not_packed(tmp_path):
    project = toy.Project(tmp_path / "project")
    project.create()
    path = project.site / "vllm/rank.py"
    text = path.read_text()
    path.unlink()
    path.write_text(text + "# edited\n")
    done = project.run("relocate", "toy", "--to", str(tmp_path / "toy.tar"))
    assert done.returncode == 46 and not (tmp_path / "toy.tar").exists()


def test_a_binary_that_names_its_place_is_refused_by_name(tmp_path):
    project = toy.Project(tmp_path / "project")
    made = project.folder / "wheels"
    inside = {"odd/place.bin": b"\0" + str(project.prefix).encode() + b"\0"}
    odd = toy.wheel(made, "odd", "1", {"odd/__init__.py": b"", toy.ODD: b"odd\n", "odd/empty": b"", **inside})
    project.lock([*(path for path in sorted(made.glob("*.whl")) if path != odd), odd])
    project.create()
    done = project.run("relocate", "toy", "--to", str(tmp_path / "toy.tar"))
    assert done.returncode == 74 and "odd/place.bin names the place" in done.stderr
    assert not list(tmp_path.glob("*toy.tar*"))


def test_on_the_conda_base_it_is_whole_by_itself(tmp_path):
    if host_python.find(toy.MINOR) is None:
        pytest.skip(f"no CPython {toy.MINOR} outside a virtual environment")
    folder = channel.build(tmp_path / "channel", toy.MINOR)
    project = toy.Project(tmp_path / "project")
    project.conda_lock(channel.URL, folder)
    said = project.create("--base", "conda", VERLOCK_CONDA_MIRROR=str(folder))
    assert project.receipt()["base"]["kind"] == "conda", said
    tar = packed(project)
    new = tmp_path / "a" / "new" / "place"
    mended(tar, new)
    works_at(project, new)
    assert not (new / ".python").exists()
