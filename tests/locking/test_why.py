"""Who asks for a package and why it is not newer, on an index that the test makes up."""

from __future__ import annotations

import fakeindex
import pytest

from verlock.errors import LockError
from verlock.locking import loopback_index, why
from verlock.variant.chosen import choose
from verlock.variant.lockfiles import Pin


@pytest.fixture
def ask(clone):
    """Explain a package of a lock of four, whose .in file bounds one of them."""
    file = clone / "environments/vllm073/requirements.in"
    file.write_text(
        "# the newest that works (https://example.org/1)\napp==1.0\n\n# theta broke us\n# (https://example.org/2)\ntheta!=1.5\n"
    )
    with fakeindex.serve() as made:
        made.release(
            "app",
            "1.0",
            "2025-01-01",
            "capped<2",
            "free",
            "late",
            "extra-only; extra == 'x'",
            'theta<1.6; python_version < "4"',
        )
        made.release("app", "0.9", "2024-01-01")
        made.release("capped", "1.0", "2025-01-01")
        made.release("capped", "2.1", "2025-01-02")
        made.release("free", "1.0", "2025-01-01")
        made.release("free", "1.1", "2025-02-01", "late>=7")
        made.release("free", "1.2", "2025-02-02")
        made.release("free", "1.3rc1", "2025-02-03")
        made.release("free", "1.4", "2025-02-04", tag="cp27-none-win32")
        made.release("late", "1.0", "2025-01-01")
        made.release("late", "1.1", "2025-04-03")
        made.release("theta", "1.4", "2025-01-01")
        made.release("theta", "1.5", "2025-01-01")
        made.release("theta", "1.6", "2025-01-02")
        via = {
            "app": ("-r environments/vllm073/requirements.in",),
            "theta": ("-r environments/vllm073/requirements.in", "app"),
        }
        with loopback_index.serve(made.url) as server:
            pins = {}
            for name, version in (
                ("app", "1.0"),
                ("capped", "1.0"),
                ("free", "1.0"),
                ("late", "1.0"),
                ("theta", "1.4"),
            ):
                sha256 = next(file.sha256 for file in server.files(name) if f"-{version}-" in file.filename)
                pins[name] = Pin(name, version, (f"sha256:{sha256}",), "", via.get(name, ("app",)))
            yield lambda name: why.explain(why.Enquiry(choose("vllm073"), pins, server), name)


def test_the_newest_is_simply_said(ask):
    assert ask("app") == [
        "app 1.0 in vllm073, Python 3.10",
        "asked for by",
        "  environments/vllm073/requirements.in: app==1.0",
        "    the newest that works (https://example.org/1)",
        "there is no newer release",
    ]


def test_a_package_caps_another(ask):
    lines = ask("capped")
    assert lines[2] == "  app 1.0: capped<2"
    assert lines[-1] == "  2.1 (2025-01-02): cap, app 1.0 asks for <2"


def test_our_own_bound_gives_its_reason_and_every_asker_is_heard(ask):
    lines = ask("theta")
    assert '  app 1.0: theta<1.6; python_version < "4"' in lines
    assert lines[-2:] == [
        "  1.5 (2025-01-01): cap, environments/vllm073/requirements.in asks for !=1.5: theta broke us (https://example.org/2)",
        "  1.6 (2025-01-02): cap, app 1.0 asks for <1.6",
    ]


def test_the_cutoff_is_a_reason(ask):
    assert ask("late")[-1].startswith("  1.1 (2025-04-03): cut-off, nothing from 2025-04-03 on: One day after verl")


def test_conflict_choice_prerelease_and_platform_are_told_apart(ask):
    assert ask("free")[-4:] == [
        "  1.1 (2025-02-01): conflict, it asks for late>=7, and the lock has 1.0 (wanted by app)",
        "  1.2 (2025-02-02): allowed; a pin moves only when asked (`--upgrade`), and other locked packages may hold it back",
        "  1.3rc1 (2025-02-03): a pre-release, and the recipe names no exception for it",
        "  1.4 (2025-02-04): no wheel for Python 3.10 on linux-64 with glibc 2.28",
    ]


def test_reasons_are_the_comment_above_a_run_of_lines(tmp_path):
    file = tmp_path / "x.in"
    file.write_text("# prose at the top\n\n-r other.in\n# one\n# two\na==1\nb==2  # not this\n# three\nc\n\nd>1\n")
    assert [(str(item), reason) for item, reason in why.reasons(file)] == [
        ("a==1", "one\ntwo"), ("b==2", "one\ntwo"), ("c", "three"), ("d>1", ""),
    ]  # fmt: skip
    file.write_text("a ==== 1\n")
    with pytest.raises(LockError, match=r"a ==== 1"):
        why.reasons(file)


def test_a_conda_package_names_its_askers(capsys):
    assert why.run("v1", "gcc") == 0
    said = capsys.readouterr().out
    assert "environments/common/compiler.yml: gcc 12.*" in said
    assert "gxx 12.4.0: gcc 12.4.0.*" in said


def test_an_unknown_package_gets_near_names():
    with pytest.raises(LockError, match="tensordict"):
        why.run("vllm073", "tensordic")
