"""When `create` has something to do, and that two runs on one prefix take turns. Its steps: tests/e2e/test_create.py."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import re
import time

import pytest
import toy

from verlock import paths
from verlock.env import artefacts, create, healing, verify
from verlock.env.create import Options
from verlock.errors import ArtefactMissing, CheckoutUnknown, LockError, NetworkError, RecipeError
from verlock.variant import receipt
from verlock.variant.chosen import choose

CHECKOUT = {"checkout": "/", "commit": "c" * 40, "tree": "t" * 40, "differs": {}}


@pytest.fixture
def prefix(clone, tmp_path):
    """A sealed prefix of vllm073 with nothing in it but its receipt."""
    folder = tmp_path / "envs/vllm073"
    folder.mkdir(parents=True)
    sealed = {
        **toy.SEALED,
        "schema": receipt.SCHEMA,
        "prefix": str(folder),
        "variant": "vllm073",
        "python": "3.10",
        "editable": False,
        "digest": choose("vllm073").digest,
        "base": {"kind": "host", "version": "3.10.1"},
        "missing": {},
    }
    (folder / "file").write_text("text")
    (folder / "bin").mkdir()
    (folder / "bin/python").symlink_to(tmp_path / "host-python")
    (tmp_path / "host-python").touch()
    receipt.write(folder, {**sealed, "fingerprint": receipt.fingerprint(folder)})
    return folder


@pytest.fixture
def remade(monkeypatch):
    """Notes what would be made, in the place of making it."""
    calls = []

    def make(chosen, options, own, present):
        calls.append(present)
        sealed = chosen.prefix / receipt.NAME
        return receipt.read(chosen.prefix) if present is None and sealed.exists() else present

    monkeypatch.setattr(create, "_make", make)
    return calls


def change(prefix, **fields):
    receipt.write(prefix, {**receipt.read(prefix), **fields})


def test_an_environment_whose_python_is_gone_from_the_host_is_not_up_to_date(prefix, remade, tmp_path):
    (tmp_path / "host-python").unlink()
    create.run("vllm073", Options())
    assert len(remade) == 1


def test_nothing_to_do(prefix, remade, capsys):
    assert create.run("vllm073", Options()) == 0
    assert create.run("vllm073", Options(base="host", strict=True)) == 0
    assert remade == []
    assert "vllm073 is up to date" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({"digest": "other"}, Options()),
        ({}, Options(base="conda")),
        ({}, Options(editable=("verl",))),
        ({"editable": {"verl": CHECKOUT}}, Options(editable=())),
        ({"editable": {"verl": CHECKOUT}}, Options(editable=("vllm",))),
        ({"editable": {"verl": {**CHECKOUT, "checkout": "/gone"}}}, Options()),
        ({"missing": {"flash-attn": "x"}}, Options(strict=True)),
        ({"fingerprint": ""}, Options()),
    ],
)
def test_something_to_do(prefix, remade, fields, options):
    change(prefix, **fields)
    create.run("vllm073", options)
    assert len(remade) == 1


def test_a_change_of_options_is_no_reason_to_keep_what_is_there(prefix, remade):
    """`--editable` and `--base` ask for another environment, even where the present one is whole."""
    create.run("vllm073", Options(editable=("verl",)))
    create.run("vllm073", Options(base="conda"))
    assert remade == [None, None]


def test_what_is_editable_stays_so_where_nothing_else_is_asked(prefix, remade):
    change(prefix, editable={"verl": CHECKOUT})
    create.run("vllm073", Options())
    create.run("vllm073", Options(editable=("verl",)))
    assert remade == []


def test_a_release_whose_commit_is_not_known_cannot_be_editable(clone):
    with pytest.raises(CheckoutUnknown, match=r"the commit of verl 0.9.1 is not known(?s:.*)no tag v0.9.1"):
        create.run("vllm0240", Options(editable=("verl",)))
    assert list(paths.envs_dir().glob("*")) == []


@pytest.mark.parametrize("reachable", [True, False])
def test_an_incomplete_environment_is_completed_when_that_is_possible(prefix, remade, monkeypatch, reachable):
    asked = []
    monkeypatch.setattr(artefacts, "reachable", lambda url, sha256: asked.append(url) or reachable)
    change(prefix, missing={"flash-attn": "no network"})
    create.run("vllm073", Options())
    assert len(remade) == reachable
    assert len(asked) == 1 and "cp310" in asked[0], "only the file for this Python is asked for"


def hold(path, seconds, ready):
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        ready.set()
        time.sleep(seconds)


def test_a_second_run_waits_for_the_first(prefix, remade, capsys):
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    first = context.Process(target=hold, args=(prefix.with_name(".vllm073.lock"), 0.5, ready))
    first.start()
    ready.wait()
    start = time.monotonic()
    create.run("vllm073", Options())
    assert time.monotonic() - start > 0.3
    assert "another run is working on" in capsys.readouterr().err
    first.join()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP])
def test_a_file_system_without_locks_is_said(prefix, remade, monkeypatch, capsys, number):
    def flock(*arguments):
        raise OSError(number, "no locks")

    monkeypatch.setattr(fcntl, "flock", flock)
    assert create.run("vllm073", Options()) == 0
    assert "has no locks" in capsys.readouterr().err


def test_another_python_is_another_prefix(prefix, remade, clone, monkeypatch):
    for name in ("conda-lock.yml", "requirements.txt", "build-requirements.txt"):
        (clone / "locks/vllm073/py312").mkdir(exist_ok=True)
        (clone / f"locks/vllm073/py312/{name}").write_text("")
    monkeypatch.setattr(create, "_report", lambda *arguments: None)  # nothing was made that could be reported
    create.run("vllm073", Options(), "3.12")
    assert remade == [None]
    assert (prefix.parent / ".vllm073-py312.lock").exists()


class TestWalk:
    """The steps themselves are stand-ins here; tests/e2e/test_create.py takes them for real."""

    @pytest.fixture
    def walk(self, monkeypatch):
        """Notes the steps that are taken and what stands at the prefix meanwhile; one of them may fail."""
        taken = []

        def of(failing=None):
            def step(name):
                def take(making, shown):
                    taken.append((name, (making.chosen.prefix / "file").exists()))
                    if name == failing:
                        raise KeyboardInterrupt
                    making.receipt = {"base": {"kind": "host", "version": "3.10.1"}, "missing": {}, "site_wheels": {}}
                    if name == "seal":
                        receipt.write(making.chosen.prefix, making.receipt)
                    shown.detail = f"did {name}"

                return take

            monkeypatch.setattr(create, "STEPS", {name: step(name) for name in create.STEPS})
            return taken

        return of

    def test_all_steps_are_taken_in_their_order_and_only_the_first_beside_what_was_there(self, prefix, walk, capsys):
        names = list(create.STEPS)
        change(prefix, digest="other")
        taken = walk()
        assert create.run("vllm073", Options()) == 0
        assert taken == [(name, name == names[0]) for name in names]
        said = capsys.readouterr().err
        assert [line.split()[0] for line in said.splitlines() if " did " in line] == names
        assert "vllm073 is ready" in said and not (prefix / "file").exists()
        assert [path.name for path in prefix.parent.iterdir() if "old" in path.name] == []

    @pytest.mark.parametrize("failing", list(create.STEPS))
    def test_whatever_step_fails_what_was_there_comes_back(self, prefix, walk, failing):
        change(prefix, digest="other")
        taken = walk(failing)
        with pytest.raises(KeyboardInterrupt):
            create.run("vllm073", Options())
        assert [name for name, _ in taken] == list(create.STEPS)[: len(taken)] and taken[-1][0] == failing
        assert (prefix / "file").read_text() == "text" and receipt.read(prefix)["digest"] == "other"
        assert [path.name for path in prefix.parent.iterdir() if path != prefix] == [".vllm073.lock"]

    @pytest.mark.parametrize("name", ["requirements.txt", "build-requirements.txt"])
    def test_a_lock_that_cannot_be_read_is_refused_before_the_first_step(self, prefix, walk, clone, edit, name):
        edit(clone / "locks/vllm073" / name, "", "unhashed==1\n")
        taken = walk()
        with pytest.raises(LockError, match="unhashed has no hash"):
            create.run("vllm073", Options())
        assert taken == [] and (prefix / "file").exists()

    def test_a_recipe_that_is_not_valid_is_refused_before_the_first_step(self, prefix, walk, clone, edit):
        change(prefix, digest="other")
        edit(clone / "recipes/vllm073/recipe.toml", "summary =", "sumary =")
        taken = walk()
        with pytest.raises(RecipeError, match="sumary"):
            create.run("vllm073", Options())
        assert taken == [] and (prefix / "file").exists()

    @pytest.mark.parametrize("strict", [False, True])
    def test_what_is_whole_after_all_is_neither_made_nor_fetched(self, prefix, walk, monkeypatch, strict):
        """Its files were touched; that the cache of artefacts is empty and no network there by now is no matter."""
        monkeypatch.setattr(verify, "inspect", lambda chosen: [])
        monkeypatch.setattr(artefacts, "fetch", lambda *arguments: pytest.fail("fetched an artefact"))
        os.utime(prefix / "file", (1, 1))
        taken = walk()
        assert create.run("vllm073", Options(strict=strict)) == 0
        assert taken == [] and receipt.read(prefix)["fingerprint"] == receipt.fingerprint(prefix)

    @pytest.mark.parametrize("there", [False, True])
    def test_what_lacks_an_artefact_is_made_again_only_where_that_can_be_fetched(
        self, prefix, walk, monkeypatch, there
    ):
        def fetch(file, tell):
            if not there:
                raise NetworkError("nobody answers")
            return prefix / "wheel"

        monkeypatch.setattr(artefacts, "reachable", lambda url, sha256: True)  # it seemed so
        monkeypatch.setattr(artefacts, "fetch", fetch)
        change(prefix, missing={"flash-attn": "no network"})
        taken = walk()
        assert create.run("vllm073", Options()) == 0
        assert len(taken) == (len(create.STEPS) if there else 0)
        assert (prefix / "file").exists() != there

    def test_damage_is_named_and_healed(self, prefix, walk, monkeypatch, capsys):
        change(prefix, packages={"torch": {"version": "2"}, "vllm": {"version": "1"}})
        kinds = [("torch", "a"), ("vllm, 0001-X.patch", "b"), ("conda:pip", "c"), ("", "d")]
        damage = [verify.Damage("file changed", package, path) for package, path in kinds]
        dropped = []
        monkeypatch.setattr(verify, "inspect", lambda chosen: damage + damage[3:] * 8)
        monkeypatch.setattr(healing, "prepare", lambda chosen, sealed, damage: dropped.append(len(damage)))
        os.utime(prefix / "file", (1, 1))
        taken = walk()
        create.run("vllm073", Options())
        assert dropped == [12] and len(taken) == len(create.STEPS)
        said = capsys.readouterr().err
        assert said.count("healing file changed") == 10 and "healing 2 more" in said


class TestArtefacts:
    """What can be fetched is noted with its hash, and why the rest cannot."""

    @pytest.fixture
    def making(self, clone):
        return create.Making(choose("vllm073"), Options())

    def test_what_can_be_fetched_is_noted_with_its_hash(self, making, monkeypatch, tmp_path):
        monkeypatch.setattr(artefacts, "fetch", lambda file, tell: tell("1 of 2 MB") or tmp_path / "x.whl")
        said = []
        create.fetched(making, said.append)
        (artefact,) = making.chosen.recipe.artefact
        file = artefact.file_for(making.chosen.recipe.torch, "3.10")
        assert making.wheels == {"flash-attn": (tmp_path / "x.whl", file.sha256)} and making.missing == {}
        assert said == ["1 of 2 MB"]

    def test_what_cannot_is_noted_with_the_reason_and_under_strict_an_error(self, making, monkeypatch):
        def fetch(*arguments):
            raise NetworkError("nobody answers", "name a folder")

        monkeypatch.setattr(artefacts, "fetch", fetch)
        assert create.fetched(making).missing == {"flash-attn": "nobody answers"} and making.wheels == {}
        with pytest.raises(ArtefactMissing, match="nobody answers"):
            create.fetched(create.Making(making.chosen, Options(strict=True)))


def test_the_documentation_names_the_steps_in_their_order():
    """A list, each point with the step's name in bold, below a sentence with their number."""
    text = (paths.ROOT / "docs/how-it-works.md").read_text(encoding="utf-8")
    (told,) = re.findall(r"goes from a lock to a sealed environment in (\w+) steps\.(.+?)\n## ", text, re.DOTALL)
    number, points = told
    steps = re.findall(r"^\d\. \*\*(\w+)\.\*\*", points, re.MULTILINE)
    assert steps == list(create.STEPS)
    assert number == ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"][len(steps) - 1]


@pytest.mark.parametrize(
    ("variant", "advice"), [("vllm073", "VERLOCK_ARTEFACTS"), ("vllm0240", "--site-wheel flash-attn=FILE")]
)
def test_what_is_missing_comes_with_a_remedy_that_works(clone, capsys, variant, advice):
    """For a torch of which no file is locked, none can be fetched or put into a folder."""
    sealed = {
        **toy.SEALED,
        "missing": {"flash-attn": "gone"},
        "overrides": [{"requirer": "verl", "requirement": "numpy<2"}],
    }
    create._report(choose(variant), sealed, "up to date", 0.0)
    said = capsys.readouterr().err
    assert advice in said and ("VERLOCK_ARTEFACTS" in said) == (advice == "VERLOCK_ARTEFACTS")
    assert "set aside: verl asks for numpy<2" in said
