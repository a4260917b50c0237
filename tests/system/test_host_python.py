"""Finding a CPython: what runs and says so, not what has the right name."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from verlock.system import host_python

ANSWER = (
    '#!/bin/sh\necho \'{{"implementation": "{implementation}", "version": "{version}", "executable": "{executable}", '
    '"bits": {bits}, "venv": {venv}}}\'\n'
)


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A machine with no Python at all, on whose PATH a test can put some."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    monkeypatch.setenv("UV_PYTHON_INSTALL_DIR", str(tmp_path / "uv"))
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path / "nowhere"))
    real = os.path.isfile
    monkeypatch.setattr(os.path, "isfile", lambda path: not str(path).startswith(("/usr/", "/bin/")) and real(path))

    def put(folder: str, name: str, text: str) -> Path:
        path = tmp_path / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return path

    def python(folder: str, version: str, name: str = "python3.10", **more: object) -> Path:
        facts = {"implementation": "CPython", "bits": 64, "venv": "false", **more}
        text = ANSWER.format(version=version, executable=tmp_path / folder / name, **facts)
        return put(folder, name, text)

    python.put = put
    return python


def test_none(host):
    assert host_python.find("3.10") is None


def test_the_newest_wins_wherever_it_is(host):
    host("bin", "3.10.9")
    host("pyenv/versions/3.10.13/bin", "3.10.13")
    newest = host("uv/cpython-3.10.14-linux-x86_64-gnu/bin", "3.10.14")
    assert host_python.find("3.10") == host_python.HostPython(newest, "3.10.14")


def test_a_pyenv_shim_that_exits_127(host):
    host.put("bin", "python3.10", "#!/bin/sh\necho 'pyenv: python3.10: command not found' >&2\nexit 127\n")
    assert host_python.find("3.10") is None
    real = host("pyenv/versions/3.10.1/bin", "3.10.1")
    found = host_python.find("3.10")
    assert found and found.executable == real


@pytest.mark.parametrize(
    "odd", [{"implementation": "PyPy"}, {"bits": 32}, {"venv": "true"}], ids=["PyPy", "32 bits", "in a venv"]
)
def test_what_is_no_base(host, odd):
    host("bin", "3.10.9", **odd)
    assert host_python.find("3.10") is None


@pytest.mark.parametrize("version", ["3.11.1", "3.1.10", "3.100.1"])
def test_another_minor_version_under_the_name(host, version):
    host("bin", version)
    assert host_python.find("3.10") is None


def test_python3_is_asked_where_there_is_no_other(host):
    path = host("bin", "3.10.2", name="python3")
    assert host_python.find("3.10") == host_python.HostPython(path, "3.10.2")
    assert host_python.find("3.11") is None


@pytest.mark.parametrize("text", ["", "#!/bin/sh\n", "#!/nonexistent\n", "\x7fELF nonsense", "#!/bin/sh\necho '[]'\n"])
def test_what_does_not_answer(host, text):
    host.put("bin", "python3.10", text)
    assert host_python.find("3.10") is None


def test_a_candidate_that_hangs_costs_its_patience_once(host, monkeypatch):
    monkeypatch.setattr(host_python, "_PATIENCE", 0.3)
    host.put("bin", "python3.10", "#!/bin/sh\n/bin/sleep 20\n")
    real = host("pyenv/versions/3.10.1/bin", "3.10.1")
    start = time.monotonic()
    found = host_python.find("3.10")
    assert found and found.executable == real
    assert time.monotonic() - start < 3


def test_a_candidate_gets_nothing_of_what_the_user_types(host):
    host.put("bin", "python3.10", "#!/bin/sh\nread word && echo '{}'\n")
    start = time.monotonic()
    assert host_python.find("3.10") is None
    assert time.monotonic() - start < host_python._PATIENCE / 2


def test_one_interpreter_by_two_names_is_asked_once(host, tmp_path):
    log = tmp_path / "log"
    path = host("bin", "3.10.9")
    path.write_text(path.read_text().replace("#!/bin/sh\n", f"#!/bin/sh\necho asked >> {log}\n"))
    (tmp_path / "pyenv/versions/3.10.9/bin").mkdir(parents=True)
    (tmp_path / "pyenv/versions/3.10.9/bin/python3.10").symlink_to(path)
    host_python.find("3.10")
    assert log.read_text() == "asked\n"


def test_no_home_and_an_empty_path(host, monkeypatch):
    for name in ("HOME", "PYENV_ROOT", "UV_PYTHON_INSTALL_DIR", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as for a user without an entry in passwd
    assert host_python.find("3.99") is None


def test_the_interpreter_that_runs_verlock_is_found():
    """Not a fake: the tools' venv is made of a CPython, which is a base for its minor version, and the venv itself is not."""
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    found = host_python.find(minor)
    assert found and found.version.startswith(minor)
    code = "import sys; print(sys.prefix == sys.base_prefix)"
    assert subprocess.run([found.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "True\n"


def test_the_library_is_the_one_that_the_interpreter_has_loaded():
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    found = host_python.find(minor)
    linked = subprocess.run(["ldd", found.executable], capture_output=True, text=True, check=True).stdout
    assert (found.libpython is not None) == ("libpython" in linked)
    assert found.libpython is None or (found.libpython.is_file() and found.libpython.name in linked)


@pytest.mark.skipif(sys.prefix == sys.base_prefix, reason="the tests do not run in a virtual environment")
def test_a_real_virtual_environment_is_none():
    assert host_python.probe(Path(sys.executable)) is None
