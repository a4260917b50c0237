"""Bundles of a toy variant: made, checked, damaged in every way, and environments made from them with nothing else at hand."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import bundles
import channel
import pytest
import scene as scenes
import toy

from verlock.system import host_python

pytestmark = pytest.mark.skipif(toy.compiler() is None, reason="no C compiler to make the toy's shared objects with")

# what is built on arrival: an sdist, with what it is built by; a git source, with its released wheel
BUILT = ("wheels/gamma", "wheels/setuptools", "sources/toy", "wheels/toy")
KINDS = (
    "wheels/torch",
    "wheels/odd",
    "artefacts/flash",
    "python/cpython",
    "tools/frontend",
    "repository-",
    "verlock",
    *BUILT,
)
BY_PATH = ("flash-attn", "toy")  # packages whose wheel is named by its path: their direct_url.json tells a place
OF_A_PLACE = tuple(f"{name.replace('-', '_')}-" for name in BY_PATH)  # their folders of metadata
# the exit code of an environment that is to be made of a file that is damaged, missing or swapped
REFUSED = {
    "wheels/torch": (26, 26, 25),  # 26: uv finds no whole archive, and so does not come to compare its sha256
    "wheels/gamma": (25, 26, 26),
    "wheels/setuptools": (26, 26, 26),
    "wheels/toy": (25, 24, 25),
    "sources/toy": (25, 25, 25),
    "python/cpython": (25, 25, 25),
}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    with bundles.carrying(tmp_path_factory.mktemp("carried"), built=True) as made:
        yield made


@pytest.fixture(scope="module")
def bundle(project, tmp_path_factory):
    """A bundle that no test changes."""
    to = tmp_path_factory.mktemp("made") / "bundle"
    said = project.bundle(to)
    assert "the wheel store" in said and "GB" in said
    return to


@pytest.fixture
def copy(bundle, tmp_path):
    """A bundle to be damaged."""
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


def of_kind(bundle: Path, kind: str) -> Path:
    (found,) = [path for path in bundle.rglob("*") if path.is_file() and str(path.relative_to(bundle)).startswith(kind)]
    return found


def test_it_is_what_its_manifest_says_and_its_starter_says_so_too(project, bundle):
    assert "is what its manifest says" in project.checked(bundle)
    done = bundles.started(bundle, "verify")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_a_missing_and_a_swapped_file_of_each_kind_is_named(project, bundle, copy, kind):
    path = of_kind(copy, kind)
    name, good = str(path.relative_to(copy)), path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert f"altered: {name}" in project.checked(copy, code=71)
    path.unlink()
    assert f"missing: {name}" in project.checked(copy, code=70)
    other = of_kind(bundle, next(each for each in KINDS if each != kind))
    shutil.copyfile(other, path)
    assert f"altered: {name}" in project.checked(copy, code=71)
    if kind != "verlock":  # the starter itself is damaged there
        done = bundles.started(copy, "verify")
        assert (done.returncode, done.stdout) == (71, f"altered: {name}\n")


def test_what_does_not_belong_there_is_named_and_a_cut_manifest_refused(project, copy):
    (copy / "wheels/more-1-py3-none-any.whl").write_bytes(b"")
    assert "extra: wheels/more-1-py3-none-any.whl" in project.checked(copy, code=72)
    manifest = copy / "manifest.json"
    manifest.write_text(manifest.read_text()[:-9])
    assert "is damaged" in project.checked(copy, code=73)
    manifest.unlink()
    assert "no bundle" in project.checked(copy, code=73)


def test_an_environment_from_it_is_the_one_from_the_index(project, bundle):
    project.create_online()
    online, there = project.receipt(), sealed_files(project)
    shutil.rmtree(project.prefix)
    project.create_from(bundle)
    carried = project.receipt()
    assert sealed_files(project) == there
    own = project.envs / ".python"
    assert Path(carried["base"]["from"]).is_relative_to(own) and (
        project.prefix / "bin/python"
    ).resolve().is_relative_to(own)
    places = {"created", "fingerprint", "base", "files"}  # of a time and of a place
    places |= {"packages"} if online["packages"] != carried["packages"] else set()
    assert {**online, **dict.fromkeys(places)} == {**carried, **dict.fromkeys(places)}
    differing = {name for name in online["files"] if online["files"][name] != carried["files"][name]}
    assert differing <= {"pyvenv.cfg", "bin/python", "bin/python3"}
    for name, entry in online["packages"].items():
        assert entry == carried["packages"][name] or name in BY_PATH
    assert (project.site / "gamma.py").exists() and "SIZE = 8" in (project.site / "toy/__init__.py").read_text()
    project.verify()
    assert "up to date" in project.create_from(bundle)
    shutil.rmtree(project.prefix)
    shutil.rmtree(own)


def sealed_files(project) -> dict[str, str]:
    """The sha256 of every installed file, but for what names a place or a time."""
    found = {}
    for path in sorted(project.site.rglob("*")):
        name = str(path.relative_to(project.site))
        if (
            path.is_file()
            and "__pycache__" not in name
            and not (name.startswith(OF_A_PLACE) and name.endswith((".json", "RECORD")))
        ):
            found[name] = toy.sha256(path.read_bytes())
    return found


def test_a_damaged_interpreter_of_an_environment_is_unpacked_again(project, bundle):
    project.create_from(bundle)
    program = Path(project.receipt()["base"]["from"])
    good = program.read_bytes()
    program.write_bytes(good[:-1] + b"x")
    assert program.name in project.verify(code=46)
    project.create_from(bundle)
    assert program.read_bytes() == good
    project.verify()


@pytest.mark.parametrize("kind", REFUSED)
def test_nothing_is_made_of_a_damaged_a_missing_and_a_swapped_file(project, bundle, copy, kind):
    path = of_kind(copy, kind)
    damaged, (name, version) = bytearray(path.read_bytes()), path.name.removesuffix(".tar.gz").split("-")[:2]
    damaged[len(damaged) // 2] ^= 1
    swapped = of_kind(bundle, "wheels/odd").read_bytes()
    for data, code in zip((bytes(damaged), None, swapped), REFUSED[kind], strict=True):
        shutil.rmtree(project.envs, ignore_errors=True)
        path.unlink() if data is None else path.write_bytes(data)
        said = project.create_from(copy, code=code)
        assert path.name in said or f"{name}=={version}" in said
        assert "copy the bundle here again" in said or f"bundle -- --verify {copy}" in said
        assert code != 24 or "this run is offline" in said
        assert not (project.prefix / "verlock.json").exists()


@pytest.mark.parametrize("tool", ["pip", "uv"])
def test_pip_and_uv_install_from_its_pylock_and_build_what_is_an_sdist(project, bundle, tmp_path, tool):
    file = tmp_path / "pylock.toml"
    done = project.run("export", "toy", "--to", "pylock", "--from", str(bundle), "--output", str(file))
    assert done.returncode == 0 and "not in it: toy, which is built from commit" in done.stderr, done.stderr
    venv.create(tmp_path / "venv")
    python = tmp_path / "venv/bin/python"
    words = ["pip", "--isolated", "--python", python] if tool == "pip" else ["uv", "pip"]
    more = ["--no-cache-dir"] if tool == "pip" else ["--offline", "--no-config", "--python", python, "--no-cache"]
    places = ["--no-index", "--find-links", bundle / "wheels"]
    done = subprocess.run(
        [sys.executable, "-m", *words, "install", *more, *places, "-r", file],
        capture_output=True,
        text=True,
        env=project.environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    code = "import gamma, flash_attn, verl; print(gamma.made)"
    done = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "from an sdist\n"


def test_what_it_does_not_have_is_refused_by_name(project, copy, tmp_path):
    assert "no finished bundle" in project.create_from(tmp_path, code=73)
    assert "does not have toy for Python 3.4" in project.create_from(copy, "--python", "3.4", code=73)
    manifest = copy / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"digest": "', '"digest": "0'))
    assert "made from another lock" in project.create_from(copy, code=73)


def test_two_bundles_from_two_folders_are_the_same_to_the_byte(bundle, tmp_path):
    with bundles.carrying(tmp_path / "another, longer place", built=True) as project:
        project.bundle(tmp_path / "other", TZ="Asia/Tokyo", HOME=str(tmp_path))
        assert bundles.contents(tmp_path / "other") == bundles.contents(bundle)


def test_parts_are_as_small_as_asked_and_joined_they_are_the_bundle(project, bundle, tmp_path):
    parts = tmp_path / "parts"
    project.bundle(parts, "--part-size", "8MiB")
    sizes = [path.stat().st_size for path in sorted(parts.glob("bundle.tar.*"))]
    assert len(sizes) > 3 and max(sizes) == 8 << 20 and set(sizes[:-1]) == {8 << 20}
    project.checked(parts)
    assert "in parts" in project.create_from(parts, code=73)
    done = bundles.started(parts, "join", "--to", str(tmp_path / "joined"))
    assert done.returncode == 0, done.stderr
    assert bundles.contents(tmp_path / "joined") == bundles.contents(bundle)
    last = sorted(parts.glob("bundle.tar.*"))[-1]
    last.write_bytes(last.read_bytes()[:-1] + b"x")
    done = bundles.started(parts, "join", "--to", str(tmp_path / "again"))
    assert done.returncode == 73 and f"{last} is altered" in done.stderr
    last.unlink()
    done = bundles.started(parts, "join", "--to", str(tmp_path / "again"))
    assert done.returncode == 73 and f"{last} is missing" in done.stderr


def test_a_full_disk_half_way_loses_nothing_and_the_next_run_goes_on(tmp_path):
    with bundles.carrying(tmp_path / "project") as project:
        try:
            with scenes.small_disk(tmp_path / "disk", "size=90m"):
                to = tmp_path / "disk/bundle"
                project.bundle(to)
                before = bundles.contents(to)
                (project.root / "large").write_bytes(b"large" * 12_000_000)
                project.commit()
                assert "free some space" in project.bundle(to, code=21)
                left = bundles.contents(to)
                assert {name: left[name] for name in before} == before
                assert {name for name in left if name not in before} >= {"manifest.json.part"}
                assert all(name.endswith(".part") for name in left if name not in before)
                subprocess.run(["mount", "-o", "remount,size=300m", tmp_path / "disk"], check=True)
                project.bundle(to)
                project.checked(to)
                assert not list(to.glob("*.part"))
        except PermissionError as error:
            pytest.skip(f"mounting is not allowed here: {error}")


def test_the_starter_refuses_what_it_cannot_do_and_touches_nothing(bundle, tmp_path):
    before = bundles.contents(bundle)
    done = bundles.started(bundle, "env", "vllm073", cwd=tmp_path)
    assert done.returncode == 73 and "this bundle has toy, and not vllm073" in done.stderr
    done = bundles.started(bundle, "env", "toy", cwd=bundle)
    assert done.returncode == 73 and "is within the bundle" in done.stderr
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("my own")
    done = bundles.started(bundle, "env", "toy", "--into", str(tmp_path / "mine"), cwd=tmp_path)
    assert done.returncode == 73 and "was not unpacked from this bundle" in done.stderr
    done = bundles.started(bundle, "join", "--to", str(tmp_path / "joined"))
    assert done.returncode == 73 and "not in parts" in done.stderr
    assert bundles.contents(bundle) == before and not (tmp_path / "joined").exists()


def test_what_is_not_committed_and_a_folder_with_other_files_are_refused(project, tmp_path):
    (tmp_path / "thesis.tex").write_text("my own")
    assert "holds other files" in project.bundle(tmp_path, code=73)
    (project.root / "new.txt").write_text("not committed")
    try:
        assert "in no commit" in project.bundle(tmp_path / "bundle", code=73)
    finally:
        (project.root / "new.txt").unlink()
    assert not (tmp_path / "bundle/manifest.json").exists()


def test_the_conda_layer_is_carried_and_no_channel_is_asked(tmp_path):
    if host_python.find(toy.MINOR) is None:
        pytest.skip(f"no CPython {toy.MINOR} outside a virtual environment")
    folder = channel.build(tmp_path / "channel", toy.MINOR)
    with bundles.carrying(tmp_path / "project") as project:
        project.conda_lock(channel.URL, folder)
        project.relist()
        project.commit()
        project.bundle(tmp_path / "bundle", "--base", "conda", VERLOCK_CONDA_MIRROR=str(folder))
        folder.rename(tmp_path / "gone")
        names = [path for path in bundles.contents(tmp_path / "bundle") if path.startswith(("conda/", "python/"))]
        assert len(names) == 4 and all(name.startswith(("conda/linux-64/python-", "conda/noarch/")) for name in names)
        said = project.create_from(tmp_path / "bundle")
        assert project.receipt()["base"]["kind"] == "conda", said
        project.verify()
        for name in names:
            path = tmp_path / "bundle" / name
            good = path.read_bytes()
            path.write_bytes(good[:-1] + b"x")
            assert f"altered: {name}" in project.checked(tmp_path / "bundle", code=71)
            path.write_bytes(good)
        path.write_bytes(good[:-1] + b"x")
        shutil.rmtree(project.prefix)
        assert path.name in project.create_from(tmp_path / "bundle", "--base", "conda", code=25)


def test_a_site_wheel_is_carried_and_taken(project, tmp_path):
    own = toy.wheel(tmp_path / "own", "flash-attn", "2.8.3", {"flash_attn/__init__.py": b"own = 1\n"})
    project.bundle(tmp_path / "bundle", "--site-wheel", f"flash-attn={own}")
    carried = json.loads((tmp_path / "bundle/manifest.json").read_text())["variants"]["toy"][toy.MINOR]["site_wheels"]
    own.unlink()
    assert "site wheel: flash-attn 2.8.3" in project.create_from(tmp_path / "bundle")
    assert (project.site / "flash_attn/__init__.py").read_text() == "own = 1\n"
    path = tmp_path / "bundle" / carried["flash-attn"]
    path.write_bytes(path.read_bytes() + b"x")
    assert f"altered: {carried['flash-attn']}" in project.checked(tmp_path / "bundle", code=71)
