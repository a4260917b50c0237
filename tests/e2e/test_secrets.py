"""A password in any variable that takes a URL is neither printed nor kept, whatever fails or works."""

from __future__ import annotations

import subprocess

import toy

SECRET = "pl4nted-s3cret"
DEAD = f"http://user:{SECRET}@127.0.0.1:9/place"
INDEXES = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL")
PLACES = ("VERLOCK_ARTEFACTS", "VERLOCK_CONDA_MIRROR", "VERLOCK_SOURCE_MIRROR")


def kept(folder):
    """The files below a folder that hold the secret."""
    done = subprocess.run(["grep", "-rlaF", SECRET, str(folder)], capture_output=True, text=True, check=False)
    return done.stdout.splitlines()


def test_nothing_printed_or_kept_holds_a_password(tmp_path):
    project = toy.Project(tmp_path)
    project.artefact()
    places = dict.fromkeys(PLACES, DEAD)
    said = project.create(**places)  # made without the artefact, which the mirror does not give
    assert "127.0.0.1:9 does not give flash_attn" in said and SECRET not in said
    for name in INDEXES:
        done = project.run("create", "toy", "--base", "host", UV_FIND_LINKS="", UV_CACHE_DIR=str(tmp_path / name),
                           VERLOCK_ENVS=str(tmp_path / f"envs-{name}"), **{**places, **dict.fromkeys(INDEXES, ""), name: DEAD})  # fmt: skip
        assert done.returncode == 24 and "127.0.0.1:9 does not answer" in done.stderr
        assert SECRET not in done.stdout + done.stderr
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), DEAD)
    done = project.run("create", "toy", "--base", "host", UV_FIND_LINKS="", UV_DEFAULT_INDEX="http://mirror.example/simple",
                       UV_CACHE_DIR=str(tmp_path / "proxied"), VERLOCK_ENVS=str(tmp_path / "envs-proxied"), **proxies)  # fmt: skip
    assert done.returncode == 24 and SECRET not in done.stdout + done.stderr
    assert kept(tmp_path) == []
