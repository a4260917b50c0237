"""`verlock create` and `verify` on a toy variant: the real uv, real wheels and shared objects, no network."""

from __future__ import annotations

import json
import marshal
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import channel
import pytest
import toy

from verlock.system import uv

pytestmark = pytest.mark.skipif(toy.compiler() is None, reason="no C compiler to make the toy's shared objects with")

BYTES = "torch/lib/libtorch_python.so"


@pytest.fixture
def made(tmp_path):
    """A project whose toy environment is made."""
    project = toy.Project(tmp_path)
    project.create()
    return project


@pytest.fixture
def fresh(tmp_path):
    """A project with nothing made yet."""
    return toy.Project(tmp_path)


def test_what_only_a_run_of_the_trainer_would_import_is_missed_before_the_environment_is_called_ready(fresh):
    """As TransferQueue was, which verl 0.9 imports inside a function, and which its metadata names in an extra alone."""
    fresh.lock(toy.wheels(fresh.folder, trainer="def run():\n    import transfer_queue\n"))
    said = fresh.create(code=27)
    assert "what verl's trainer imports fails" in said and "No module named 'transfer_queue'" in said
    fresh.verify(code=40)


ASIDE = """
[[override]]
requirer = "odd"
requirement = "torch<2"
reason = "test"
link = "https://example.org"
"""


def test_just_what_is_set_aside_may_be_unmet(fresh):
    wheels = toy.wheels(fresh.folder)
    wheels[-1] = toy.wheel(fresh.folder / "wheels", "odd", "1", {"odd/__init__.py": b""}, "torch<2")
    fresh.lock(wheels)
    assert "torch<2" in fresh.create(code=26)
    fresh.recipe.write_text(fresh.recipe.read_text() + ASIDE)
    assert "set aside: odd asks for torch<2" in fresh.create()
    assert fresh.receipt()["overrides"][0]["requirement"] == "torch<2"
    fresh.verify()
    fresh.recipe.write_text(fresh.recipe.read_text() + ASIDE.replace("torch<2", "vllm<0.1"))
    assert "is to be unmet: odd torch<2; odd vllm<0.1" in fresh.create(code=26)


def test_an_empty_folder_in_a_wheel_is_part_of_the_environment(fresh):
    """As tokenspeed_triton brings one: no RECORD lists it, and Python imports it."""
    made = toy.wheel(fresh.folder / "wheels", "big", "1", {"big/__init__.py": b""})
    with zipfile.ZipFile(made, "a") as archive:
        archive.writestr(zipfile.ZipInfo("big/hooks/", (2025, 1, 1, 0, 0, 0)), b"")
    fresh.lock([*toy.wheels(fresh.folder), made])
    fresh.create()
    assert fresh.receipt()["folders"] == {f"{fresh.site.relative_to(fresh.prefix)}/big/hooks": "big"}
    fresh.verify()
    (fresh.site / "big/hooks").rmdir()
    assert "hooks" in fresh.verify(code=47)
    fresh.create()
    fresh.verify()


def change_byte(path: Path, offset: int = -1) -> None:
    """Change one byte in place, which changes it in uv's cache as well: the file is a hardlink."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    with path.open("r+b") as file:
        file.write(data)


def test_from_nothing_to_imports_to_nothing_to_do_to_verified(fresh):
    said = fresh.create()
    assert "toy is ready" in said and "base: host" in said and "4 packages" in said
    assert fresh.imports() == "2.5.1 0.7.3 0.3.0.post1"
    before = (fresh.prefix / "verlock.json").stat()
    said = fresh.create()
    assert "toy is up to date" in said
    assert (fresh.prefix / "verlock.json").stat().st_mtime_ns == before.st_mtime_ns
    assert "toy is what its lock says: 4 packages" in fresh.verify()
    sealed = fresh.receipt()
    assert sealed["base"]["kind"] == "host" and sealed["prefix"] == str(fresh.prefix)
    assert sealed["packages"]["torch"]["version"] == "2.5.1"
    assert (fresh.site / toy.ODD).read_bytes() == b"odd\n"


def test_activation_sets_the_engine_s_variables(made):
    script = f"source '{made.prefix}/bin/activate'; echo $VLLM_USE_V1"
    assert subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout == "0\n"


def test_importing_leaves_the_environment_up_to_date(made):
    """Python writes byte code beside the modules; that is no damage."""
    subprocess.run([made.prefix / "bin/python", "-m", "compileall", "-q", made.site], check=True)
    assert "toy is up to date" in made.create()
    made.verify()


def test_one_changed_byte_is_found_and_healed_although_the_cache_is_spoilt(made):
    file = made.site / BYTES
    good = file.read_bytes()
    assert file.stat().st_nlink > 1, "not hardlinked: this test would prove nothing"
    change_byte(file)
    said = made.verify(code=46)
    assert BYTES in said and "(torch)" in said
    assert "healing file changed" in made.create()
    assert file.read_bytes() == good
    made.verify()
    assert "toy is up to date" in made.create()


def test_verify_s_word_counts_where_size_and_time_tell_nothing(made):
    """A byte changed behind the back of the fingerprint: `create` cannot know, until `verify` looked."""
    file = made.site / BYTES
    times = file.stat()
    change_byte(file)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert "toy is up to date" in made.create()
    made.verify(code=46)
    assert "healing file changed" in made.create()
    made.verify()


@pytest.mark.parametrize("file", [BYTES, "vllm/__init__.py", "odd/__init__.py"])
def test_an_environment_made_from_a_spoilt_cache_is_whole_at_once(made, file):
    """The prefix is gone with its receipt, and the cache behind it has a changed byte."""
    path = made.site / file
    good = path.read_bytes()
    if good:
        change_byte(path)
    else:
        path.write_bytes(b"raise SystemExit('evil')")
    shutil.rmtree(made.prefix)
    said = made.create()
    assert f"healing file changed: {path.relative_to(made.prefix)}" in said and "toy is ready" in said
    assert "damaged in uv's cache too" in said
    assert path.read_bytes() == good
    made.verify()
    assert "toy is up to date" in made.create()


def test_a_spoilt_cache_that_cannot_be_filled_again_makes_no_environment(made):
    change_byte(made.site / BYTES)
    shutil.rmtree(made.prefix)
    made.create(code=26, UV_FIND_LINKS="", UV_OFFLINE="1")
    assert not (made.prefix / "verlock.json").exists()


def test_bytes_that_stay_wrong_are_never_ready(fresh):
    """A wheel whose RECORD does not fit its files: uv installs it, since the lock has its hash."""
    wheel = fresh.folder / "wheels/odd-1-py3-none-any.whl"
    data = wheel.read_bytes()
    with zipfile.ZipFile(wheel) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content + (b"# more\n" if name == "odd/__init__.py" else b""))
    assert wheel.read_bytes() != data
    fresh.lock(sorted(wheel.parent.glob("*.whl")))
    said = fresh.create(code=25)
    assert "odd/__init__.py of odd is not what the lock names" in said
    assert not (fresh.prefix / "verlock.json").exists()


def test_another_environment_with_the_same_damaged_file_is_named(made):
    other = made.prefix.with_name("sibling")
    shutil.copytree(made.prefix, other, copy_function=os.link, symlinks=True)
    sealed = json.loads((other / "verlock.json").read_text())
    (other / "verlock.json").unlink()  # else it is the other environment's too
    (other / "verlock.json").write_text(json.dumps({**sealed, "prefix": str(other)}))
    change_byte(made.site / BYTES)
    assert f"the same file is damaged in {other}" in made.verify(code=46)
    assert f"the same file is damaged in {other}" in made.create()


def test_forged_byte_code_is_found_and_healed(made):
    subprocess.run([made.prefix / "bin/python", "-m", "compileall", "-q", made.site], check=True)
    made.verify()
    (target,) = (made.site / "vllm/__pycache__").glob("rank.*.pyc")
    good = target.read_bytes()
    forged = marshal.dumps(compile("def rank():\n    return 7\n", "rank.py", "exec"))
    target.write_bytes(good[:16] + forged)
    assert str(target.relative_to(made.prefix)) in made.verify(code=46)
    made.create()
    made.verify()


@pytest.mark.parametrize("damage", ["missing", "added", "package"])
def test_other_damage_is_healed_too(made, damage):
    if damage == "missing":
        (made.site / "vllm/rank.py").unlink()
        made.verify(code=47)
    elif damage == "added":
        (made.site / "vllm/extra.py").write_text("")
        made.verify(code=48)
    else:
        shutil.rmtree(made.site / "odd-1.dist-info")
        made.verify(code=42)
    made.create()
    made.verify()
    assert made.imports() == "2.5.1 0.7.3 0.3.0.post1"


def test_damage_that_cannot_be_healed_now_leaves_what_is_there(made):
    """The network is gone: a damaged environment is more than none, and the next run heals it."""
    change_byte(made.site / BYTES)
    assert "torch" in made.create(code=26, UV_FIND_LINKS="", UV_OFFLINE="1")
    assert made.imports() == "2.5.1 0.7.3 0.3.0.post1"
    made.verify(code=46)
    made.create()
    made.verify()


def test_a_new_lock_that_cannot_be_installed_leaves_what_is_there(made, edit):
    edit(made.locks / "requirements.txt", "odd==1", "odd==2")
    made.create(code=26)
    assert made.imports() == "2.5.1 0.7.3 0.3.0.post1"
    made.verify(code=41)
    edit(made.locks / "requirements.txt", "odd==2", "odd==1")
    assert "up to date" in made.create()


def test_healing_while_another_uv_holds_the_cache(made):
    """`uv run` holds uv's cache for as long as its program runs, such as a notebook."""
    other = subprocess.Popen(
        [uv.uv(), "run", "--no-project", "--python", sys.executable, "sleep", "60"],
        env=made.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        time.sleep(1)
        change_byte(made.site / BYTES)
        assert "another uv is using the cache" in made.create()
        made.verify()
    finally:
        other.kill()
        other.wait()


def test_touching_files_makes_nothing_again(made):
    inode = made.prefix.stat().st_ino
    os.utime(made.site / BYTES)
    said = made.create()
    assert "something changed since it was sealed" in said and made.prefix.stat().st_ino == inode
    assert "something changed" not in made.create()


KILLS = [
    ("verlock.env.prefix_folder", "clear", "after"),
    ("verlock.system.uv", "make_venv", "before"),
    ("verlock.system.uv", "make_venv", "after"),
    ("verlock.env.python_base", "install", "after"),
    ("verlock.system.uv", "sync", "before"),
    ("verlock.system.uv", "sync", "after"),
    ("verlock.env.create", "STEPS['artefacts']", "after"),
    ("verlock.env.create", "STEPS['patches']", "after"),
    ("verlock.env.create", "STEPS['check']", "after"),
    ("verlock.variant.receipt", "fingerprint", "before"),
    ("verlock.system.files", "os.fsync", "before"),
    ("verlock.variant.receipt", "write", "after"),
]


@pytest.mark.parametrize(("module", "function", "when"), KILLS)
def test_a_run_killed_at_any_step_is_healed_by_the_next(fresh, module, function, when):
    fresh.killed(module, function, when)
    if function != "write":
        fresh.verify(code=40)
    fresh.create()
    fresh.verify()
    assert fresh.imports() == "2.5.1 0.7.3 0.3.0.post1"
    left = {path.name for path in fresh.envs.iterdir()} - {"toy", ".toy.lock"}
    assert not left


@pytest.mark.parametrize(("module", "function", "when"), [KILLS[0], KILLS[3], KILLS[5]])
def test_a_healing_run_can_be_killed_as_well(made, module, function, when):
    change_byte(made.site / BYTES)
    made.killed(module, function, when)
    made.create()
    made.verify()


@pytest.mark.parametrize("seconds", [0.15, 0.3, 0.45, 0.6, 0.8])
def test_a_run_killed_at_any_moment_with_all_its_children(fresh, seconds):
    process = fresh.start("create", "toy", "--base", "host")
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    fresh.create()
    fresh.verify()


def test_a_wrong_hash_is_refused_with_wanted_and_got(fresh, edit):
    lock = fresh.locks / "requirements.txt"
    got = re.findall(r"sha256:([0-9a-f]{64})", lock.read_text())[0]
    edit(lock, got, "0" * 64)
    said = fresh.create(code=25)
    assert f"sha256:{'0' * 64}" in said and f"sha256:{got}" in said and "torch" in said
    fresh.verify(code=40)


def test_replaced_bytes_behind_the_same_name_are_refused(fresh):
    wheel = next((fresh.folder / "wheels").glob("vllm-*"))
    toy.wheel(fresh.folder / "wheels", "vllm", "0.7.3", {"vllm/__init__.py": b"evil = 1\n"})
    said = fresh.create(code=25)
    assert toy.sha256(wheel.read_bytes()) in said
    fresh.verify(code=40)


def test_a_truncated_wheel_is_refused(fresh):
    wheel = next((fresh.folder / "wheels").glob("torch-*"))
    wheel.write_bytes(wheel.read_bytes()[:-200])
    assert fresh.run("create", "toy", "--base", "host").returncode in (25, 26)
    fresh.verify(code=40)


def test_an_unhashed_line_is_refused_before_anything_is_made(fresh, edit):
    edit(fresh.locks / "requirements.txt", "verl==", "unhashed==1\nverl==")
    said = fresh.create(code=12)
    assert "unhashed has no hash" in said and "line 5" in said
    assert not fresh.prefix.exists()


def test_a_version_the_recipe_does_not_name_is_refused(fresh):
    fresh.lock(
        [
            file
            for file in toy.wheels(fresh.folder, vllm="0.7.4")
            if file.name.startswith(("torch", "verl", "odd", "vllm-0.7.4"))
        ]
    )
    said = fresh.create(code=27)
    assert "0.7.4" in said and "0.7.3" in said
    fresh.verify(code=40)


def test_an_object_that_does_not_load_is_refused(fresh):
    scratch = fresh.folder / "objects"
    ops = toy.shared_object(scratch, "bad", "int absent(void); int toy_ops(void) { return absent(); }")
    files = {"vllm/__init__.py": b"__version__ = '0.7.3'\n", "vllm/_C.abi3.so": ops}
    toy.wheel(fresh.folder / "wheels", "vllm", "0.7.3", files)
    fresh.lock(sorted((fresh.folder / "wheels").glob("*.whl")))
    assert "undefined symbol: absent" in fresh.create(code=27)
    fresh.verify(code=40)


def test_unmet_requirements_are_refused(fresh):
    fresh.lock([file for file in toy.wheels(fresh.folder) if not file.name.startswith("odd")])
    assert "odd" in fresh.create(code=26)
    fresh.verify(code=40)


def test_a_missing_optional_artefact_is_visible_everywhere_and_completed_later(fresh):
    wheel = fresh.artefact()
    said = fresh.create()
    assert "flash-attn MISSING" in said and "INCOMPLETE, flash-attn is missing: 127.0.0.1:9" in said
    assert "flash-attn" in fresh.receipt()["missing"]
    assert "incomplete: flash-attn is missing" in fresh.verify()
    fresh.verify("--strict", code=49)
    assert "INCOMPLETE" in fresh.create()

    said = fresh.create("--strict", code=28)
    assert "VERLOCK_ARTEFACTS" in said
    assert fresh.imports() == "2.5.1 0.7.3 0.3.0.post1", "--strict took a working environment away"
    fresh.verify()

    said = fresh.create(VERLOCK_ARTEFACTS=str(wheel.parent))
    assert "flash-attn verified" in said and "INCOMPLETE" not in said
    assert not fresh.receipt()["missing"]
    fresh.verify("--strict")
    assert "up to date" in fresh.create("--strict")


def test_what_is_whole_needs_no_artefact_once_more(fresh):
    """Its files were touched, and neither cache nor mirror has the wheel by now: it is whole all the same."""
    wheel = fresh.artefact(optional=False)
    fresh.create(VERLOCK_ARTEFACTS=str(wheel.parent))
    shutil.rmtree(fresh.folder / "cache/artefacts")
    os.utime(fresh.site / BYTES)
    assert "toy is ready" in fresh.create("--strict")
    assert "toy is up to date" in fresh.create("--strict")


def test_an_artefact_that_is_not_optional_is_an_error(fresh):
    fresh.artefact(optional=False)
    fresh.create(code=28)
    fresh.verify(code=40)


def test_an_artefact_of_other_bytes_is_refused(fresh):
    wheel = fresh.artefact()
    change_byte(wheel)
    said = fresh.create(code=25, VERLOCK_ARTEFACTS=str(wheel.parent))
    assert toy.sha256(wheel.read_bytes()) in said
    fresh.verify(code=40)


def test_a_kept_artefact_damaged_in_the_cache_is_fetched_again(fresh):
    wheel = fresh.artefact()
    fresh.create(VERLOCK_ARTEFACTS=str(wheel.parent))
    (kept,) = (fresh.folder / "cache/artefacts").glob("*/*.whl")
    kept.write_bytes(kept.read_bytes()[:100])
    shutil.rmtree(fresh.prefix)
    shutil.rmtree(fresh.folder / "uv-cache")
    fresh.create(VERLOCK_ARTEFACTS=str(wheel.parent))
    fresh.verify("--strict")


def test_a_folder_that_verlock_did_not_make_is_not_deleted(fresh):
    fresh.prefix.mkdir(parents=True)
    (fresh.prefix / "thesis.tex").write_text("work")
    said = fresh.create(code=23)
    assert "was not made by verlock" in said
    assert (fresh.prefix / "thesis.tex").read_text() == "work"


def test_a_file_in_the_place_of_the_prefix_is_not_deleted(fresh):
    fresh.envs.mkdir()
    fresh.prefix.write_text("work")
    fresh.create(code=23)
    assert fresh.prefix.read_text() == "work"


def test_an_empty_folder_is_taken(fresh):
    fresh.prefix.mkdir(parents=True)
    fresh.create()
    fresh.verify()


def test_a_prefix_that_is_a_link_to_another_disk(fresh):
    """People link envs/<variant> to a larger place; the link stays and the place is used."""
    big = fresh.folder / "big disk"
    big.mkdir()
    fresh.envs.mkdir()
    fresh.prefix.symlink_to(big)
    fresh.create()
    fresh.verify()
    assert fresh.prefix.is_symlink() and (big / "verlock.json").exists()
    change_byte(fresh.site / BYTES)
    fresh.create()
    fresh.verify()
    assert fresh.prefix.is_symlink() and (big / "verlock.json").exists()
    assert [path.name for path in fresh.envs.iterdir() if "old" in path.name] == []


def test_two_runs_at_once_one_waits_and_both_succeed(fresh):
    runs = [fresh.start("create", "toy", "--base", "host") for _ in range(2)]
    said = [run.communicate(timeout=120)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    assert sum("toy is ready" in text for text in said) == 1
    assert sum("another run is working" in text and "up to date" in text for text in said) == 1
    fresh.verify()


def test_the_second_run_goes_on_when_the_first_is_killed(fresh):
    first = fresh.start("create", "toy", "--base", "host")
    while not (fresh.envs / ".toy.lock").exists():
        time.sleep(0.01)
    time.sleep(0.05)
    second = fresh.start("create", "toy", "--base", "host")
    time.sleep(0.3)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    _, err = second.communicate(timeout=120)
    assert second.returncode == 0, err
    fresh.verify()


def test_a_changed_lock_makes_it_again(made, edit):
    edit(made.locks / "build-requirements.txt", "", "# a comment\n")
    assert "up to date" in made.create(), "comments act on nothing"
    edit(made.locks / "build-requirements.txt", "", f"wheel==0.45.1 --hash=sha256:{'a' * 64}\n")
    assert "receipt stale" in made.verify(code=41)
    assert "toy is ready" in made.create()
    made.verify()


def test_prose_in_the_recipe_makes_nothing_again(made, edit):
    edit(made.recipe, 'reason = "test"', 'reason = "a better sentence"')
    assert "up to date" in made.create()


def test_a_moved_environment_is_not_taken_for_a_good_one(made):
    other = made.folder / "elsewhere-envs"
    other.mkdir()
    made.prefix.rename(other / "toy")
    done = made.run("verify", "toy", VERLOCK_ENVS=str(other))
    assert done.returncode == 40 and "was moved" in done.stderr
    made.create(VERLOCK_ENVS=str(other))
    assert made.run("verify", "toy", VERLOCK_ENVS=str(other)).returncode == 0


@pytest.mark.parametrize("spelled", ["{}/../envs", "{}/", "link"])
def test_one_place_spelled_in_two_ways_is_one_environment(made, spelled):
    if spelled == "link":
        (made.folder / "link").symlink_to(made.envs)
        spelled = str(made.folder / "link")
    inode = made.prefix.stat().st_ino
    made.create(VERLOCK_ENVS=spelled.format(made.envs))
    assert made.prefix.stat().st_ino == inode
    assert made.run("verify", "toy", VERLOCK_ENVS=spelled.format(made.envs)).returncode == 0


def test_base_conda_with_no_channel_is_an_error_and_takes_nothing_away(made):
    said = made.create("--base", "conda", code=23)
    assert "127.0.0.1" in said and "VERLOCK_CONDA_MIRROR" in said
    assert made.imports() == "2.5.1 0.7.3 0.3.0.post1"
    assert "up to date" in made.create()


def test_base_auto_with_no_channel_is_the_host_s_and_says_so(fresh):
    said = fresh.create("--base", "auto")
    assert "warning: 127.0.0.1:9 does not answer: Connection refused" in said and "; base: host" in said
    assert fresh.receipt()["base"]["kind"] == "host"


def test_a_path_with_spaces_and_quotes(tmp_path):
    project = toy.Project(tmp_path, envs="my envs' place")
    project.create()
    project.verify()
    assert project.imports() == "2.5.1 0.7.3 0.3.0.post1"
    assert subprocess.run([project.prefix / "bin/vllm"], capture_output=True, text=True, check=False).stderr.count(
        "main"
    )


def test_no_home_and_a_tight_umask(fresh):
    code = (
        "import os, sys; os.umask(0o077); os.environ.pop('HOME', None)\n"
        "from verlock import cli; sys.exit(cli.main(['create', 'toy', '--base', 'host']))"
    )
    done = fresh.run("-c", code)
    assert done.returncode == 0, done.stderr
    fresh.verify()
    fresh.create()


def test_settings_that_images_have_for_uv_change_nothing(fresh):
    """Container images set these; they say where or what uv installs, which the lock alone decides."""
    odd = {"UV_SYSTEM_PYTHON": "1", "UV_TORCH_BACKEND": "cpu", "UV_PYTHON": "3.9", "UV_COMPILE_BYTECODE": "1"}
    odd |= {"UV_NO_BINARY": "1", "UV_OVERRIDE": "/nowhere", "UV_CONSTRAINT": "/nowhere", "UV_NO_VERIFY_HASHES": "1"}
    odd |= {
        "UV_EXCLUDE_NEWER": "2001-01-01",
        "UV_TARGET": "/nowhere",
        "UV_BREAK_SYSTEM_PACKAGES": "1",
        "UV_PROJECT": "/nowhere",
    }
    fresh.create(**odd)
    fresh.verify()


def test_hashes_are_checked_whatever_the_user_s_settings(fresh, edit):
    lock = fresh.locks / "requirements.txt"
    edit(lock, re.findall(r"sha256:([0-9a-f]{64})", lock.read_text())[0], "0" * 64)
    fresh.create(code=25, UV_NO_VERIFY_HASHES="1")


def test_a_uv_toml_where_the_user_stands_changes_nothing(fresh):
    (fresh.root / "uv.toml").write_text("[pip]\nno-binary = ['torch']\n")
    fresh.create()
    fresh.verify()


def test_copies_in_the_place_of_hardlinks(fresh):
    """A cache on another file system: nothing is shared, everything else holds."""
    fresh.create(UV_LINK_MODE="copy")
    fresh.verify()
    change_byte(fresh.site / BYTES)
    fresh.create(UV_LINK_MODE="copy")
    fresh.verify()


class TestReadOnly:
    """An environment that somebody else made, in a folder where this user may not write."""

    def run(self, project, *arguments):
        """One verlock command as a user for whom permissions hold: root without its power to pass over them."""
        if os.geteuid() == 0 and not shutil.which("setpriv"):
            pytest.skip("root may write anywhere, and there is no setpriv to give that up")
        prefix = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
        for place in (project.envs, project.prefix):
            if place.exists():
                place.chmod(0o555)
        try:
            return project.run(*arguments, before=prefix)
        finally:
            for place in (project.envs, project.prefix):
                if place.exists():
                    place.chmod(0o755)

    def test_it_is_up_to_date_and_whole(self, made):
        done = self.run(made, "create", "toy")
        assert done.returncode == 0 and "up to date" in done.stderr, done.stderr
        assert self.run(made, "verify", "toy").returncode == 0

    def test_damage_is_named_and_what_is_in_the_way_of_healing_it(self, made):
        change_byte(made.site / BYTES)
        assert self.run(made, "verify", "toy").returncode == 46
        done = self.run(made, "create", "toy")
        assert done.returncode == 60 and f"{made.envs} is not writable" in done.stderr, done.stderr

    def test_nothing_can_be_made_there(self, fresh):
        fresh.envs.mkdir()
        done = self.run(fresh, "create", "toy")
        assert done.returncode == 60 and "VERLOCK_ENVS" in done.stderr, done.stderr

    def test_a_cache_that_is_not_writable_is_named(self, fresh):
        fresh.artefact()
        (fresh.folder / "cache").mkdir(mode=0o555)
        done = self.run(fresh, "create", "toy", "--base", "host")
        assert done.returncode == 60 and str(fresh.folder / "cache") in done.stderr, done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small file system")
def test_a_disk_that_is_full_is_said_as_such(fresh):
    """The recipe says it needs little, so preflight lets it pass, and uv meets the end of the disk."""
    fresh.envs.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1100k", "tmpfs", fresh.envs], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        big = toy.wheel(fresh.folder / "wheels", "big", "1", {"big/__init__.py": b"", "big/data": os.urandom(3 << 20)})
        fresh.lock([*toy.wheels(fresh.folder), big])
        said = fresh.create(code=21)
        assert str(fresh.envs) in said and "free some space" in said
    finally:
        subprocess.run(["umount", fresh.envs], check=True)


def test_ctrl_c_leaves_130_and_heals(fresh):
    process = fresh.start("create", "toy", "--base", "host")
    while not (fresh.prefix / ".verlock").exists():
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err, err
    fresh.create()
    fresh.verify()


def test_no_op_imports_nothing_heavy(made):
    """What keeps a run with nothing to do short: no pydantic, rich, rattler or git."""
    code = (
        "import sys\nfrom verlock import cli\nassert cli.main(['create', 'toy', '--base', 'host']) == 0\n"
        "print(*sorted(sys.modules.keys() & {'pydantic', 'rich', 'rattler', 'git', 'conda_lock', 'yaml', 'asyncio'}))"
    )
    done = made.run("-c", code)
    assert done.stdout.split() == [], done.stdout


def test_python_of_the_tests_is_the_environment_s(made):
    """The toy is made for the Python that runs the tests, so that every supported one is tried."""
    assert made.receipt()["base"]["version"].split(".")[:2] == sys.version.split(".")[:2]


@pytest.fixture(scope="module")
def mirror(tmp_path_factory):
    try:
        return channel.build(tmp_path_factory.mktemp("channel"), toy.MINOR)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"the channel's wheels cannot be had: {error.stderr}")


class TestCondaBase:
    """The conda layer for real: a local channel with a relocated CPython, pip, setuptools and wheel, made once for all tests."""

    @pytest.fixture
    def project(self, tmp_path, mirror):
        """The toy with a conda-lock.yml of the channel's packages, whose URLs are conda-forge's."""
        project = toy.Project(tmp_path)
        project.mirror = mirror
        project.conda_lock(channel.URL, mirror)
        return project

    def create(self, project, *arguments, code=0, base="conda"):
        return project.create("--base", base, *arguments, code=code, VERLOCK_CONDA_MIRROR=str(project.mirror))

    def test_the_same_code_path_makes_a_real_conda_prefix(self, project):
        said = self.create(project, base="auto")
        assert "base: conda" in said and "conda activate" in said and "# without conda: nox -s shell -- " in said
        sealed = project.receipt()
        assert sealed["base"]["kind"] == "conda" and sealed["base"]["version"].startswith(toy.MINOR)
        assert [name.rsplit("-", 2)[0] for name in sealed["conda"]] == ["pip", "python", "setuptools", "wheel"]
        assert project.imports() == "2.5.1 0.7.3 0.3.0.post1"
        code = "import sys; print(sys.prefix == sys.base_prefix, sys.prefix)"
        done = subprocess.run([project.prefix / "bin/python", "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout == f"True {project.prefix}\n"
        assert (project.prefix / "conda-meta/history").exists()
        assert not list(project.site.glob("*/of_the_pip_layer.py")), "uv has taken the conda layer's packages away"
        project.verify()
        assert "up to date" in self.create(project)
        assert "up to date" in project.create("--base", "auto"), "a run with nothing to do needs no channel"

    @pytest.mark.parametrize(
        ("file", "code"),
        [("bin/python3", 46), ("lib/python{}/os.py", 46), ("lib/python{}/site-packages/pip/__init__.py", 46)],
    )
    def test_damage_is_found_and_healed(self, project, file, code):
        self.create(project)
        path = project.prefix / file.format(toy.MINOR)
        if path.is_symlink():
            path.unlink()
            path.symlink_to("/bin/false")
        else:
            change_byte(path)
        assert file.format(toy.MINOR) in project.verify(code=code)
        self.create(project)
        project.verify()

    def test_a_wrong_hash_in_the_conda_layer_is_refused(self, project):
        lock = project.locks / "conda-lock.yml"
        wanted = re.findall(r"sha256: ([0-9a-f]{64})", lock.read_text())[-1]
        lock.write_text(lock.read_text().replace(wanted, "b" * 64))
        said = self.create(project, code=25)
        assert "b" * 64 in said
        project.verify(code=40)

    def test_from_the_host_s_base_to_conda_s_and_back(self, project):
        project.create()
        assert project.receipt()["base"]["kind"] == "host"
        self.create(project)
        assert project.receipt()["base"]["kind"] == "conda"
        project.verify()
        project.create()
        assert project.receipt()["base"]["kind"] == "host"
        assert not (project.prefix / "conda-meta").exists()
        project.verify()

    def test_killed_in_the_conda_layer(self, project):
        process = project.start("create", "toy", "--base", "conda", VERLOCK_CONDA_MIRROR=str(project.mirror))
        while not list(project.prefix.glob("conda-meta/*")) and process.poll() is None:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        self.create(project)
        project.verify()


def test_of_two_scripts_with_one_name_the_same_one_is_there_every_time(made):
    script = made.prefix / "bin/vllm"
    assert "from vllm import" in script.read_text()
    command = [
        uv.uv(),
        "pip",
        "install",
        "--python",
        str(made.prefix / "bin/python"),
        "--no-deps",
        "--reinstall",
        "odd==1",
    ]
    subprocess.run(command, check=True, env=made.environment(), capture_output=True)
    assert "from odd import" in script.read_text()
    made.create()
    assert "from vllm import" in script.read_text()
    assert made.run("verify", "toy").returncode == 0
