"""Which Python is meant when none is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from verlock import conda, hostpython, project, pythons, receipt
from verlock.hostpython import HostPython


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with these Pythons and with or without a conda channel; nothing is built."""
    monkeypatch.setenv("VERLOCK_ENVS", str(tmp_path))

    def of(*minors, channel=False):
        have = {minor: HostPython(Path(f"/usr/bin/python{minor}"), f"{minor}.1") for minor in minors}
        monkeypatch.setattr(hostpython, "find", have.get)
        monkeypatch.setattr(conda, "reachable", lambda lock, mirrors: channel)

    return of


def test_the_first_where_the_host_has_it(machine):
    machine("3.10", "3.12")
    assert pythons.to_make("vllm073", "auto") == "3.10"


def test_the_first_where_a_channel_has_it(machine):
    machine("3.12", channel=True)
    assert pythons.to_make("vllm073", "auto") == "3.10"
    assert pythons.to_make("vllm073", "conda") == "3.10"


def test_the_nearest_that_has_a_lock_and_is_here_and_it_is_said(machine, capsys):
    machine("3.9", "3.11", "3.12", "3.13")
    assert pythons.to_make("vllm073", "auto") == "3.11"
    assert "no CPython 3.10 here" in capsys.readouterr().err
    machine("3.12", channel=True)
    assert pythons.to_make("vllm073", "host") == "3.12"


def test_a_variant_with_one_python_has_no_other(machine):
    machine("3.12")
    assert pythons.to_make("vllm072", "auto") == "3.10"


def test_the_first_where_nothing_is_here(machine):
    machine()
    assert pythons.to_make("vllm073", "auto") == "3.10"


def test_what_is_built_already_is_meant(machine, tmp_path):
    machine("3.12")
    assert pythons.built("vllm073", None) == "3.10"
    other = project.prefix_dir("vllm073", "3.12", "3.10")
    other.mkdir()
    (other / receipt.NAME).touch()
    assert pythons.built("vllm073", None) == "3.12"
    assert pythons.built("vllm073", "3.11") == "3.11"
    first = project.prefix_dir("vllm073", "3.10", "3.10")
    first.mkdir()
    (first / receipt.NAME).touch()
    assert pythons.built("vllm073", None) == "3.10"
    assert pythons.to_make("vllm073", "auto") == "3.10"
