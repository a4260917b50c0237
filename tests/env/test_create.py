"""When `create` has something to do, and that two runs on one prefix take turns. Its steps: tests/e2e/test_create.py."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import time

import pytest

from verlock.env import artefacts, create
from verlock.env.create import Options
from verlock.variant import receipt
from verlock.variant.chosen import choose


@pytest.fixture
def prefix(clone, tmp_path):
    """A sealed prefix of vllm073 with nothing in it but its receipt."""
    folder = tmp_path / "envs/vllm073"
    folder.mkdir(parents=True)
    sealed = {
        **dict.fromkeys(receipt.KEYS),
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
    receipt.write(folder, {**sealed, "fingerprint": receipt.fingerprint(folder)})
    return folder


@pytest.fixture
def remade(monkeypatch):
    """Notes what would be made, in the place of making it."""
    calls = []

    def make(variant, python, prefix, current, options, present):
        calls.append(present)
        return receipt.read(prefix) if present is None and (prefix / receipt.NAME).exists() else present

    monkeypatch.setattr(create, "_make", make)
    return calls


def change(prefix, **fields):
    receipt.write(prefix, {**receipt.read(prefix), **fields})


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
        ({}, Options(editable=True)),
        ({"editable": True}, Options()),
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
    create.run("vllm073", Options(editable=True))
    create.run("vllm073", Options(base="conda"))
    assert remade == [None, None]


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
    create.run("vllm073", Options(python="3.12"))
    assert remade == [None]
    assert (prefix.parent / ".vllm073-py312.lock").exists()
