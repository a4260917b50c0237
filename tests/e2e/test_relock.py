"""Locking for real, with uv, pip-compile and conda-lock, against an index and a channel that the test makes up."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import fakeindex
import pytest
from toy import MINOR
from toy import RECIPE as TOY

from verlock import paths
from verlock.locking import resolvers
from verlock.variant import lockfiles

RECIPE = TOY.format(minor=MINOR)
BUILT = 1_740_000_000_000  # 2025-02-19, in milliseconds
RUN = "import sys; from verlock import cli; sys.exit(cli.main(sys.argv[1:]))"


@pytest.fixture(scope="module")
def resolver_cache(tmp_path_factory):
    """One resolver environment for all tests here; the real index is asked for the locked tools once."""
    cache = tmp_path_factory.mktemp("cache")
    before = os.environ.get("VERLOCK_CACHE")
    os.environ["VERLOCK_CACHE"] = str(cache)
    try:
        resolvers.interpreter(MINOR)
    finally:
        os.environ.pop("VERLOCK_CACHE")
        if before is not None:
            os.environ["VERLOCK_CACHE"] = before
    return cache


@pytest.fixture
def index():
    with fakeindex.serve() as made:
        made.release("alpha", "1.0", "2025-01-01", "beta>=1")
        made.release("alpha", "1.1", "2025-05-01", "beta>=1")
        made.release("beta", "1.0", "2025-01-01")
        made.release("gamma", "1.0", "2025-01-01")
        made.release("tool", "1.0", "2025-01-01")
        yield made


class Toy:
    """A clone whose one variant is `toy`, and the way to run verlock in it."""

    def __init__(self, root, index, cache):
        self.root, self.index, self.cache = root, index, cache
        self.home = root / "home"
        self.home.mkdir(parents=True)
        shutil.copytree(paths.ROOT / "verlock", root / "verlock", ignore=shutil.ignore_patterns("__pycache__"))
        self.write("locks/tools/requirements.txt", (paths.LOCKS / "tools/requirements.txt").read_text())
        self.write("environments/tools/requirements.in", (paths.ENVIRONMENTS / "tools/requirements.in").read_text())
        self.write("recipes/toy/recipe.toml", RECIPE)
        self.write("environments/toy/requirements.in", "alpha\ngamma\n")
        self.write("environments/toy/build-requirements.in", "tool\n")
        self.write("environments/toy/environment.yml", "channels: [conda-forge]\ndependencies: []\n")
        self.write("environments/common/environment.yml", "channels: [conda-forge]\ndependencies: [git]\n")
        self.write(
            f"environments/common/python-{MINOR}.yml", f"channels: [conda-forge]\ndependencies:\n  - python {MINOR}.*\n"
        )
        self.channel({"python": f"{MINOR}.4", "git": "2.50"})

    def write(self, path, text):
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def channel(self, versions, **hashes):
        """The records that conda packages are solved from; there are no packages behind them."""
        packages = {
            f"{name}-{version}-0.conda": {
                "name": name, "version": version, "build": "0", "build_number": 0, "depends": [], "subdir": "linux-64",
                "sha256": hashes.get(name, "c" * 64), "md5": "d" * 32, "timestamp": BUILT,
            }
            for name, listed in versions.items() for version in listed.split()
        }  # fmt: skip
        self.write(
            "channel/linux-64/repodata.json",
            json.dumps({"info": {"subdir": "linux-64"}, "packages.conda": packages, "packages": {}}),
        )

    def run(self, *arguments, **environment):
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_", "VERLOCK_"))}
        fixed = {
            "VERLOCK_CACHE": str(self.cache), "VERLOCK_CONDA_REPODATA": str(self.root / "channel"),
            "PIP_INDEX_URL": self.index.url, "UV_CACHE_DIR": str(self.root / "uv-cache"),
            "HOME": str(self.home), "PATH": os.environ["PATH"],
        }  # fmt: skip
        return subprocess.run(
            [sys.executable, "-c", RUN, *arguments], cwd=self.root, env={**kept, **fixed, **environment},
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    def lock(self, *arguments, **environment):
        done = self.run("lock", "toy", *arguments, **environment)
        assert done.returncode == 0, done.stderr
        return done.stderr

    def bytes(self):
        return {path.name: path.read_bytes() for path in sorted((self.root / "locks" / "toy").glob("*"))}

    def pins(self, name="requirements.txt"):
        return {pin.name: pin for pin in lockfiles.pins(self.root / "locks" / "toy" / name)}

    def versions(self):
        return {name: pin.version for name, pin in self.pins().items()}


@pytest.fixture
def toy(tmp_path, index, resolver_cache):
    return Toy(tmp_path / "toy", index, resolver_cache)


def test_the_cutoff_holds_for_releases_and_for_single_files(toy, index):
    first = index.release("beta", "1.1", "2025-04-02")
    index.release("beta", "1.1", "2025-04-03", tag="py3-none-manylinux_2_17_x86_64")  # a wheel that came late
    index.sdist("beta", "1.1", "2025-04-02")
    toy.lock()
    assert toy.versions() == {"alpha": "1.0", "beta": "1.1", "gamma": "1.0"}
    assert toy.pins()["beta"].hashes == (f"sha256:{first}",)
    assert toy.pins()["beta"].via == ("alpha",)
    assert toy.pins()["alpha"].via == ("-r environments/toy/requirements.in",)
    assert set(toy.pins(lockfiles.BUILD_REQUIREMENTS)) == {"tool"}
    listed = lockfiles.files(toy.root / "locks" / "toy")[lockfiles.REQUIREMENTS]["files"]
    names = ("alpha-1.0", "beta-1.1", "gamma-1.0")
    assert [each["filename"] for each in listed] == [f"{name}-py3-none-any.whl" for name in names]
    assert (listed[1]["sha256"], listed[1]["uploaded"]) == (first, "2025-04-02T12:00:00Z")
    assert toy.run("lock", "toy", "--check").returncode == 0


def test_the_same_bytes_in_other_surroundings(toy, index, tmp_path, resolver_cache):
    toy.lock()
    other = Toy(tmp_path / "elsewhere" / "Ünï code", index, resolver_cache)
    trap = other.root / "trap"
    trap.mkdir()
    for version in ("9.9", "1.0"):  # 1.0 with other bytes
        (trap / f"alpha-{version}-py3-none-any.whl").write_bytes(
            fakeindex._wheel("alpha", version, (), "py3-none-any", "trap")
        )
    (trap / "pip.conf").write_text(f"[global]\nfind-links = {trap}\nextra-index-url = {trap.as_uri()}\npre = true\n")
    (other.home / ".config" / "uv").mkdir(parents=True)
    (other.home / ".config" / "uv" / "uv.toml").write_text(f'find-links = ["{trap}"]\nresolution = "lowest"\n')
    (other.home / ".pip").mkdir()
    shutil.copy(trap / "pip.conf", other.home / ".pip" / "pip.conf")
    other.lock(
        PIP_CONFIG_FILE=str(trap / "pip.conf"), PIP_FIND_LINKS=str(trap), UV_FIND_LINKS=str(trap), UV_RESOLUTION="lowest",
        UV_EXTRA_INDEX_URL=trap.as_uri(), PIP_PRE="1", UV_PRERELEASE="allow", TZ="Pacific/Kiritimati", LC_ALL="tr_TR.UTF-8",
        LANG="tr_TR.UTF-8", PYTHONHASHSEED="7", COLUMNS="40", FORCE_COLOR="1", CUSTOM_COMPILE_COMMAND="make lock",
        CONDA_OVERRIDE_GLIBC="2.99", CONDA_CHANNELS="elsewhere",
    )  # fmt: skip
    assert other.bytes() == toy.bytes()
    assert len(toy.bytes()) == 4


def test_a_pin_moves_only_when_asked(toy, index):
    toy.lock()
    before = toy.bytes()
    for name in ("beta", "gamma"):
        index.release(name, "1.0.5", "2025-02-01")
    toy.channel({"python": f"{MINOR}.4", "git": "2.50 2.51"})
    assert "nothing changed" in toy.lock()
    assert toy.bytes() == before
    said = toy.lock("--upgrade", "gamma")
    assert toy.versions() == {"alpha": "1.0", "beta": "1.0", "gamma": "1.0.5"}
    assert "1 up" in said
    toy.lock("--upgrade")
    assert toy.versions() == {"alpha": "1.0", "beta": "1.0.5", "gamma": "1.0.5"}
    assert b"version: '2.51'" in toy.bytes()[lockfiles.CONDA_LOCK]


def test_an_edit_has_its_own_consequences_only(toy, index):
    index.release("delta", "1.0", "2025-01-01")
    toy.lock()
    index.release("beta", "1.0.5", "2025-02-01")  # newer than the pin, and no business of this edit
    toy.write("environments/toy/requirements.in", "alpha\ngamma\ndelta\n")
    assert toy.run("lock", "toy", "--check").returncode == 13
    assert "1 added" in toy.lock()
    assert toy.versions() == {"alpha": "1.0", "beta": "1.0", "gamma": "1.0", "delta": "1.0"}


def test_resolvers_that_disagree_are_refused_and_nothing_lands(toy, index):
    toy.lock()
    before = toy.bytes()
    index.release("gamma", "1.5", "2025-02-01")
    index.hide["requests"] = {"gamma-1.5-py3-none-any.whl"}  # pip's view of the index goes through our loopback server
    done = toy.run("lock", "toy", "--upgrade")
    assert done.returncode == 14, done.stderr
    assert "gamma: uv 1.5, pip 1.0" in done.stderr
    assert "alpha" not in done.stderr.partition("differently")[2].partition("bound")[0]
    assert toy.bytes() == before


def test_no_solution_is_told_in_the_resolvers_words(toy, index):
    toy.lock()
    before = toy.bytes()
    toy.write("environments/toy/requirements.in", "alpha\nbeta<1\n")
    done = toy.run("lock", "toy")
    assert done.returncode == 15
    assert "beta" in done.stderr
    assert "Traceback" not in done.stderr
    assert toy.bytes() == before


def test_an_sdist_needs_an_exception(toy, index):
    index.sdist("epsilon", "1.0", "2025-01-01")
    toy.write("environments/toy/requirements.in", "epsilon\n")
    done = toy.run("lock", "toy")
    assert done.returncode == 15
    assert not toy.bytes()


def test_a_pre_release_needs_an_exception(toy, index):
    """What happened with pylatexenc: the last release is an sdist alone, so a wheel of an alpha was all that was left."""
    index.sdist("epsilon", "1.0", "2025-01-01")
    index.release("epsilon", "2.0a1", "2025-01-01")
    toy.write("environments/toy/requirements.in", "epsilon\n")
    done = toy.run("lock", "toy")
    assert done.returncode == 15
    assert "only a pre-release of epsilon (2.0a1) fits" in done.stderr and not toy.bytes()
    toy.write("recipes/toy/recipe.toml", RECIPE + '[[prerelease]]\npackage = "Epsilon"\nreason = "no wheel else"\n')
    toy.lock()
    assert toy.versions() == {"epsilon": "2.0a1"}
    why = toy.run("why", "toy", "epsilon")
    assert "may be a pre-release: no wheel else" in why.stdout
    index.release("epsilon", "1.1", "2025-01-01")
    toy.write("recipes/toy/recipe.toml", RECIPE)
    toy.lock()
    assert toy.versions() == {"epsilon": "1.1"}, "without its exception it is nothing to stay with"


ASIDE = """
[[override]]
requirer = "alpha"
requirement = "num<2"
reason = "It runs with either."
link = "https://example.org/1"
"""


def test_a_requirement_that_is_set_aside(toy, index):
    """What verl 0.7.1 and vLLM 0.17 need: each asks for another numpy. Both resolvers see one edge less, and no more."""
    for version in ("1.26", "2.0", "3.0"):
        index.release("num", version, "2025-01-01")
    index.release("alpha", "1.0.1", "2025-01-02", "num<2", "beta>=1")
    index.release("delta", "1.0", "2025-01-01", "num>=2,<3")
    toy.write("environments/toy/requirements.in", "alpha==1.0.1\ndelta\n")
    done = toy.run("lock", "toy")
    assert done.returncode == 15 and "num>=2" in done.stderr and not toy.bytes()
    toy.write("recipes/toy/recipe.toml", RECIPE + ASIDE)
    toy.lock()
    assert toy.versions() == {"alpha": "1.0.1", "beta": "1.0", "delta": "1.0", "num": "2.0"}
    assert toy.pins()["num"].via == ("delta",)
    assert b"# Set aside: alpha asks for num<2" in toy.bytes()["requirements.txt"]
    assert b"Set aside" not in toy.bytes()[lockfiles.BUILD_REQUIREMENTS]
    assert (
        "set aside, alpha asks for num<2: It runs with either. https://example.org/1"
        in toy.run("why", "toy", "num").stdout
    )
    assert toy.run("lock", "toy", "--check").returncode == 0
    before = toy.bytes()
    assert "nothing changed" in toy.lock() and toy.bytes() == before

    toy.write("recipes/toy/recipe.toml", RECIPE)
    assert toy.run("lock", "toy", "--check").returncode == 13
    toy.write("recipes/toy/recipe.toml", RECIPE + ASIDE)
    index.release("delta", "1.1", "2025-01-03", "num")
    done = toy.run("lock", "toy", "--upgrade")
    assert done.returncode == 17 and "alpha asks for num<2, and uv finds a solution that keeps to it" in done.stderr
    assert toy.bytes() == before, "nothing lands"


@pytest.mark.parametrize("sdist", [True, False])
def test_of_what_has_no_usable_wheel_the_glibc_is_said(toy, index, sdist):
    index.release("guide", "1.7", "2025-01-01", tag="py3-none-manylinux_2_31_x86_64")
    if sdist:
        index.sdist("guide", "1.7", "2025-01-01")
    toy.write("environments/toy/requirements.in", "guide\n")
    done = toy.run("lock", "toy")
    assert done.returncode == 15
    assert "guide==1.7 has wheels for glibc 2.31 and newer; the recipe's [platform] says 2.17" in done.stderr


def conda_versions(toy):
    return {
        item["name"]: item["version"]
        for item in lockfiles.conda_packages(toy.root / "locks/toy" / lockfiles.CONDA_LOCK)
    }


def test_the_cutoff_holds_for_the_conda_layer(toy):
    toy.channel({"python": f"{MINOR}.4", "git": "2.50 2.51 2.52"})
    path = toy.root / "channel/linux-64/repodata.json"
    content = json.loads(path.read_text())
    content["packages.conda"]["git-2.51-0.conda"]["timestamp"] = 1_743_638_400_000  # 00:00 of the very day
    del content["packages.conda"]["git-2.52-0.conda"]["timestamp"]
    path.write_text(json.dumps(content))
    toy.lock()
    assert conda_versions(toy)["git"] == "2.50"
    assert "git" in toy.lock("--cutoff", "none") and conda_versions(toy)["git"] == "2.50"
    toy.write("recipes/toy/recipe.toml", RECIPE.replace("2025-04-03", "2025-04-04"))
    done = toy.run("lock", "toy", "--check")
    assert done.returncode == 13 and "locks/toy/conda-lock.yml" in done.stderr
    toy.lock()
    assert conda_versions(toy)["git"] == "2.50", "a pin moves only when asked"
    toy.lock("--upgrade", "git")
    assert conda_versions(toy)["git"] == "2.51"
    toy.write("recipes/toy/recipe.toml", RECIPE)
    toy.lock()
    assert conda_versions(toy)["git"] == "2.50", "what the cut-off forbids is nothing to stay with"


def test_replaced_bytes_are_loud(toy, index):
    toy.lock()
    new = index.release("gamma", "1.0", "2025-01-01", salt="replaced")
    said = toy.lock()
    assert "RE-HASHED" in said
    assert "toy pip gamma 1.0" in said
    assert toy.pins()["gamma"].hashes == (f"sha256:{new}",)


def test_another_cutoff_is_a_trial(toy, index):
    toy.lock()
    before = toy.bytes()
    index.release("alpha", "1.1", "2025-05-01", "beta>=1", "early")
    index.release("early", "1.0a1", "2025-05-01")  # a trial shows it all the same
    for cutoff in ("2025-06-01", "none"):
        said = toy.lock("--cutoff", cutoff)
        assert "alpha" in said
        assert "1.1" in said
        assert toy.bytes() == before
    assert toy.run("lock", "toy", "--cutoff", "soon").returncode == 11


def test_layers_that_differ_are_refused(toy):
    toy.write("environments/common/environment.yml", "channels: [conda-forge]\ndependencies: [git, gamma]\n")
    packages = {"python": f"{MINOR}.4", "git": "2.50", "gamma": "2.0"}
    toy.channel(packages)
    path = toy.root / "channel/linux-64/repodata.json"
    content = json.loads(path.read_text())
    content["packages.conda"]["gamma-2.0-0.conda"]["depends"] = ["python"]
    path.write_text(json.dumps(content))
    done = toy.run("lock", "toy")
    assert done.returncode == 14
    assert "gamma: conda 2.0, pip 1.0" in done.stderr


def test_without_a_channel_the_conda_layer_is_confirmed_from_itself(toy):
    toy.lock()
    before = toy.bytes()
    dead = {"VERLOCK_CONDA_REPODATA": "", "HTTPS_PROXY": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    said = toy.lock(**dead)
    assert "no conda channel answers" in said
    assert toy.bytes() == before
    toy.write("environments/toy/environment.yml", "channels: [conda-forge]\ndependencies: [jq]\n")
    done = toy.run("lock", "toy", **dead)
    assert done.returncode == 24
    assert toy.bytes() == before


def test_an_index_that_does_not_answer_is_named(toy):
    done = toy.run("lock", "toy", PIP_INDEX_URL="http://127.0.0.1:9/simple")
    assert done.returncode == 24, done.stderr
    assert "127.0.0.1" in done.stderr


def test_the_locks_diff_from_git(toy, index):
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@t", "-C", str(toy.root)]
    toy.lock()
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "locks"], check=True)
    subprocess.run([*git, "commit", "-qm", "one"], check=True)
    assert "no lock changed" in toy.run("diff").stdout
    index.release("gamma", "1.0.5", "2025-02-01")
    toy.lock("--upgrade", "gamma")
    assert toy.run("diff", "--markdown").stdout == "- `toy`\n  - `gamma` 1.0 → 1.0.5\n"
    assert toy.run("diff", "HEAD", "HEAD").stdout.strip() == "no lock changed"
    done = toy.run("diff", "nowhere")
    assert done.returncode == 12
    assert "nowhere" in done.stderr


def test_conda_lock_renders_every_conda_layer(tmp_path):
    for path in sorted(paths.LOCKS.rglob("conda-lock.yml")):
        code = "import sys; from conda_lock.conda_lock import main; sys.exit(main())"
        template = f"{'-'.join(path.relative_to(paths.LOCKS).parent.parts)}-{{platform}}.lock"
        subprocess.run(
            [sys.executable, "-c", code, "render", "--kind", "explicit", "--platform", "linux-64",
             "--filename-template", template, str(path)],
            cwd=tmp_path, capture_output=True, check=True,
        )  # fmt: skip
        rendered = (tmp_path / template.format(platform="linux-64")).read_text()
        assert rendered.count("https://") == len(lockfiles.conda_packages(path))


def test_sets_of_tools_agree_and_move_only_when_asked(toy, index):
    def versions(name):
        lines = (toy.root / f"locks/tools/{name}.txt").read_text().splitlines()
        return dict(line.split(" ")[0].split("==") for line in lines if line[:1].isalpha())

    shutil.rmtree(toy.root / "locks/tools")
    toy.write("environments/tools/requirements.in", "# cut-off: 2025-04-03\nbeta\n")
    toy.write("environments/tools/docs.in", "-r requirements.in\nalpha\n")
    assert toy.run("lock", "tools").returncode == 0
    assert versions("requirements") == {"beta": "1.0"}
    assert versions("docs") == {"alpha": "1.0", "beta": "1.0"}
    before = (toy.root / "locks/tools/docs.txt").read_bytes()
    for name in ("alpha", "beta"):
        index.release(name, "1.0.5", "2025-02-01")
    assert toy.run("lock", "tools").returncode == 0
    assert (toy.root / "locks/tools/docs.txt").read_bytes() == before
    assert toy.run("lock", "tools", "--upgrade", "beta").returncode == 0
    assert versions("requirements") == {"beta": "1.0.5"}
    assert versions("docs") == {"alpha": "1.0", "beta": "1.0.5"}
    toy.write("environments/tools/docs.in", "-r requirements.in\nalpha\nbeta<1.0.5\n")
    done = toy.run("lock", "tools")
    assert done.returncode == 15 and "docs.in" in done.stderr
    assert toy.run("lock", "tools", "--check").returncode == 13
