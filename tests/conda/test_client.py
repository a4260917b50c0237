"""The parts of the conda layer that need no rattler: what it is told, and what its errors become."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest

from verlock.conda import CUTOFF, client, conda_command, engine, places
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
    assert places.local_path("https://mirror.example/conda-forge") is None
    assert places.local_path(tmp_path.as_uri()) == tmp_path
    assert places.local_path("file:///a%20b") is not None and str(places.local_path("file:///a%20b")) == "/a b"
    assert places.local_path("/mnt/mirror") is not None


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

    def solve(*arguments):
        calls.append(arguments)
        return [{"name": "git", "version": "2"}]

    monkeypatch.setattr(client, "solve", solve)
    monkeypatch.setenv("VERLOCK_CONDA_UPGRADE", "git,pip")
    line = ["create", "--prefix", "/p", "--dry-run", "--json", "--override-channels", "--channel", "conda-forge", "--channel",
            f"file://{fake.parent}", "git", "python 3.10.*"]  # fmt: skip
    assert conda_command.main(line) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["actions"]["FETCH"] == answer["actions"]["LINK"] == [{"name": "git", "version": "2"}]
    ((specs, channels, given, offer),) = calls
    assert (specs, channels) == (["git", "python 3.10.*"], ["https://conda.anaconda.org/conda-forge"])
    assert given == [("__archspec", "1", "x86_64"), ("__glibc", "2.28", "0")]
    assert offer == client.Offer(upgrade=["git", "pip"], mirrors=[])


def test_what_conda_lock_cannot_pass_on_reaches_the_solve(tmp_path, monkeypatch):
    """The cut-off comes as a virtual package, which the solve is not shown; the rest by environment variables."""
    fake = tmp_path / "fake" / "noarch"
    fake.mkdir(parents=True)
    virtual = {
        "a": {"name": "__unix", "version": "0", "build": "0"},
        "b": {"name": CUTOFF, "version": "20250403", "build": "0"},
    }
    (fake / "repodata.json").write_text(json.dumps({"packages": virtual}))
    calls = []
    monkeypatch.setattr(client, "solve", lambda *arguments: calls.append(arguments) or [])
    settings = {"REPODATA": "/repodata", "LOCKED": "/conda-lock.yml", "LOCKED_ONLY": "1", "MIRROR": "/mirror"}
    for name, value in settings.items():
        monkeypatch.setenv(f"VERLOCK_CONDA_{name}", value)
    monkeypatch.delenv("VERLOCK_CONDA_UPGRADE", raising=False)
    assert (
        conda_command.main(["create", "--channel", f"file://{fake.parent}", "--channel", "https://c.example/x", "git"])
        == 0
    )
    ((_, channels, given, offer),) = calls
    assert channels == ["https://c.example/x"] and given == [("__unix", "0", "0")]
    assert offer == client.Offer(date(2025, 4, 3), Path("/repodata"), Path("/conda-lock.yml"), True, [], ["/mirror"])


def test_an_offer_reaches_the_engine_as_plain_data(monkeypatch, tmp_path):
    monkeypatch.setenv("VERLOCK_CACHE", str(tmp_path))
    jobs = []
    monkeypatch.setattr(
        client, "_in_child", lambda action, **job: jobs.append((action, json.loads(json.dumps(job)))) or []
    )
    client.solve(["git"], ["https://c.example/x"], [("__unix", "0", "0")], client.Offer())
    offer = client.Offer(date(2025, 4, 3), Path("/repodata"), Path("/lock"), True, ("git",), ("/mirror",))
    client.solve(("git",), ("https://c.example/x",), [("__unix", "0", "0")], offer)
    same = {"specs": ["git"], "channels": ["https://c.example/x"], "virtual": [["__unix", "0", "0"]]}
    same["cache"] = f"{tmp_path}/conda/repodata"  # rattler's own choice would be the home folder
    empty = {"cutoff": None, "repodata": None, "locked": None, "locked_only": False, "upgrade": [], "mirrors": []}
    full = {"cutoff": "2025-04-03", "repodata": "/repodata", "locked": "/lock", "locked_only": True}
    full |= {"upgrade": ["git"], "mirrors": ["/mirror"]}
    assert jobs == [("solve", same | empty), ("solve", same | full)]


def test_the_adapter_passes_errors_on(monkeypatch, capsys):
    def solve(*arguments):
        raise ResolutionError("no cowsay", "try another")

    monkeypatch.setattr(client, "solve", solve)
    assert conda_command.main(["create", "--dry-run", "--channel", "x", "cowsay"]) == 1
    assert json.loads(capsys.readouterr().out)["message"] == "no cowsay"
