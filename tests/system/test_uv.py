"""uv: what it is told, what it is not told, and what its failures mean."""

from __future__ import annotations

import sys
import threading

import pytest

from verlock.errors import DiskTooSmall, InstallError, IntegrityError, NetworkError
from verlock.system import uv

MISMATCH = """\
  x Failed to download `torch==2.5.1`
  ╰─▶ Hash mismatch for `torch==2.5.1`

      Expected:
        sha256:1111111111111111111111111111111111111111111111111111111111111111
        sha256:2222222222222222222222222222222222222222222222222222222222222222

      Computed:
        sha256:3333333333333333333333333333333333333333333333333333333333333333
"""
DNS = """\
error: Request failed after 3 retries
  Caused by: Failed to fetch: `https://mirror.example/simple/torch/`
  Caused by: error sending request for url (https://mirror.example/simple/torch/)
  Caused by: dns error: failed to lookup address information: Name or service not known
"""
REFUSED = """\
error: Failed to fetch: `https://mirror.example/simple/torch/`
  Caused by: HTTP status client error (403 Forbidden) for url (https://mirror.example/simple/torch/)
"""
FULL = "error: Failed to install: torch\n  Caused by: failed to copy file from /a to /b: No space left on device (os error 28)"


def test_a_wrong_hash():
    error = uv._explained(MISMATCH)
    assert isinstance(error, IntegrityError)
    assert "torch==2.5.1" in error.problem
    assert f"wanted  sha256:{'1' * 64} or sha256:{'2' * 64}" in error.problem
    assert f"got     sha256:{'3' * 64}" in error.problem


def test_a_host_that_does_not_answer():
    error = uv._explained(DNS)
    assert isinstance(error, NetworkError) and "mirror.example does not answer" in error.problem


def test_a_host_that_answers_no():
    error = uv._explained(REFUSED)
    assert isinstance(error, NetworkError) and "mirror.example answers 403 Forbidden" in error.problem


NO_SOLUTION = """\
error: No solution found when resolving dependencies
  cause: Because torch was not found in the package registry and you require torch==2.5.1, we can conclude that ...

hint: An index """


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (NO_SOLUTION + "(https://mirror.example/simple) returned a 403 Forbidden error. Check that ...", "403 Forbidden"),
        (NO_SOLUTION + "URL (https://mirror.example/simple) could not be queried due to a lack of valid authentication "
         "credentials (401 Unauthorized)", "401 Unauthorized"),
        ("error: Missing `Content-Type` header for `https://mirror.example/simple/odd/`", "without saying what it sends"),
    ],
)  # fmt: skip
def test_a_host_that_answers_no_to_a_question_about_a_package(text, said):
    error = uv._explained(text)
    assert isinstance(error, NetworkError) and f"mirror.example answers {said}" in error.problem


def test_a_full_disk():
    error = uv._explained(FULL)
    assert isinstance(error, DiskTooSmall) and "to /b: No space left" in error.problem


def test_anything_else_in_uv_s_own_words():
    error = uv._explained("error: something new")
    assert isinstance(error, InstallError) and "something new" in error.problem


def test_the_uv_beside_the_tools_python_goes_first(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    with pytest.raises(InstallError, match="uv is not installed"):
        uv.uv()
    for folder in (tmp_path / "path", tmp_path):
        folder.mkdir(exist_ok=True)
        (folder / "uv").write_text("#!/bin/sh\n")
        (folder / "uv").chmod(0o755)
        assert uv.uv() == str(folder / "uv")


@pytest.fixture
def told(tmp_path, monkeypatch):
    """What a stand-in for uv was given: its arguments, standard input and environment."""
    script = tmp_path / "uv"
    script.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\ncat > {tmp_path}/stdin\nenv > {tmp_path}/env\n')
    script.chmod(0o755)
    monkeypatch.setattr(uv, "uv", lambda: str(script))
    return lambda name: (tmp_path / name).read_text()


def test_sync_demands_hashes_and_wheels(told, tmp_path):
    wheel = tmp_path / "a b" / "flash_attn-2.8.3+cu12-py3-none-any.whl"
    wheels = {"flash-attn": (wheel, "ab" * 32)}
    layer = uv.PipLayer(tmp_path / "requirements.txt", tmp_path / "build.txt", ("antlr4",), wheels)
    uv.sync(tmp_path / "python", layer)
    said = told("arguments").split()
    assert said[said.index("--python") + 1] == str(tmp_path / "python")
    assert "--require-hashes" in said and said[said.index("--only-binary") + 1] == ":all:"
    assert said[said.index("--no-binary") + 1] == "antlr4"
    assert said[said.index("--build-constraints") + 1 :] == [
        str(tmp_path / "build.txt"),
        str(tmp_path / "requirements.txt"),
        "-",
        "--offline",
    ]
    assert "--reinstall-package" not in said
    assert told("stdin") == f"flash-attn @ {wheel.as_uri()} --hash=sha256:{'ab' * 32}\n"
    assert " " not in wheel.as_uri()


def test_sync_of_a_lock_alone_and_of_some_packages_once_more(told, tmp_path):
    layer = uv.PipLayer(tmp_path / "requirements.txt", tmp_path / "build.txt")
    uv.sync(tmp_path / "python", layer, again={"b", "a"})
    said = told("arguments")
    assert "--reinstall-package a --reinstall-package b" in said
    assert "--no-binary" not in said and "-" not in said.split() and told("stdin") == ""


@pytest.fixture
def answers(monkeypatch):
    """What a stand-in for uv raises at each call, in turn; returns the calls."""
    calls = []

    def prepare(*errors):
        waiting = list(errors)

        def run(arguments, stdin="", patience=None):
            calls.append((arguments, stdin))
            if error := waiting.pop(0):
                raise error
            return ""

        monkeypatch.setattr(uv, "run", run)
        return calls

    return prepare


def test_what_is_cached_is_taken_without_a_word_to_an_index(answers):
    calls = answers(None)
    uv.cached_or_fetched(["pip", "sync"], "lines")
    assert calls == [(["pip", "sync", "--offline"], "lines")]


@pytest.mark.parametrize("error", [InstallError("not cached"), NetworkError("offline"), IntegrityError("spoilt")])
def test_what_is_not_cached_is_fetched_and_that_run_s_word_counts(answers, error):
    calls = answers(error, None)
    uv.cached_or_fetched(["pip", "sync"], "lines")
    assert calls == [(["pip", "sync", "--offline"], "lines"), (["pip", "sync"], "lines")]
    answers(error, NetworkError("nobody answers"))
    with pytest.raises(NetworkError, match="nobody answers"):
        uv.cached_or_fetched(["pip", "sync"])


def test_a_bundle_is_tried_after_the_cache_and_an_offline_run_asks_nobody_else(answers, monkeypatch):
    monkeypatch.setenv("VERLOCK_BUNDLE", "/media/bundle")
    carried = ["pip", "sync", "--offline", "--no-index", "--find-links", "/media/bundle/wheels"]
    missing = InstallError("not there")
    calls = answers(missing, None)
    uv.cached_or_fetched(["pip", "sync"])
    assert [words for words, _ in calls] == [["pip", "sync", "--offline"], carried]
    calls.clear()
    answers(missing, missing, None)
    uv.cached_or_fetched(["pip", "sync"])
    assert [words for words, _ in calls] == [["pip", "sync", "--offline"], carried, ["pip", "sync"]]
    monkeypatch.setenv("VERLOCK_OFFLINE", "1")
    calls.clear()
    answers(missing, missing)
    with pytest.raises(InstallError, match="not there") as raised:
        uv.cached_or_fetched(["pip", "sync"])
    assert len(calls) == 2 and "bundle -- --verify /media/bundle" in raised.value.remedy


def test_a_full_disk_is_not_tried_twice(answers):
    calls = answers(DiskTooSmall("full"))
    with pytest.raises(DiskTooSmall):
        uv.cached_or_fetched(["pip", "sync"])
    assert len(calls) == 1


def test_the_unpacked_wheels_of_the_cache_are_found_by_their_dist_info(tmp_path, monkeypatch):
    monkeypatch.setattr(uv, "cache", lambda: tmp_path)
    assert uv.archives({"torch": "torch-2.dist-info"}) == {"torch": []}
    for folder in ("a/torch-2.dist-info", "b/torch-2.dist-info", "c/torch-3.dist-info", "d"):
        (tmp_path / "archive-v0" / folder).mkdir(parents=True)
    found = uv.archives({"torch": "torch-2.dist-info", "vllm": "vllm-1.dist-info"})
    assert {name: sorted(path.name for path in paths) for name, paths in found.items()} == {
        "torch": ["a", "b"],
        "vllm": [],
    }


def test_what_is_cached_is_asked_offline_and_with_hashes(told, tmp_path, monkeypatch):
    layer = uv.PipLayer(tmp_path / "requirements.txt", tmp_path / "build.txt", ("antlr4",))
    assert uv.cached(layer, "3.10")
    said = told("arguments").split()
    assert {"--offline", "--dry-run", "--require-hashes", "--no-deps"} <= set(said)
    assert said[said.index("--python-version") + 1] == "3.10" and said[said.index("--no-binary") + 1] == "antlr4"
    assert said[said.index("-r") + 1] == str(tmp_path / "requirements.txt")


def test_what_decides_is_kept_from_uv_and_what_leads_is_not(told, monkeypatch):
    monkeypatch.setenv("UV_NO_VERIFY_HASHES", "1")
    monkeypatch.setenv("UV_TORCH_BACKEND", "auto")
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://mirror.example/simple")
    monkeypatch.setenv("UV_LINK_MODE", "copy")
    uv.run(["version"])
    seen = told("env")
    assert "UV_NO_VERIFY_HASHES" not in seen and "UV_TORCH_BACKEND" not in seen
    assert "UV_DEFAULT_INDEX=https://mirror.example/simple" in seen and "UV_LINK_MODE=copy" in seen


def test_what_comes_into_the_cache_is_counted_while_it_comes(tmp_path, monkeypatch):
    monkeypatch.setattr(uv, "cache", lambda: tmp_path)
    told, seen = [], threading.Event()

    def tell(count):
        told.append(count)
        seen.set()

    with uv.counting(uv.store(), tell):  # there is no archive-v0 yet
        (tmp_path / "archive-v0/one").mkdir(parents=True)
        assert seen.wait(10)
        (tmp_path / "archive-v0/two").mkdir()
    assert told == [1, 2]
    told.clear()
    with uv.counting(uv.store(), tell):
        (tmp_path / "archive-v0/one").rmdir()  # another uv cleans the cache meanwhile
    assert told == []  # nothing came, and fewer than none cannot


UNMET = """Using Python 3.12.1 environment at: /envs/x
Checked 3 packages in 1ms
Found {count} incompatibilities
The package `verl` requires `numpy<2.0.0`, but `2.5.5` is installed
"""
ASIDE = [("verl", "numpy<2.0.0")]


@pytest.fixture
def pip_check(monkeypatch):
    """Has `uv pip check` say this of an environment; nothing where all requirements are met."""

    def says(text):
        def run(arguments, stdin="", patience=None):
            if text:
                raise InstallError(f"uv could not install the locked packages\n  {text}")
            return ""

        monkeypatch.setattr(uv, "run", run)

    return says


@pytest.mark.parametrize("aside", [ASIDE, [("verl", "NumPy <2")]])
def test_what_is_set_aside_is_expected_to_be_unmet(pip_check, tmp_path, aside):
    pip_check(UNMET.format(count=1))
    uv.check(tmp_path, aside)
    with pytest.raises(InstallError, match="numpy<2"):
        uv.check(tmp_path)


@pytest.mark.parametrize(
    "said",
    [
        "",
        UNMET.format(count=2) + "The package `vllm` requires `numpy<2.0.0`, but `2.5.5` is installed\n",
        UNMET.format(count=2) + "The package `verl` requires `ray`, but it's not installed\n",
        UNMET.format(count=2) + "A sentence that this uv does not say yet\n",
        UNMET.format(count=1).replace("numpy<2.0.0", "numpy<2.1"),
        "error: no such interpreter",
    ],
)
def test_anything_else_that_is_unmet_or_met_is_an_error(pip_check, tmp_path, said):
    pip_check(said)
    with pytest.raises(InstallError, match="is to be unmet: verl numpy<2"):
        uv.check(tmp_path, ASIDE)


def test_where_nothing_is_set_aside_everything_is_met(pip_check, tmp_path):
    pip_check("")
    uv.check(tmp_path)
