"""bin/verlock-run, and the same lines in a shell: they do what the policy and the recipe say, in every shell there is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verlock.env import launcher
from verlock.system import process

SETTINGS = {"VLLM_USE_V1": "0", "ODD": 'it\'s "$HOME" `x`\n*'}
SHELLS = [name for name in ("dash", "bash", "busybox") if shutil.which(name)]
# what a cluster's login shell may have, and what the policy takes out
STRAY = {
    "PYTHONPATH": "/site/modules",
    "PYTHONHOME": "/usr",
    "VLLM_USE_V1": "1",
    "VLLM_ATTENTION_BACKEND": "XFORMERS",
    "vllm_lower": "x",
    "RAY_ADDRESS": "auto",
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    "CONDA_PREFIX": "/site/conda",
    "LD_LIBRARY_PATH": "/site/cuda",
    "SLURM_JOB_ID": "7",
    "TEXT": "two lines\nRAY_NOT_A_VARIABLE=1",
    "EMPTY": "",
}


@pytest.fixture
def prefix(tmp_path):
    """A prefix at an odd path, with a Python, a program of its own and verlock-run."""
    prefix = tmp_path / "it's an env"
    (prefix / "bin").mkdir(parents=True)
    (prefix / "bin/python").symlink_to(sys.executable)
    launcher.write(prefix, SETTINGS)
    return prefix


def of_child(output: bytes) -> dict[str, str]:
    pairs = (each.partition(b"=") for each in output.split(b"\0") if each)
    found = {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}
    for shells_own in ("_", "PWD", "OLDPWD", "SHLVL"):
        found.pop(shells_own, None)
    return found


def run(prefix, *command, env=None, **more):
    env = {"PATH": os.environ["PATH"], **(env or {})}
    return subprocess.run([prefix / launcher.NAME, *command], env=env, capture_output=True, check=False, **more)


@pytest.mark.parametrize("proxy", [{}, {"https_proxy": "p:1"}, {"http_proxy": "p", "NO_PROXY": "a, b"},
                                   {"ALL_PROXY": "p", "no_proxy": "*"}])  # fmt: skip
def test_the_variables_are_those_that_verlock_itself_would_give(prefix, monkeypatch, proxy):
    for name in list(os.environ):
        if name != "PATH":
            monkeypatch.delenv(name)
    for name, value in {**STRAY, **proxy}.items():
        monkeypatch.setenv(name, value)
    wanted = launcher.variables(prefix, SETTINGS)
    got = of_child(run(prefix, "env", "-0", env={**STRAY, **proxy}).stdout)
    for name in ("no_proxy", "NO_PROXY"):
        assert [each.strip() for each in got.pop(name, "").split(",")] == wanted.pop(name, "").replace(" ", "").split(
            ","
        )
    assert got == wanted
    assert got["VLLM_USE_V1"] == "0" and got["PYTHONNOUSERSITE"] == "1" and got["LD_LIBRARY_PATH"] == "/site/cuda"
    assert not {"PYTHONPATH", "RAY_ADDRESS", "vllm_lower", "PYTORCH_CUDA_ALLOC_CONF"} & got.keys()


@pytest.mark.parametrize("shell", SHELLS)
def test_the_same_lines_in_every_shell(prefix, shell):
    code = launcher.lines(prefix, SETTINGS) + "env -0"
    command = [shell, "sh", "-c", code] if shell == "busybox" else [shell, "-c", code]
    got = of_child(
        subprocess.run(command, env={"PATH": os.environ["PATH"], **STRAY}, capture_output=True, check=True).stdout
    )
    assert got == of_child(run(prefix, "env", "-0", env=STRAY).stdout)


names = st.one_of(
    st.sampled_from([*STRAY, "VLLM_", "RAY_X", "XRAY_Y", "MY_VLLM_Z", "pythonpath"]),
    st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True),
).filter(lambda name: name not in ("PATH", "IFS", "_", "PWD", "OLDPWD", "SHLVL", "PS4", "ENV", "OPTIND", "PPID"))
values = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


@given(variables=st.dictionaries(names, values, max_size=6))
def test_no_variable_and_no_value_makes_a_difference(variables):
    code = launcher.lines(Path("/p"), SETTINGS) + "exec env -0"
    try:
        done = subprocess.run(
            ["sh", "-c", code], env={"PATH": "/usr/bin:/bin", **variables}, capture_output=True, check=True
        )
    except UnicodeEncodeError:
        return
    before = {**os.environ}
    os.environ.clear()
    os.environ.update({"PATH": "/usr/bin:/bin", **variables})
    try:
        wanted = launcher.variables(Path("/p"), SETTINGS)
    finally:
        os.environ.clear()
        os.environ.update(before)
    got = of_child(done.stdout)
    if process.proxied(variables):
        for each in ("no_proxy", "NO_PROXY"):
            got.pop(each), wanted.pop(each)
    assert got == wanted


def test_exit_code_arguments_input_and_the_program_of_the_environment(prefix):
    tool = prefix / "bin/tool"
    tool.write_text('#!/bin/sh\nprintf "%s|" "$@"; cat; exit 7\n')
    tool.chmod(0o755)
    done = run(prefix, "tool", "a b", "", "*", input=b"in")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"a b||*|in", b"")


def test_the_command_takes_the_place_of_the_script(prefix):
    with subprocess.Popen([prefix / launcher.NAME, "sh", "-c", "echo $$; kill -9 $$"], stdout=subprocess.PIPE) as child:
        assert child.stdout and int(child.stdout.read()) == child.pid
    assert child.returncode == -9


def test_a_program_that_is_not_there(prefix):
    done = run(prefix, "nonesuch")
    assert done.returncode == 127 and b"nonesuch" in done.stderr
    assert run(prefix).returncode == 2


def test_it_works_through_a_link_and_from_path(prefix, tmp_path):
    (tmp_path / "vr").symlink_to(prefix / launcher.NAME)
    done = subprocess.run(
        [tmp_path / "vr", "sh", "-c", "command -v python"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"{prefix}/bin/python"
    path = f"{prefix}/bin:{os.environ['PATH']}"
    assert subprocess.run(["verlock-run", "true"], env={"PATH": path}, check=False).returncode == 0


def test_a_copy_at_another_place_refuses_and_says_where_it_belongs(prefix, tmp_path):
    shutil.copytree(prefix, tmp_path / "copy", symlinks=True)
    done = run(tmp_path / "copy", "true")
    assert done.returncode == 127 and str(prefix).encode() in done.stderr


def test_a_host_python_that_this_machine_lacks_is_named(prefix):
    (prefix / "bin/python").unlink()
    (prefix / "bin/python").symlink_to("/not/here/python3.10")
    done = run(prefix, "true")
    assert done.returncode == 127 and b"/not/here/python3.10" in done.stderr and b"--base conda" in done.stderr
