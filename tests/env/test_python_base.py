"""The base of a prefix, and what is put back when there is no base."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil

import pytest

from verlock.conda import client
from verlock.env import prefix_folder, python_base
from verlock.errors import InstallError, NetworkError, NoBase
from verlock.system import host_python, uv
from verlock.variant import receipt
from verlock.variant.chosen import choose


@pytest.fixture
def chosen(clone):
    return choose("vllm073")


@pytest.fixture
def prefix(chosen):
    """The folder where an environment is to be."""
    chosen.prefix.parent.mkdir()
    return chosen.prefix


@pytest.fixture
def host(monkeypatch, tmp_path):
    """A host CPython, and a uv that makes a venv of one file."""

    def venv(interpreter, prefix, prompt):
        (prefix / "bin").mkdir()
        (prefix / "bin/activate").write_text("# activate\n")

    (tmp_path / "python").write_text("python")
    found = host_python.HostPython(tmp_path / "python", "3.10.99")
    monkeypatch.setattr(host_python, "find", lambda minor: found)
    monkeypatch.setattr(uv, "make_venv", venv)


def refuse(error):
    def install(*arguments, **keywords):
        raise error

    return install


def old(prefix):
    """An environment as an earlier run left it."""
    prefix.mkdir()
    (prefix / receipt.NAME).write_text("{}")
    (prefix / "old").write_text("old")


def make(chosen, kind):
    """The base alone, as the first step of a run that then goes on to its end."""
    with prefix_folder.replacing(chosen.prefix):
        made = python_base.install(chosen, kind)
        (chosen.prefix / receipt.NAME).write_text("{}")
        return made


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_host_s_base(chosen, prefix, host):
    old(prefix)
    entry, files = make(chosen, "host")
    assert entry["kind"] == "host" and entry["version"] == "3.10.99"
    text = (prefix / "bin/activate").read_bytes()
    own = (prefix / "bin/verlock-run").read_bytes()
    assert files == {
        "bin/activate": hashlib.sha256(text).hexdigest(),
        "bin/verlock-run": hashlib.sha256(own).hexdigest(),
    }
    assert text == b"# activate\nexport VLLM_USE_V1=0\n"
    assert names(prefix.parent) == ["vllm073"]


def test_the_receipt_holds_the_host_s_interpreter_and_its_library(chosen, prefix, host, monkeypatch, tmp_path):
    """By the path that the environment links to: both an edit of that file and another file behind a link are seen."""
    (tmp_path / "python3").symlink_to("python")
    (tmp_path / "libpython3.10.so.1.0").write_text("library")
    found = host_python.HostPython(tmp_path / "python3", "3.10.99", tmp_path / "libpython3.10.so.1.0")
    monkeypatch.setattr(host_python, "find", lambda minor: found)
    entry, _ = make(chosen, "host")
    assert entry["interpreter"] == {
        str(tmp_path / name): hashlib.sha256(text).hexdigest()
        for name, text in (("python3", b"python"), ("libpython3.10.so.1.0", b"library"))
    }


def test_values_are_quoted_for_the_shell(chosen, prefix, host):
    vllm = {**chosen.data["vllm"], "environment": {"A": "it's $HOME", "B": "`x`"}}
    odd = dataclasses.replace(chosen, data={**chosen.data, "vllm": vllm})
    make(odd, "host")
    assert """export A='it'"'"'s $HOME'\nexport B='`x`'\n""" in (prefix / "bin/activate").read_text()


def test_auto_takes_the_host_s_where_no_channel_answers_and_says_so(chosen, prefix, host, monkeypatch, capsys):
    problem = "conda.anaconda.org does not answer: Connection refused"
    monkeypatch.setattr(client, "ask", refuse(NetworkError(problem)))
    entry, _ = make(chosen, "auto")
    assert entry["kind"] == "host"
    assert f"warning: {problem}; base: host" in capsys.readouterr().err


def test_auto_takes_the_host_s_where_the_network_ends_half_way(chosen, prefix, host, monkeypatch):
    def install(lock, prefix, cache, *, mirrors):
        (prefix / "half").write_text("half")
        raise NetworkError("the channel went away")

    monkeypatch.setattr(client, "ask", lambda lock, mirrors, cache: None)
    monkeypatch.setattr(client, "install", install)
    entry, files = make(chosen, "auto")
    assert entry["kind"] == "host" and set(files) == {"bin/activate", "bin/verlock-run"}
    assert names(prefix) == [prefix_folder.MARKER, "bin", receipt.NAME]
    assert names(prefix.parent) == ["vllm073"]


@pytest.mark.parametrize("kind", ["conda", "auto"])
def test_no_base_at_all_takes_nothing_away(chosen, prefix, monkeypatch, kind):
    monkeypatch.setattr(client, "ask", refuse(NetworkError("nobody answers", "name a mirror")))
    monkeypatch.setattr(client, "install", refuse(NetworkError("nobody answers", "name a mirror")))
    monkeypatch.setattr(host_python, "find", lambda minor: None)
    old(prefix)
    with pytest.raises(NoBase) as caught:
        make(chosen, kind)
    assert "VERLOCK_CONDA_MIRROR" in caught.value.remedy or caught.value.remedy == "name a mirror"
    assert names(prefix) == ["old", receipt.NAME] and names(prefix.parent) == ["vllm073"]


@pytest.mark.parametrize("error", [InstallError("the engine died"), KeyboardInterrupt()])
def test_other_failures_take_nothing_away_either_and_are_not_hidden(chosen, prefix, host, monkeypatch, error):
    monkeypatch.setattr(client, "install", refuse(error))
    old(prefix)
    with pytest.raises(type(error)):
        make(chosen, "conda")
    assert "old" in names(prefix)


def test_the_conda_base(chosen, prefix, monkeypatch):
    """conda-meta vouches for its packages' files; the receipt for links, conda-meta itself and the rest."""

    def install(lock, prefix, cache, *, mirrors):
        (prefix / "bin").mkdir()
        (prefix / "bin/python3.10").write_text("python")
        (prefix / "bin/python").symlink_to("python3.10")
        (prefix / "lib/__pycache__").mkdir(parents=True)
        (prefix / "lib/__pycache__/x.pyc").write_text("code")
        paths = [{"_path": "bin/python3.10"}, {"_path": "bin/python"}]
        (prefix / "conda-meta").mkdir()
        meta = prefix / "conda-meta/python-3.10.20-h1_0_cpython.json"
        meta.write_text(json.dumps({"name": "python", "paths_data": {"paths": paths}}))

    monkeypatch.setattr(client, "install", install)
    entry, files = make(chosen, "conda")
    assert entry == {"kind": "conda", "version": "3.10.20", "from": "conda-lock.yml"}
    assert set(files) == {
        "bin/python",
        "bin/verlock-run",
        "conda-meta/python-3.10.20-h1_0_cpython.json",
        "conda-meta/state",
    }
    assert files["bin/python"] == "link:python3.10"
    assert json.loads((prefix / "conda-meta/state").read_text()) == {"env_vars": {"VLLM_USE_V1": "0"}}


def test_a_compiler_is_asked_for_where_the_engine_compiles(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VERLOCK_ENVS", str(tmp_path / "envs"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.delenv("CC", raising=False)
    quiet, compiling = choose("vllm073"), choose("v1")
    python_base.warn_without_compiler(quiet)
    assert capsys.readouterr().err == ""
    python_base.warn_without_compiler(compiling)
    assert "no C compiler" in capsys.readouterr().err
    for folder in (tmp_path / "path", compiling.prefix / "bin"):
        folder.mkdir(parents=True)
        shutil.copy("/bin/true", folder / "gcc")
        python_base.warn_without_compiler(compiling)
        assert capsys.readouterr().err == ""
        (folder / "gcc").unlink()
