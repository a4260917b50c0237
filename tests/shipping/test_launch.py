"""`run` and `shell`: what they print, what they start, and that nothing of verlock is left between."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys

import pytest
import toy

from verlock import cli, paths, straight
from verlock.env import launcher
from verlock.shipping import launch
from verlock.system import process
from verlock.variant import receipt
from verlock.variant.chosen import choose


@pytest.fixture(params=["with verlock-run", "made by an older verlock"])
def prefix(clone, request):
    """A finished environment as far as `run` looks: a receipt, a Python, and what lets `run` take the short way."""
    chosen = choose("vllm073")
    prefix = chosen.prefix
    (prefix / "bin").mkdir(parents=True)
    (prefix / "bin/python").symlink_to(sys.executable)
    if request.param == "with verlock-run":
        launcher.write(prefix, launch.settings(chosen))
    receipt.write(prefix, {**toy.SEALED, "schema": receipt.SCHEMA, "prefix": str(prefix)})
    return prefix


def run(prefix, *line, stdin="", **variables):
    """`verlock run` as a process of its own."""
    env = {**os.environ, "VERLOCK_ENVS": str(prefix.parent), "PYTHONPATH": str(paths.ROOT), **variables}
    command = [sys.executable, "-m", "verlock", *line]
    return subprocess.run(command, env=env, input=stdin, capture_output=True, text=True, check=False)


def test_a_command_has_its_exit_code_arguments_and_input(prefix):
    code = "import sys; print(sys.argv[1:], sys.stdin.read()); sys.exit(7)"
    done = run(prefix, "run", "vllm073", "python", "-c", code, "--python", "-x", "--", "b c", stdin="in")
    assert (done.returncode, done.stdout) == (7, "['--python', '-x', '--', 'b c'] in\n"), done.stderr


def test_the_short_way_is_for_a_program_of_a_finished_environment(prefix, monkeypatch):
    monkeypatch.setenv("VERLOCK_ENVS", str(prefix.parent))
    there = (prefix / launcher.NAME).exists()
    runner = str(prefix / launcher.NAME)
    for line in (["vllm073", "python", "-c", "--"], ["vllm073", "--", "python", "-c", "--"]):
        assert straight.way(["run", *line]) == ([runner, "python", "-c", "--"] if there else None)
    for line in (["run", "vllm073", "pwd"], ["run", "vllm073", "--chdir", "/", "python"], ["run", "vllm073"], ["run"], [],
                 ["run", "vllm072", "python"], ["run", "../vllm073", "python"], ["shell", "vllm073", "python"],
                 ["run", "vllm073", "--", "--flags"]):  # fmt: skip
        assert straight.way(line) is None
    (prefix / receipt.NAME).unlink()
    assert straight.way(["run", "vllm073", "python"]) is None


@pytest.mark.parametrize("line", [["vllm073", "--chdir", "/", "--", "pwd"], ["--chdir", "/", "vllm073", "pwd"],
                                  ["vllm073", "--python", "3.10", "--chdir=/", "pwd"]])  # fmt: skip
def test_options_before_and_behind_the_variant(prefix, line):
    assert run(prefix, "run", *line).stdout == "/\n"


@pytest.mark.parametrize(
    "line", [["vllm073"], ["vllm073", "--flags", "pwd"], ["vllm073", "--flags", "--print-env"], []]
)
def test_neither_a_command_nor_something_to_print_or_both(prefix, line):
    done = run(prefix, "run", *line)
    assert done.returncode == 2 and "usage:" in done.stderr and not done.stdout


def test_stray_variables_stay_out_and_the_recipe_s_are_set(prefix):
    code = "import json, os; print(json.dumps(dict(os.environ)))"
    stray = {"VLLM_X": "1", "RAY_ADDRESS": "auto", "PYTHONHOME": "", "LD_LIBRARY_PATH": "/opt"}
    seen = json.loads(run(prefix, "run", "vllm073", "python", "-c", code, **stray).stdout)
    assert seen["VLLM_USE_V1"] == "0" and seen["PYTHONNOUSERSITE"] == "1" and seen["LD_LIBRARY_PATH"] == "/opt"
    assert seen["PATH"].startswith(f"{prefix}/bin:")
    assert not seen.keys() & {"PYTHONPATH", "VLLM_X", "RAY_ADDRESS"}


def test_the_lines_of_print_env_make_a_shell_what_run_makes_a_command(prefix):
    stray = {"VLLM_X": "1", "RAY_ADDRESS": "auto", "ODD": "it's\n$(x)"}
    printed = run(prefix, "run", "vllm073", "--print-env", **stray).stdout
    env = {**os.environ, "VERLOCK_ENVS": str(prefix.parent), "PYTHONPATH": str(paths.ROOT), **stray}
    own = subprocess.run(["bash", "-c", printed + "env -0"], env=env, capture_output=True, text=True, check=True)
    ran = run(prefix, "run", "vllm073", "bash", "-c", "env -0", **stray)
    shells = {"_", "OLDPWD", "SHLVL", "PWD"}

    def seen(text):
        return {each for each in text.split("\0") if each.partition("=")[0] not in shells}

    assert seen(own.stdout) == seen(ran.stdout) and "unset RAY_ADDRESS\n" in printed


def test_a_signal_reaches_the_command_which_is_the_process_itself(prefix):
    env = {**os.environ, "VERLOCK_ENVS": str(prefix.parent), "PYTHONPATH": str(paths.ROOT)}
    command = [sys.executable, "-m", "verlock", "run", "vllm073", "sh", "-c", "echo $$; exec sleep 60"]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout and int(child.stdout.readline()) == child.pid
        child.send_signal(signal.SIGUSR1)
    assert child.returncode == -signal.SIGUSR1


def test_a_reader_that_goes_away_ends_the_command(prefix):
    """Python ignores SIGPIPE, and a command would inherit that."""
    line = shlex.join([sys.executable, "-m", "verlock", "run", "vllm073", "sh", "-c", "yes; echo ignored >&2"])
    env = {**os.environ, "VERLOCK_ENVS": str(prefix.parent), "PYTHONPATH": str(paths.ROOT)}
    done = subprocess.run(["bash", "-c", f"{line} | head -1"], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "y\n" and "Broken pipe" not in done.stderr


def test_what_cannot_be_started(prefix, tmp_path):
    file = tmp_path / "file"
    file.touch()
    assert run(prefix, "run", "vllm073", "nonesuch").returncode == 127
    done = run(prefix, "run", "vllm073", str(file))
    assert done.returncode == 126 and "Permission denied" in done.stderr
    assert run(prefix, "run", "vllm073", "--chdir", str(file), "pwd").returncode == 60


def test_an_environment_that_is_not_there(clone, capsys):
    for option in (["true"], ["--print-env"], ["--py-executable"]):
        assert cli.main(["run", "vllm073", *option]) == 40
        assert "nox -s env-" in capsys.readouterr().err
    assert cli.main(["shell", "vllm073"]) == 40


def test_flags_are_the_recipe_s_one_a_line(prefix):
    own = choose("vllm073").recipe.verl.flags
    said = run(prefix, "run", "vllm073", "--flags").stdout.splitlines()
    assert said == [*own, "trainer.nnodes=1", "trainer.n_gpus_per_node=8"]
    said = run(prefix, "run", "vllm073", "--flags", "--nodes", "2", "--gpus-per-node", "4").stdout.splitlines()
    assert said == [*own, "trainer.nnodes=2", "trainer.n_gpus_per_node=4"]


def test_what_is_read_without_the_model_is_what_the_model_reads(clone):
    from verlock.variant import chosen

    for name in chosen.names():
        each = choose(name)
        assert launch.settings(each) == each.recipe.vllm.environment
        assert launch.flags(each, 1, 8)[:-2] == each.recipe.verl.flags


def test_py_executable_keeps_what_ray_sets_for_its_workers(prefix):
    printed = run(prefix, "run", "vllm073", "--py-executable").stdout.strip()
    code = "import os, sys; print(sys.executable, *(os.environ.get(n) for n in sys.argv[1:]))"
    names = ["RAY_JOB_ID", "PYTHONPATH", "VLLM_LOGGING_LEVEL", "VLLM_USE_V1", "LD_PRELOAD", "PYTHONNOUSERSITE"]
    env = {
        "PATH": os.environ["PATH"],
        "RAY_JOB_ID": "1",
        "PYTHONPATH": "/w",
        "VLLM_LOGGING_LEVEL": "WARN",
        "VLLM_USE_V1": "1",
    }
    line = f"exec {printed} -c {shlex.quote(code)} {' '.join(names)}"
    done = subprocess.run(
        ["bash", "-c", line], env={**env, "LD_PRELOAD": ""}, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{prefix}/bin/python 1 /w WARN 0 None 1\n"
    assert set(launch._NOT_FOR_A_WORKER) <= set(process.VARIANT.drops)


def test_a_shell_is_put_right_after_the_user_s_own_start_file(prefix, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / ".bashrc").write_text(
        "export PYTHONPATH=/mine RAY_ADDRESS=auto; PATH=/usr/bin:$PATH; alias hi='echo alias'\n"
    )
    done = run(prefix, "shell", "vllm073", stdin="hi\necho $RAY_ADDRESS. $PYTHONPATH. $VLLM_USE_V1\ncommand -v python\nexit 5\n",
               HOME=str(home))  # fmt: skip
    assert done.returncode == 5
    assert done.stdout == f"alias\n. . 0\n{prefix}/bin/python\n"


def test_without_bash_another_shell_is_named(prefix, monkeypatch, capsys):
    monkeypatch.setattr(launch.shutil, "which", lambda name: None)
    assert cli.main(["shell", "vllm073"]) == 29
    assert "nox -s run -- vllm073 sh" in capsys.readouterr().err
