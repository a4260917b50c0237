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


def fetching(project, name, **environment):
    """`create` with caches and environments of its own, so that it has to ask an index."""
    folders = {"UV_CACHE_DIR": str(project.folder / f"uv-{name}"), "VERLOCK_ENVS": str(project.folder / f"envs-{name}")}
    once = {"UV_FIND_LINKS": "", "UV_HTTP_RETRIES": "0"}
    return project.run("create", "toy", "--base", "host", **folders, **once, **environment)


def test_nothing_printed_or_kept_holds_a_password(tmp_path):
    project = toy.Project(tmp_path)
    project.artefact()
    places = dict.fromkeys(PLACES, DEAD)
    said = project.create(**places)  # made without the artefact, which the mirror does not give
    assert "127.0.0.1:9 does not give flash_attn" in said and SECRET not in said
    for name in INDEXES:
        done = fetching(project, name, **{**places, **dict.fromkeys(INDEXES, ""), name: DEAD})
        assert done.returncode == 24 and "127.0.0.1:9 does not answer" in done.stderr
        assert SECRET not in done.stdout + done.stderr
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), DEAD)
    done = fetching(project, "proxies", UV_DEFAULT_INDEX="http://mirror.example/simple", **proxies)
    assert done.returncode == 24 and SECRET not in done.stdout + done.stderr
    assert kept(tmp_path) == []
