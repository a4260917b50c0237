"""The command line: exit codes, and never a traceback for what is outside verlock's control."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from verlock import cli, paths
from verlock.env import create, python_choice
from verlock.errors import DriverTooOld, NetworkError
from verlock.locking import lock_writer, loopback_index
from verlock.proving import smoke_run
from verlock.system import host_python
from verlock.variant import lockfiles, recipe
from verlock.variant.chosen import choose


def fails(error):
    def run(*arguments, **keywords):
        raise error

    return run


def test_an_error_is_printed_and_its_code_returned(monkeypatch, capsys):
    monkeypatch.setattr(create, "run", fails(DriverTooOld("the driver is old", "update it")))
    assert cli.main(["create", "vllm073"]) == 22
    out, err = capsys.readouterr()
    assert out == "" and err == "verlock: the driver is old\n  update it\n"


def test_ctrl_c(monkeypatch, capsys):
    monkeypatch.setattr(create, "run", fails(KeyboardInterrupt()))
    assert cli.main(["create", "vllm073"]) == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, 21), (errno.EACCES, 60), (errno.EROFS, 60)])
def test_what_the_system_refuses(monkeypatch, capsys, number, code):
    monkeypatch.setattr(create, "run", fails(OSError(number, os.strerror(number), "/x/y")))
    assert cli.main(["create", "vllm073"]) == code
    assert "verlock: /x/y: " in capsys.readouterr().err


@pytest.mark.parametrize("bug", [FileNotFoundError(errno.ENOENT, "x"), KeyError("x"), AssertionError()])
def test_a_bug_keeps_its_traceback(monkeypatch, bug):
    monkeypatch.setattr(create, "run", fails(bug))
    with pytest.raises(type(bug)):
        cli.main(["create", "vllm073"])


@pytest.mark.parametrize("command", ["create", "verify"])
def test_an_unknown_variant(command, capsys):
    assert cli.main([command, "vllm73"]) == 10
    said = capsys.readouterr().err
    assert "there is no variant 'vllm73'" in said and "vllm073" in said


@pytest.mark.parametrize("name", ["../recipes/vllm073", "vllm073/", "", "."])
def test_a_path_is_no_variant(name, clone):
    assert cli.main(["create", name]) == 10
    assert not (clone.parent / "envs").exists()


def test_an_unknown_python(clone):
    assert cli.main(["verify", "vllm073", "--python", "2.7"]) == 10
    assert cli.main(["create", "vllm073", "--python", "2.7"]) == 10
    assert not (clone.parent / "envs").exists()


def test_a_broken_recipe(clone, edit, capsys):
    edit(clone / "recipes/vllm073/recipe.toml", "summary =", "sumary =")
    assert cli.main(["create", "vllm073"]) == 11
    assert "sumary" in capsys.readouterr().err
    assert cli.main(["verify", "vllm073"]) == 11
    assert cli.main(["list"]) == 0
    out = capsys.readouterr().out
    assert "broken: recipes/vllm073/recipe.toml" in out and "vLLM 0.7.2" in out


def test_not_built(clone, capsys):
    assert cli.main(["verify", "vllm073"]) == 40
    assert "make it with `nox -s env-vllm073`" in capsys.readouterr().err
    assert cli.main(["verify", "vllm073", "--python", "3.12"]) == 40
    assert "make it with `nox -s env-vllm073 -- --python 3.12`" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line",
    [
        *([], ["creat"], ["create"], ["create", "vllm073", "--base", "x"], ["verify", "a", "b"]),
        ["smoke", "v1", "--model"],
        *(
            ["smoke", "v1", "--nnodes", "2", "--node-rank", "0", "--rendezvous", at]
            for at in ("host", ":1", "host:0", "h:99999")
        ),
        *(["smoke", "v1", option, count] for option in ("--ranks", "--tp") for count in ("0", "-1", "two")),
    ],
)
def test_a_wrong_command_line(line):
    with pytest.raises(SystemExit) as caught:
        cli.main(line)
    assert caught.value.code == 2


@pytest.mark.parametrize("other", ["--sabotage all", "--unpatched 0001", "--mode verl"])
def test_a_users_own_model_does_not_go_with_what_is_about_the_tiny_one(other, capsys):
    assert cli.main(["smoke", "v1", "--model", "/nowhere", *other.split()]) == 2
    said = capsys.readouterr().err
    assert "--model does not go together with " in said and other.split()[0] in said


PLACE = ["--nnodes", "2", "--node-rank", "1", "--rendezvous", "node0:29500"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (PLACE[:2], "go together"),
        (PLACE[2:], "go together"),
        ([*PLACE[:3], "2", *PLACE[4:]], "K from 0 to N - 1"),
        (["--nnodes", "1", "--node-rank", "0", *PLACE[4:]], "N from 2 on"),
        ([*PLACE, "--sabotage", "all"], "--nnodes does not go together with --sabotage"),
        ([*PLACE, "--mode", "verl"], "--nnodes does not go together with --mode verl"),
    ],
)
def test_what_says_no_place_among_nodes_is_a_wrong_command_line(line, says, capsys):
    assert cli.main(["smoke", "v1", *line]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(("at", "place"), [("node0:29500", ("node0", 29500)), ("[fd00::1]:29500", ("fd00::1", 29500))])
def test_the_place_among_nodes_reaches_the_run(at, place, monkeypatch):
    seen = []
    monkeypatch.setattr(python_choice, "to_prove", lambda *arguments: "chosen")
    monkeypatch.setattr(create, "make", lambda *arguments: None)
    monkeypatch.setattr(smoke_run, "needs", lambda chosen: None)
    monkeypatch.setattr(smoke_run, "run", lambda chosen, options: seen.append(options) or 0)
    assert cli.main(["smoke", "v1", *PLACE[:5], at]) == 0
    assert (seen[0].place.count, seen[0].place.rank, seen[0].place.host, seen[0].place.port) == (2, 1, *place)
    assert cli.main(["smoke", "v1"]) == 0
    assert seen[1].place is None and seen[1].leads and not seen[0].leads


def test_a_model_that_is_not_there_is_refused_before_anything_else(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))  # without a GPU: the model is looked at first
    assert cli.main(["smoke", "v1", "--model", str(tmp_path / "nowhere")]) == 55
    assert "nowhere is no folder" in capsys.readouterr().err


def test_verlock_base_from_the_environment(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(create, "run", lambda variant, options, python: seen.append(options.base) or 0)
    for value in ("host", ""):
        monkeypatch.setenv("VERLOCK_BASE", value)
        assert cli.main(["create", "vllm073"]) == 0
    assert seen == ["host", "auto"]
    monkeypatch.setenv("VERLOCK_BASE", "docker")
    with pytest.raises(SystemExit) as caught:
        cli.main(["create", "vllm073"])
    assert caught.value.code == 2 and "VERLOCK_BASE is 'docker'" in capsys.readouterr().err


def test_options_reach_create(monkeypatch):
    seen = []
    monkeypatch.setattr(create, "run", lambda *arguments: seen.append(arguments) or 0)
    cli.main(["create", "v1", "--base", "conda", "--strict", "--editable", "verl", "--python", "3.12"])
    assert seen == [("v1", create.Options(base="conda", strict=True, editable=("verl",)), "3.12")]


def test_schema_is_written_where_editors_look(clone, monkeypatch):
    monkeypatch.setattr(recipe, "SCHEMA", clone / "recipes/schema.json")
    (clone / "recipes/schema.json").unlink()
    assert cli.main(["schema"]) == 0
    assert (clone / "recipes/schema.json").read_bytes() == (
        paths.Path(__file__).parent.parent / "recipes/schema.json"
    ).read_bytes()


def test_a_reader_that_goes_away():
    """`verlock list | head -1`."""
    code = (
        "import sys\nfrom verlock import cli\nfrom verlock.variant import chosen\n"
        "chosen.names = lambda: ['v1'] * 3000\nsys.exit(cli.main(['list']))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=paths.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout and process.stderr
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == "" and process.wait() == 0


def test_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "verlock", "create", "nothing"],
        cwd=paths.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 10 and done.stdout == "" and "Traceback" not in done.stderr


LINES = {
    "create": ["create", "vllm072", "--base", "host"],
    "verify": ["verify", "vllm072"],
    "patches": ["patches", "vllm072"],
    "list": ["list"],
    "status": ["status"],
    "check": ["lock", "--check"],
    "lock": ["lock", "vllm072"],
    "diff": ["diff"],
    "why": ["why", "vllm072", "python"],
    "export": ["export", "vllm072", "--to", "pylock"],
    "sbom": ["sbom", "vllm072"],
    "flags": ["run", "vllm072", "--flags"],
    "run": ["run", "vllm072", "--", "true"],
}
SPOILT = [
    "recipes/vllm072/recipe.toml",
    "recipes/common/verl-0.3.toml",
    "recipes/vllm072/patches/0002-Take-the-local-rank-from-LOCAL_RANK.patch",
    "environments/vllm072/requirements.in",
    "environments/common/environment.yml",
    "locks/SHA256SUMS",
    *(f"locks/vllm072/{name}" for name in lockfiles.ALL),
    "certificates/vllm072/limits.toml",
]


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"<<<<<<< ours\n"], ids=["no-text", "empty", "merge"])
@pytest.mark.parametrize("file", SPOILT)
def test_no_command_shows_a_traceback_for_a_spoilt_file(clone, monkeypatch, file, content):
    (clone / file).write_bytes(content)
    monkeypatch.setattr(host_python, "find", lambda minor: None)
    monkeypatch.setattr(loopback_index, "serve", fails(NetworkError("no index is asked here")))
    monkeypatch.setattr(lock_writer, "serve", fails(NetworkError("no index is asked here")))
    for name, line in LINES.items():
        assert cli.main(line) != 1, name
    assert not (clone.parent / "envs/vllm072").exists()


@pytest.mark.parametrize("variable", ["VERLOCK_ENVS", "VERLOCK_CACHE"])
@pytest.mark.parametrize("below", ["", "/below"])
def test_a_file_where_a_folder_belongs(clone, monkeypatch, capsys, variable, below):
    file = clone.parent / "file"
    file.touch()
    monkeypatch.setenv(variable, f"{file}{below}")
    monkeypatch.setattr(python_choice, "to_make", lambda variant, python, base: choose(variant, python))
    monkeypatch.setattr(create, "STEPS", {"preflight": lambda *_: paths.cache_dir().mkdir(parents=True), "base": None})
    assert cli.main(["create", "vllm072", "--base", "host"]) == 60
    said = capsys.readouterr().err
    assert str(file) in said and variable in said


def test_a_colon_in_the_path_of_an_environment(clone, monkeypatch, capsys):
    monkeypatch.setenv("VERLOCK_ENVS", str(clone.parent / "a:b"))
    assert cli.main(["create", "vllm072"]) == 60
    assert "PATH cannot hold it" in capsys.readouterr().err


def test_a_python_that_is_a_number(clone, edit, capsys):
    edit(clone / "recipes/vllm072/recipe.toml", "python = [", "python = [3.10, ")
    assert cli.main(["create", "vllm072"]) == 11
    assert "python.0: Input should be a valid string" in capsys.readouterr().err
