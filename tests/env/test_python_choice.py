"""Which Python is meant when none is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from verlock.conda import client
from verlock.env import python_choice
from verlock.errors import UnknownVariant
from verlock.system import host_python
from verlock.system.host_python import HostPython
from verlock.variant import receipt
from verlock.variant.chosen import choose


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with these Pythons and with or without a conda channel; nothing is built."""
    monkeypatch.setenv("VERLOCK_ENVS", str(tmp_path))

    def of(*minors, channel=False):
        have = {minor: HostPython(Path(f"/usr/bin/python{minor}"), f"{minor}.1") for minor in minors}
        monkeypatch.setattr(host_python, "find", have.get)
        monkeypatch.setattr(client, "reachable", lambda lock, mirrors: channel)

    return of


def test_the_first_where_the_host_has_it(machine):
    machine("3.10", "3.12")
    assert python_choice.to_make("vllm073", None, "auto").python == "3.10"


def test_the_first_where_a_channel_has_it(machine):
    machine("3.12", channel=True)
    assert python_choice.to_make("vllm073", None, "auto").python == "3.10"
    assert python_choice.to_make("vllm073", None, "conda").python == "3.10"


def test_the_nearest_that_has_a_lock_and_is_here_and_it_is_said(machine, capsys):
    machine("3.9", "3.11", "3.12", "3.13")
    assert python_choice.to_make("vllm073", None, "auto").python == "3.11"
    assert "no CPython 3.10 here" in capsys.readouterr().err
    machine("3.12", channel=True)
    assert python_choice.to_make("vllm073", None, "host").python == "3.12"


def test_a_variant_with_one_python_has_no_other(machine):
    machine("3.12")
    assert python_choice.to_make("vllm072", None, "auto").python == "3.10"


def test_the_first_where_nothing_is_here(machine):
    machine()
    assert python_choice.to_make("vllm073", None, "auto").python == "3.10"


def test_what_is_built_already_is_meant(machine, tmp_path):
    machine("3.12")
    assert python_choice.built("vllm073", None).python == "3.10"
    other = choose("vllm073", "3.12").prefix
    other.mkdir()
    (other / receipt.NAME).touch()
    assert python_choice.built("vllm073", None).python == "3.12"
    assert python_choice.built("vllm073", "3.11").python == "3.11"
    first = choose("vllm073").prefix
    first.mkdir()
    (first / receipt.NAME).touch()
    assert python_choice.built("vllm073", None).python == "3.10"
    assert python_choice.to_make("vllm073", None, "auto").python == "3.10"


def test_what_is_proven_is_what_is_built_else_what_can_be_made(machine):
    machine("3.11")
    assert python_choice.to_prove("vllm073", None).python == "3.11"
    machine("3.10", "3.11")
    assert python_choice.to_prove("vllm073", None).python == "3.10"
    other = choose("vllm073", "3.12").prefix
    other.mkdir()
    (other / receipt.NAME).touch()
    assert python_choice.to_prove("vllm073", None).python == "3.12", "a second environment takes 7 GB"
    assert python_choice.to_prove("vllm073", "3.11").python == "3.11"


def test_the_one_that_is_named_is_meant_whatever_is_here(machine, tmp_path):
    machine("3.10", "3.11")
    first = choose("vllm073").prefix
    first.mkdir()
    (first / receipt.NAME).touch()
    assert python_choice.to_make("vllm073", "3.12", "auto").python == "3.12"
    assert python_choice.built("vllm073", "3.12").prefix == tmp_path / "vllm073-py312"
    with pytest.raises(UnknownVariant, match=r"no lock for Python 3\.9"):
        python_choice.to_make("vllm073", "3.9", "auto")
    with pytest.raises(UnknownVariant, match=r"no lock for Python 3\.9"):
        python_choice.built("vllm073", "3.9")
