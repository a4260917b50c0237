"""The noxfile: a session for each recipe, even a broken one; tools are made once, and never over other people's files."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOX = shutil.which("nox") or next(
    (str(path) for path in [Path(sys.executable).with_name("nox")] if path.exists()), None
)


class Stop(Exception):
    """What nox's `session.error` raises."""


class Session:
    """A nox session that notes what it would run; a venv is made as a folder, pip as a note."""

    def __init__(self, *posargs):
        self.posargs = list(posargs)
        self.ran = []

    def run(self, *command, **options):
        self.ran.append(command)

    def log(self, text):
        pass

    def error(self, text):
        raise Stop(text)


@pytest.fixture
def clone(tmp_path):
    """The noxfile with the recipes, elsewhere."""
    root = tmp_path / "clone"
    shutil.copytree(ROOT / "recipes", root / "recipes")
    shutil.copytree(ROOT / "locks/tools", root / "locks/tools")
    shutil.copy(ROOT / "noxfile.py", root / "noxfile.py")
    return root


@pytest.fixture
def load(clone, monkeypatch):
    """Load the copy, with a stand-in for nox; returns the module and its sessions: name -> (function, default)."""

    def do():
        sessions = {}

        def session(function=None, *, name=None, default=True, tags=()):
            def register(function):
                sessions[name or function.__name__] = (function, default)
                return function

            return register(function) if function else register

        nox = types.ModuleType("nox")
        nox.session, nox.Session = session, Session
        nox.options, nox.virtualenv = types.SimpleNamespace(), types.SimpleNamespace()
        monkeypatch.setitem(sys.modules, "nox", nox)
        spec = importlib.util.spec_from_file_location("noxfile_under_test", clone / "noxfile.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module, sessions

    monkeypatch.delenv("VERLOCK_TOOLS", raising=False)
    return do


def test_each_recipe_has_its_sessions_with_its_summary(load, clone):
    _, sessions = load()
    for path in (clone / "recipes").glob("*/recipe.toml"):
        name = path.parent.name
        function, default = sessions[f"env-{name}"]
        assert not default and "vLLM" in function.__doc__ and f"smoke-{name}" in sessions
    assert "env-common" not in sessions
    assert {"lock", "verify", "tests", "coverage", "lint"} <= set(sessions)
    assert all(function.__doc__ for function, _ in sessions.values())


def test_sessions_are_bound_to_their_own_variant(load, monkeypatch):
    module, sessions = load()
    ran = []
    monkeypatch.setattr(module, "verlock", lambda session, *arguments: ran.append(arguments))
    for name in ("env-vllm072", "env-v1"):
        sessions[name][0](Session())
    assert ran == [("create", "vllm072"), ("create", "v1")]


@pytest.mark.parametrize("name", ["run", "shell"])
def test_a_command_starts_where_the_user_is_and_not_in_the_clone(load, monkeypatch, tmp_path, name):
    module, sessions = load()
    ran = []
    monkeypatch.setattr(module, "verlock", lambda session, *arguments: ran.append(arguments))
    sessions[name][0](types.SimpleNamespace(invoked_from=str(tmp_path)))
    assert ran == [(name, "--chdir", str(tmp_path))]


def test_a_python_that_is_too_old_is_told_which_one_is_needed(load, clone, monkeypatch):
    ast.parse((clone / "noxfile.py").read_text(encoding="utf-8"), feature_version=(3, 8))
    monkeypatch.setattr(sys, "version_info", (3, 9, 18))
    with pytest.raises(SystemExit, match=r"needs CPython 3\.10 or newer, and this nox runs on 3\.9: `pipx install"):
        load()


def test_a_new_recipe_is_a_new_session(load, clone):
    shutil.copytree(clone / "recipes/vllm073", clone / "recipes/vllm099")
    assert "env-vllm099" in load()[1]


@pytest.mark.parametrize("content", [b"nonsense", b"\xff\xfe", b"", b"sumary = 'x'\n"])
def test_a_broken_recipe_says_so_and_the_others_stay(load, clone, content):
    (clone / "recipes/vllm073/recipe.toml").write_bytes(content)
    _, sessions = load()
    assert "its recipe.toml is broken" in sessions["env-vllm073"][0].__doc__
    assert "vLLM 0.7.2" in sessions["env-vllm072"][0].__doc__


def test_the_docstring_names_the_sessions_in_the_order_of_the_list(load):
    module, sessions = load()
    listed = list(dict.fromkeys(re.sub(r"^(env|smoke)-.*", r"\1-VARIANT", name) for name in sessions))
    groups = [line.rsplit("   ", 1)[1] for line in module.__doc__.splitlines() if line.startswith("  ")]
    assert [name for group in groups for name in group.strip().split(", ")] == listed


def test_a_long_summary_is_cut_to_the_width_of_the_list(load, clone, edit):
    edit(clone / "recipes/vllm073/recipe.toml", "one patch", "one patch" + ", and much more to say" * 9)
    _, sessions = load()
    line = f"- env-vllm073 [env] -> {sessions['env-vllm073'][0].__doc__}"
    assert line.endswith(" ...") and 80 < len(line) <= 100


@pytest.mark.parametrize(
    ("session", "folder"),
    [
        ("env-vllm073", "tools"),
        ("verify", "tools"),
        ("lock", "tools"),
        ("tests", "tools-tests"),
        ("faults", "tools-tests"),
        ("coverage", "tools-tests"),
        ("lint", "tools-lint"),
        ("bench-rollout", "tools-bench"),
        pytest.param("docs", "tools-docs", marks=pytest.mark.skipif(sys.version_info < (3, 11), reason="Sphinx's")),
    ],
)
def test_a_session_makes_the_set_of_tools_that_it_needs_and_no_other(load, clone, monkeypatch, session, folder):
    module, sessions = load()
    monkeypatch.setattr(module, "attended", lambda command: made.ran.append(command) or 0)
    made = Session()
    sessions[session][0](made)
    locks = {"tools": "requirements", **{f"tools-{name}": name for name in ("tests", "lint", "bench", "docs")}}
    assert [path.name for path in (clone / ".nox").iterdir() if path.is_dir()] == [folder]
    assert made.ran[1][-1] == str(clone / f"locks/tools/{locks[folder]}.txt")
    assert {Path(command[0]) for command in made.ran[1:]} == {clone / ".nox" / folder / "bin/python"}


def test_other_sets_lie_beside_the_folder_of_verlock_tools(load, monkeypatch, tmp_path):
    monkeypatch.setenv("VERLOCK_TOOLS", str(tmp_path / "mine"))
    module, _ = load()
    assert module.tools(Session()) == tmp_path / "mine/bin"
    assert module.tools(Session(), "lint") == tmp_path / "mine-lint/bin"


def test_tools_are_made_once_and_again_when_their_lock_changes(load, clone):
    module, _ = load()
    session = Session()
    assert module.tools(session) == clone / ".nox/tools/bin"
    (venv, pip) = session.ran
    assert venv[:3] == (sys.executable, "-m", "venv")
    assert "--require-hashes" in pip and pip[-1] == str(clone / "locks/tools/requirements.txt")
    module.tools(session)
    assert len(session.ran) == 2
    (clone / "locks/tools/requirements.txt").write_text("changed")
    module.tools(session)
    assert len(session.ran) == 4


@pytest.mark.parametrize("words", [("--from", "/media/bundle", "--offline"), ("--strict", "--from=/media/bundle")])
def test_tools_come_from_the_bundle_that_the_environment_comes_from(load, words):
    module, _ = load()
    session = Session(*words)
    module.tools(session)
    pip = session.ran[1]
    assert pip[pip.index("--no-index") :][:3] == ("--no-index", "--find-links", "/media/bundle/tools")
    assert "--require-hashes" in pip


@pytest.mark.parametrize("killed_in", ["deleting", "making"])
def test_tools_left_by_a_kill_at_the_worst_moment_are_made_again(load, clone, monkeypatch, killed_in):
    """Half deleted, or a folder without its stamp: neither may be taken for somebody else's."""
    module, _ = load()
    folder = clone / ".nox/tools"
    module.tools(Session())
    (folder / "bin").mkdir()
    (clone / "locks/tools/requirements.txt").write_text("changed")

    def dying(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if killed_in == "deleting":
            real = shutil.rmtree
            patch.setattr(
                module.shutil,
                "rmtree",
                lambda path, **options: (
                    [(path / "verlock-tools").unlink(), dying()] if path.exists() else real(path, **options)
                ),
            )
        else:
            patch.setattr(module.Path, "write_text", dying)
        with pytest.raises(KeyboardInterrupt):
            module.tools(Session())
    session = Session()
    module.tools(session)
    assert len(session.ran) == 2 and [path.name for path in folder.parent.iterdir() if "trash" in path.name] == []


def test_tools_half_made_are_made_again(load, clone):
    module, _ = load()
    session = Session()
    session.run = lambda *command, **options: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        module.tools(session)
    session = Session()
    module.tools(session)
    assert len(session.ran) == 2


def test_a_folder_that_verlock_did_not_make_is_not_deleted(load, clone):
    (clone / ".nox/tools").mkdir(parents=True)
    (clone / ".nox/tools/thesis.tex").write_text("work")
    module, _ = load()
    with pytest.raises(Stop, match="was not made by verlock"):
        module.tools(Session())
    assert (clone / ".nox/tools/thesis.tex").exists()


def test_a_session_leaves_with_verlock_s_own_exit_code(load, tmp_path, monkeypatch):
    module, sessions = load()
    python = tmp_path / "bin/python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\nexit 46\n')
    python.chmod(0o755)
    monkeypatch.setattr(module, "tools", lambda session, name="requirements": python.parent)
    with pytest.raises(SystemExit) as caught:
        sessions["verify"][0](Session("vllm073", "--json"))
    assert caught.value.code == 46
    assert (tmp_path / "arguments").read_text() == "-m verlock verify vllm073 --json\n"


# says "ready", takes its time over SIGINT, SIGTERM and SIGHUP, and leaves with 128 + the first of them
SLOW = """
import signal, sys, time
heard = []
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda number, frame: heard.append(number))
print("ready", flush=True)
while not heard:
    time.sleep(0.01)
time.sleep(1)
print("cleaned", *map(int, heard), flush=True)
sys.exit(128 + heard[0])
"""
ATTEND = """
import importlib.util, signal, sys
for number in (signal.SIGTERM, signal.SIGHUP):  # whoever runs the tests may ignore them, as nohup does
    signal.signal(number, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.SIG_IGN if sys.argv[2:] else signal.default_int_handler)
spec = importlib.util.spec_from_file_location("noxfile", {noxfile!r})
module = importlib.util.module_from_spec(spec)
from unittest import mock
sys.modules["nox"] = mock.MagicMock()
spec.loader.exec_module(module)
sys.exit(module.attended([sys.executable, "-c", sys.argv[1]]))
"""


@pytest.fixture
def attending(clone):
    """Start `attended` on a script, in a process group of its own; it has said "ready" then."""
    started = []

    def start(code=SLOW, *arguments):
        command = [sys.executable, "-c", ATTEND.format(noxfile=str(clone / "noxfile.py")), code, *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_ctrl_c_waits_for_the_command_s_clean_up_however_long_and_passes_its_code_on(attending):
    process = attending()
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert (out, process.returncode) == ("cleaned 2\n", 130)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_nox_alone_is_passed_on(attending, number):
    process = attending()
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert (out, process.returncode) == (f"cleaned {int(number)}\n", 128 + number)


def test_the_command_hears_ctrl_c_unless_nox_was_started_to_ignore_it(attending):
    code = "import signal\nprint('ready', flush=True)\nprint(signal.getsignal(signal.SIGINT) == signal.SIG_IGN)"
    assert attending(code).communicate()[0] == "False\n"
    assert attending(code, "ignore").communicate()[0] == "True\n"


def test_a_killed_command_s_code_says_so(attending):
    process = attending("import os\nprint('ready', flush=True)\nos.kill(os.getpid(), 9)")
    process.communicate(timeout=60)
    assert process.returncode == 137


def test_tests_are_the_fast_ones_unless_others_are_asked_for(load, monkeypatch, tmp_path):
    module, sessions = load()
    monkeypatch.setattr(module, "tools", lambda session, name: tmp_path)
    session = Session("-x")
    sessions["tests"][0](session)
    assert session.ran[0][-3:] == ("-m", "not e2e and not faults", "-x")
    session = Session("-m", "e2e")
    sessions["tests"][0](session)
    assert "not e2e" not in session.ran[0] and session.ran[0][-1] == "e2e"


@pytest.mark.skipif(NOX is None, reason="nox is neither on PATH nor beside this Python")
def test_the_real_nox_lists_all_with_a_broken_recipe(clone):
    (clone / "recipes/vllm073/recipe.toml").write_text("nonsense")
    done = subprocess.run(
        [NOX, "-l", "-f", str(clone / "noxfile.py")], capture_output=True, text=True, check=False, cwd=clone
    )
    assert done.returncode == 0, done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert any(line.startswith("- env-vllm073 [env] -> its recipe.toml is broken: run this session") for line in lines)
    assert any(line.startswith("- env-vllm072 [env] -> vLLM 0.7.2, V0 engine") for line in lines)
    assert any(line.startswith("* tests -> Run the fast tests") for line in lines)
    sessions = [line for line in done.stdout.splitlines() if not line.startswith("Sessions defined in ")]
    assert [line for line in sessions if len(line) > 100] == []
    assert done.stdout.startswith("verlock: ") and not done.stderr


@pytest.mark.skipif(NOX is None, reason="nox is neither on PATH nor beside this Python")
def test_the_real_nox_says_nothing_of_its_own_before_a_session(clone, tmp_path):
    """Where there is no uv, nox says so at every run, although it has no use for one here."""
    tools = tmp_path / "tools"
    (tools / "bin").mkdir(parents=True)
    (tools / "bin/python").write_text("#!/bin/sh\necho status it is\n")
    (tools / "bin/python").chmod(0o755)
    code = (
        "import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], 'rb').read() + sys.version.encode()).hexdigest())"
    )
    shebang = Path(NOX).read_text().splitlines()[0].removeprefix("#!")
    stamp = subprocess.run(
        [shebang, "-c", code, str(clone / "locks/tools/requirements.txt")], capture_output=True, text=True, check=True
    )
    (tools / "verlock-tools").write_text(stamp.stdout.strip())
    variables = {**os.environ, "VERLOCK_TOOLS": str(tools), "PATH": "/usr/bin:/bin", "NO_COLOR": "1"}
    done = subprocess.run(
        [NOX, "-s", "status", "-f", str(clone / "noxfile.py")],
        capture_output=True, text=True, check=False, cwd=clone, env=variables,
    )  # fmt: skip
    assert "status it is" in done.stdout, done.stderr
    said = [line for line in done.stderr.splitlines() if not re.search("Running session|was successful", line)]
    assert said == []
