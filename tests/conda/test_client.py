"""The parts of the conda layer that need no rattler: what it is told, and what its errors become."""

from __future__ import annotations

import json

import pytest

from verlock.conda import client, conda_command, engine
from verlock.errors import InstallError, IntegrityError, NetworkError, ResolutionError

A, B = "a" * 64, "b" * 64


class SolverError(Exception):
    pass


@pytest.mark.parametrize(
    ("action", "error", "kind", "said"),
    [
        ("install", Exception(f"hash mismatch: expected {A}, got {B} for p-1-0.conda"), IntegrityError, "p-1-0.conda"),
        (
            "install",
            Exception("error sending request for url (https://conda.example.org/x/y.conda) Caused by: dns error"),
            NetworkError,
            "conda.example.org does not answer: dns error",
        ),
        ("install", Exception("HTTP status client error (404) for url (https://c.example/a.conda)"), NetworkError, "c.example"),
        ("solve", SolverError("nothing provides cowsay"), ResolutionError, "cowsay"),
        ("install", SolverError("odd"), InstallError, "SolverError"),
        ("install", TypeError("ours"), InstallError, "TypeError"),
    ],
)  # fmt: skip
def test_errors_of_the_engine_become_ours(action, error, kind, said):
    translated = engine._translate(action, error)
    assert type(translated) is kind
    assert said in translated.problem
    assert translated.remedy


def test_both_hashes_are_named():
    text = str(engine._translate("install", Exception(f"hash mismatch: expected {'a' * 64}, got {'b' * 64}")))
    assert text.index("a" * 64) < text.index("b" * 64)


def test_local_mirrors_are_told_from_urls(tmp_path):
    assert client.local_path("https://mirror.example/conda-forge") is None
    assert client.local_path(tmp_path.as_uri()) == tmp_path
    assert client.local_path("file:///a%20b") is not None and str(client.local_path("file:///a%20b")) == "/a b"
    assert client.local_path("/mnt/mirror") is not None


def test_mirrors_come_from_the_environment(monkeypatch):
    monkeypatch.delenv("VERLOCK_CONDA_MIRROR", raising=False)
    assert client.mirrors_from_environment() == []
    monkeypatch.setenv("VERLOCK_CONDA_MIRROR", "https://a.example/c, /mnt/b,")
    assert client.mirrors_from_environment() == ["https://a.example/c", "/mnt/b"]


def test_the_adapter_speaks_condas_command_line(tmp_path, monkeypatch, capsys):
    fake = tmp_path / "fake" / "linux-64"
    fake.mkdir(parents=True)
    virtual = {
        "a": {"name": "__glibc", "version": "2.28", "build": "0"},
        "b": {"name": "__archspec", "version": "1", "build": "x86_64"},
    }
    (fake / "repodata.json").write_text(json.dumps({"packages": virtual}))
    calls = []

    def solve(specs, channels, **options):
        calls.append((specs, channels, options))
        return [{"name": "git", "version": "2"}]

    monkeypatch.setattr(client, "solve", solve)
    monkeypatch.setenv("VERLOCK_CONDA_UPGRADE", "git,pip")
    line = ["create", "--prefix", "/p", "--dry-run", "--json", "--override-channels", "--channel", "conda-forge", "--channel",
            f"file://{fake.parent}", "git", "python 3.10.*"]  # fmt: skip
    assert conda_command.main(line) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["actions"]["FETCH"] == answer["actions"]["LINK"] == [{"name": "git", "version": "2"}]
    (specs, channels, options) = calls[0]
    assert (specs, channels) == (["git", "python 3.10.*"], ["https://conda.anaconda.org/conda-forge"])
    assert options["virtual"] == [("__archspec", "1", "x86_64"), ("__glibc", "2.28", "0")]
    assert options["upgrade"] == ["git", "pip"]


def test_the_adapter_passes_errors_on(monkeypatch, capsys):
    def solve(*arguments, **options):
        raise ResolutionError("no cowsay", "try another")

    monkeypatch.setattr(client, "solve", solve)
    assert conda_command.main(["create", "--dry-run", "--channel", "x", "cowsay"]) == 1
    assert json.loads(capsys.readouterr().out)["message"] == "no cowsay"
