"""Child processes: what each kind of them is given of the shell's variables, and how the end of their words is shown."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from verlock import paths
from verlock.system import process
from verlock.system.process import Policy

POLICIES = {name: policy for name, policy in vars(process).items() if isinstance(policy, Policy)}

# A shell with everything in it that some kind of child must not see, and with what is the user's own.
UV_DECIDES = {
    *("UV_SYSTEM_PYTHON", "UV_PYTHON", "UV_BREAK_SYSTEM_PACKAGES", "UV_TARGET", "UV_PREFIX", "UV_PROJECT"),
    *(
        "UV_WORKING_DIR",
        "UV_NO_VERIFY_HASHES",
        "UV_TORCH_BACKEND",
        "UV_EXCLUDE_NEWER",
        "UV_PRERELEASE",
        "UV_RESOLUTION",
    ),
    *("UV_CONSTRAINT", "UV_OVERRIDE", "UV_BUILD_CONSTRAINT", "UV_EXCLUDE", "UV_NO_BINARY", "UV_NO_BINARY_PACKAGE"),
    *("UV_NO_BUILD", "UV_NO_BUILD_PACKAGE", "UV_NO_BUILD_ISOLATION", "UV_VENV_SEED", "UV_VENV_RELOCATABLE"),
    *("UV_VENV_CLEAR", "UV_REQUIRE_HASHES"),
}
UV_LEADS = {"UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_LINK_MODE", "UV_CACHE_DIR", "UV_HTTP_TIMEOUT", "UV_NATIVE_TLS"}
UV_LEADS |= {"UV_SYSTEM_CERTS", "UV_OFFLINE", "UV_FIND_LINKS"}
PROXIES = {"http_proxy", "https_proxy", "HTTPS_PROXY", "ALL_PROXY"}
CERTIFICATES = {"SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT"}
MIXING = {"PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "CONDA_PREFIX", "LD_PRELOAD"}
ENGINE = {"VLLM_USE_V1", "VLLM_ATTENTION_BACKEND", "RAY_ADDRESS", "PYTORCH_CUDA_ALLOC_CONF"}
GIT = {"GIT_DIR", "GIT_WORK_TREE", "GIT_CONFIG_GLOBAL", "GIT_AUTHOR_DATE"}
PROGRAMS = {"PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "XDG_CACHE_HOME"}
OTHERS = {
    "LANG",
    "LC_ALL",
    "TZ",
    "TERM",
    "HF_HOME",
    "CUDA_VISIBLE_DEVICES",
    "PIP_INDEX_URL",
    "XDG_CONFIG_HOME",
    "NETRC",
}
OTHERS |= {"SOURCE_DATE_EPOCH", "PYTHONHASHSEED", "PYTHONSAFEPATH", "VERLOCK_ENVS", "DIGIT_", "VLLM", "PYTHONPATHS"}
SHELL = {*UV_DECIDES, *UV_LEADS, *PROXIES, *CERTIFICATES, *MIXING, *ENGINE, *GIT, *PROGRAMS, *OTHERS}

PASSED_ON = {
    "VARIANT": SHELL - MIXING - ENGINE,
    "UV": SHELL - UV_DECIDES,
    "RESOLVER": PROGRAMS
    | PROXIES
    | CERTIFICATES
    | {"UV_CACHE_DIR", "UV_HTTP_TIMEOUT", "UV_NATIVE_TLS", "UV_SYSTEM_CERTS", "NETRC"},
    "GIT": SHELL - GIT,
    "BUILD": set(),
    "COMPILE": SHELL - {"SOURCE_DATE_EPOCH"},
    "OWN": SHELL,
}
SET = {
    "VARIANT": {"PYTHONNOUSERSITE": "1"},
    "UV": {"UV_NO_PROJECT": "1", "VIRTUAL_ENV": ""},
    "RESOLVER": {
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "NO_COLOR": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONUTF8": "1",
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_NO_CACHE_DIR": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "UV_NO_CONFIG": "1",
    },
    "GIT": {
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "HOME": "/dev/null",
        "XDG_CONFIG_HOME": "/dev/null",
        "GIT_CONFIG_NOSYSTEM": "1",
        "LC_ALL": "C",
    },
    "BUILD": {
        "PATH": os.defpath,
        "TZ": "UTC",
        "LC_ALL": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONNOUSERSITE": "1",
        "PYTHONHASHSEED": "0",
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
    },
    "COMPILE": {},
    "OWN": {"PYTHONSAFEPATH": "1"},
}


def start_in_shell(monkeypatch):
    """Set the shell's variables within the test itself: pytest adds one of its own before each."""
    monkeypatch.setattr(os, "environ", {name: f"the shell's {name}" for name in SHELL})


def test_every_policy_is_looked_at():
    assert POLICIES.keys() == PASSED_ON.keys() == SET.keys()


@pytest.mark.parametrize("name", PASSED_ON)
def test_what_a_child_is_given(monkeypatch, name):
    start_in_shell(monkeypatch)
    given = POLICIES[name].environment()
    own = {given.pop(key, None) for key in ("no_proxy", "NO_PROXY")}
    assert own == ({"127.0.0.1,localhost"} if PASSED_ON[name] & PROXIES else {None})
    assert {key for key in given if given[key] == f"the shell's {key}"} == PASSED_ON[name] - SET[name].keys()
    assert {key: value for key, value in given.items() if value != f"the shell's {key}"} == SET[name]


@pytest.mark.parametrize("name", PASSED_ON)
def test_what_one_call_gives_goes_over_all_else(monkeypatch, name):
    start_in_shell(monkeypatch)
    more = dict.fromkeys([*PASSED_ON[name], *SET[name], "VLLM_USE_V1", "NEW", "no_proxy", "NO_PROXY"], "this call's")
    assert POLICIES[name].environment(**more) == more
    assert os.environ["PATH"] == "the shell's PATH"


@pytest.mark.parametrize("name", PASSED_ON)
def test_every_name_has_a_reason_and_is_matched_in_capitals(name):
    policy = POLICIES[name]
    for pattern, reason in [*policy.drops.items(), *(policy.keeps or {}).items()]:
        assert len(reason.split()) > 3, f"{name} says nothing of why {pattern} is named"
        assert pattern == pattern.upper(), f"{pattern} would match nothing"


@pytest.mark.parametrize("name", ["http_proxy", "Http_Proxy", "HTTP_PROXY"])
def test_capitals_do_not_matter(monkeypatch, name):
    monkeypatch.setattr(os, "environ", {name: "x", "PATH": "y"})
    assert Policy(drops={"*_PROXY": "not for it"}).environment() == {"PATH": "y"}
    assert Policy(keeps={"*_PROXY": "the user's"}).environment()[name] == "x"


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        ({"no_proxy": "a.example, 127.0.0.1"}, "a.example,127.0.0.1,localhost"),
        ({"NO_PROXY": "a.example"}, "a.example,127.0.0.1,localhost"),
        ({"no_proxy": "*"}, "*"),
        ({}, "127.0.0.1,localhost"),
    ],
)
def test_this_machine_is_asked_without_a_proxy(monkeypatch, given, passed):
    monkeypatch.setattr(os, "environ", {"https_proxy": "http://proxy", **given})
    child = Policy().environment()
    assert child["no_proxy"] == child["NO_PROXY"] == passed


def test_nothing_kept_is_not_everything_kept(monkeypatch):
    start_in_shell(monkeypatch)
    assert Policy(keeps={}).environment() == {}
    assert Policy().environment().items() >= os.environ.items()


def test_the_environment_is_that_of_the_moment(monkeypatch):
    monkeypatch.setenv("HF_HOME", "one")
    assert process.VARIANT.environment()["HF_HOME"] == "one"
    monkeypatch.setenv("HF_HOME", "two")
    assert process.VARIANT.environment()["HF_HOME"] == "two"


def test_the_tail_of_what_was_said():
    said = "\n\none  \ntwo\r\n\nthree" + "." * 400 + "\n\n"
    assert process.tail(said, 2) == "    \n    three" + "." * 295
    assert process.tail(said, 9).splitlines()[:2] == ["    one", "    two"]
    assert process.tail("", 3) == process.tail(" \n", 3) == ""


def test_the_tail_of_a_log(tmp_path):
    log = tmp_path / "log"
    assert process.tail(log, 3) == ""
    log.write_bytes(b"one\nbroken \xff\nthree\n")
    assert process.tail(log, 2) == "    broken \ufffd\n    three"


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="no util-linux here")
def test_a_child_ends_with_a_verlock_that_is_killed():
    """SIGKILL leaves no time to end a child, which would write into what the next run makes."""
    code = (
        "import subprocess\nfrom verlock.system import process\n"
        "child = subprocess.Popen(process.bound(['sleep', '600']))\n"
        "print(child.pid, flush=True)\nchild.wait()"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=paths.ROOT)
    child = int(parent.stdout.readline())
    while Path(f"/proc/{child}/comm").read_text() != "sleep\n":
        time.sleep(0.01)
    parent.kill()
    parent.communicate()
    patience = time.monotonic() + 30
    while lives(child) and time.monotonic() < patience:
        time.sleep(0.01)
    assert not lives(child)


@pytest.mark.parametrize("setpriv", [None, "#!/bin/sh\nexit 1\n"])
def test_without_a_setpriv_that_can_do_it_it_is_started_all_the_same(monkeypatch, tmp_path, setpriv):
    if setpriv:  # as of util-linux 2.32
        (tmp_path / "setpriv").write_text(setpriv)
        (tmp_path / "setpriv").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    process._binding.cache_clear()
    assert process.bound(["uv", "sync"]) == ["uv", "sync"]
    process._binding.cache_clear()


def lives(process):
    """Is it there, and more than an entry that nobody has waited for?"""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
