"""`--editable` on a toy variant with the real uv and git: an edit is seen by Python, named, and survives whatever happens."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import toy
from toysource import git

from verlock import paths
from verlock.sources import editable, git_commit, wheel_store
from verlock.variant import checkouts, lockfiles
from verlock.variant.chosen import choose, names

pytestmark = pytest.mark.skipif(toy.compiler() is None, reason="no C compiler to make the toy's shared objects with")


@pytest.fixture
def upstream(tmp_path):
    """The repository of the toy's verl, with an example."""
    folder = tmp_path / "upstream"
    (folder / "verl/trainer").mkdir(parents=True)
    (folder / "examples").mkdir()
    (folder / "verl/__init__.py").write_text("import vllm\n__version__ = '0.3.0.post1'\n")
    (folder / "verl/trainer/__init__.py").touch()
    (folder / "verl/trainer/main_ppo.py").write_text("import verl\n")
    (folder / "examples/run.sh").write_text("echo\n")
    (folder / ".gitignore").write_text("__pycache__/\n")
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "verl")
    return folder


@pytest.fixture
def project(tmp_path, upstream, monkeypatch):
    """A project whose checkouts.toml names that repository's commit; only a mirror has it."""
    made = toy.Project(tmp_path)
    commit, tree = git(upstream, "rev-parse", "HEAD"), git(upstream, "rev-parse", "HEAD^{tree}")
    (made.root / "recipes/checkouts.toml").write_text(
        f'[[checkout]]\npackage = "verl"\nversion = "0.3.0.post1"\nurl = "https://127.0.0.1:9/verl.git"\n'
        f'commit = "{commit}"\ntree = "{tree}"\nexample = "examples/run.sh"\n'
    )
    environment = made.environment
    monkeypatch.setattr(
        made, "environment", lambda **more: {"VERLOCK_SOURCE_MIRROR": str(upstream), **environment(**more)}
    )
    return made


@pytest.fixture
def edited(project):
    """An environment with an editable verl that was edited; returns the edited file."""
    said = project.create("--editable", "verl")
    checkout = project.prefix.with_name("toy-verl")
    assert f"editable: verl is {checkout}, with examples/run.sh to begin with" in said
    file = checkout / "verl/__init__.py"
    file.write_text(file.read_text() + "MINE = 1\n")
    return file


def mine(project):
    """What the environment's Python sees of the edit."""
    code = "import verl; print(verl.MINE, verl.__file__)"
    return subprocess.run(
        [project.prefix / "bin/python", "-I", "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()


def test_an_edit_is_seen_and_named_and_nothing_is_made_again(project, edited):
    assert mine(project) == ["1", str(edited)]
    said = project.verify()
    assert "1 file differs from commit" in said and "verl/__init__.py" in said and "toy is what its lock says" in said
    report = json.loads(project.run("verify", "toy", "--json").stdout)
    assert list(report["editable"]["verl"]) == ["verl/__init__.py"] and report["damage"] == []
    before = (project.prefix / "verlock.json").read_bytes()
    for arguments in [(), ("--editable", "verl")]:
        assert "toy is up to date" in project.create(*arguments)
    assert (project.prefix / "verlock.json").read_bytes() == before
    assert "(host, editable verl)" in project.run("list").stdout


def test_the_receipt_names_the_edits_there_are_when_it_is_made(project, edited):
    shutil.rmtree(project.prefix)
    project.create("--editable", "verl")
    entry = project.receipt()["editable"]["verl"]
    assert entry["differs"] == {"verl/__init__.py": toy.sha256(edited.read_bytes())}
    assert entry["checkout"] == str(edited.parents[1]) and mine(project)[0] == "1"


@pytest.mark.parametrize("how", ["damage", "another lock", "prefix gone", "spoilt cache", "no network"])
def test_an_edit_survives_a_rebuild(project, edited, how):
    asked = ()
    more = {}
    if how == "damage":
        (project.site / "torch/__init__.py").unlink()
    elif how == "another lock":
        project.recipe.write_text(
            project.recipe.read_text().replace("[vllm.environment]", "[vllm.environment]\nMORE = '1'")
        )
    elif how == "prefix gone":
        shutil.rmtree(project.prefix)
        asked = ("--editable", "verl")
    elif how == "spoilt cache":
        file = project.site / "odd/empty"
        with file.open("r+b") as inside:  # a hardlink into the toy's own cache
            inside.write(b"X")
    else:
        (project.site / "torch/__init__.py").unlink()
        shutil.rmtree(project.folder / "cache/sources")
        more = {"VERLOCK_SOURCE_MIRROR": ""}
    said = project.create(*asked, **more)
    assert "toy is ready" in said and mine(project) == ["1", str(edited)]
    project.verify()


def test_an_edit_survives_ctrl_c_and_a_kill_and_going_back(project, edited):
    (project.site / "torch/__init__.py").unlink()
    project.killed("verlock.sources.editable", "install", "after")
    project.killed("verlock.sources.editable", "_take_out", "before")
    process = project.start("create", "toy", "--base", "host")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    project.create()
    assert mine(project)[0] == "1"
    project.verify()
    project.create("--editable", "none")
    assert project.receipt()["editable"] == {} and (project.site / "verl/__init__.py").exists()
    assert "MINE" in edited.read_text() and "editable" not in project.verify()
    project.create("--editable", "verl")
    assert mine(project)[0] == "1"


def test_a_lost_checkout_is_missed_and_made_again(project, edited):
    shutil.rmtree(edited.parents[1])
    assert "its checkout" in project.verify(code=47)
    assert "toy is ready" in project.create()
    project.verify()


def test_what_breaks_by_an_edit_is_found_at_every_rebuild(project, edited):
    edited.write_text("raise RuntimeError('mine')\n")
    (project.site / "torch/__init__.py").unlink()
    assert "RuntimeError: mine" in project.create(code=27)
    assert edited.read_text() == "raise RuntimeError('mine')\n"


def test_a_foreign_folder_and_an_unknown_release_are_refused_before_anything_is_made(project):
    (project.envs / "toy-verl").mkdir(parents=True)
    assert "is not a git checkout" in project.create("--editable", "verl", code=39)
    assert "commit of vllm 0.7.3 is not known" in project.create("--editable", "vllm", code=38)
    assert not project.prefix.exists() and list((project.envs / "toy-verl").iterdir()) == []


# The real ones, where a mirror is at hand ---------------------------------------------------------------

RELEASES = [(each.package, each.version) for each in checkouts.read().checkout]


@pytest.fixture(params=RELEASES, ids=" ".join)
def released(request, tmp_path, monkeypatch):
    """A release and its checkout, out of VERLOCK_SOURCE_MIRROR."""
    package, version = request.param
    every = [each for name in names() for each in [choose(name)]]
    chosen = next(each for each in every if getattr(each.recipe, package).version == version)
    checkout = checkouts.find(chosen, package)
    monkeypatch.setenv("VERLOCK_CACHE", str(tmp_path / "cache"))
    try:
        git_commit.store(checkout)
    except git_commit.VerlockError as error:
        pytest.skip(f"name a clone of {package} in VERLOCK_SOURCE_MIRROR: {error.problem.splitlines()[0]}")
    git_commit.clone(checkout, tmp_path / "checkout")
    return chosen, checkout, tmp_path / "checkout"


def test_the_example_is_there(released):
    _, checkout, folder = released
    assert not checkout.example or (folder / checkout.example).is_file()
    assert checkout.example or checkout.package == "vllm"


@pytest.mark.slow("installs the wheel of every release")
def test_the_wheel_s_code_is_the_tag_s(released, tmp_path):
    """All but what is named; what only the tag has is no code, or in folders that are no packages, which the wheel leaves out."""
    chosen, checkout, folder = released
    site = tmp_path / "site"
    wheel_store.unpack(checkout.package, chosen.locks / lockfiles.REQUIREMENTS, chosen.python, site)
    top = checkout.package

    def hashes(root: Path) -> dict[str, str]:
        there = [path for path in (root / top).rglob("*") if path.is_file() and path.suffix != ".pyc"]
        return {path.relative_to(root).as_posix(): toy.sha256(path.read_bytes()) for path in there}

    wheel, tag = hashes(site), hashes(folder)
    assert len(wheel) > 200
    assert [name for name in wheel.keys() & tag.keys() if wheel[name] != tag[name]] == checkout.differs
    built = {
        name
        for name in wheel.keys() - tag.keys()
        if "/vllm_flash_attn/" in name or name.endswith((".so", "_version.py"))
    }
    assert wheel.keys() - tag.keys() == (built if top == "vllm" else set())
    for name in tag.keys() - wheel.keys():
        above = [folder.joinpath(name).parents[number] for number in range(len(Path(name).parts) - 1)]
        assert not name.endswith(".py") or not all((each / "__init__.py").exists() for each in above), name


def test_what_the_place_is_called():
    assert editable.place(paths.ROOT / "envs/vllm073-py311", "verl").name == "vllm073-py311-verl"
