"""Faults by networks: servers that misbehave, for each of the services that verlock takes something from."""

from __future__ import annotations

import contextlib
import sys
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import badserver
import pytest
import scene as scenes
import toy
from judge import Cell
from scene import Scene, Seen

# What only the address or the surroundings make wrong: a URL to give in place of a server's, and variables to set.
PLACES: dict[str, tuple[str, dict[str, str]]] = {
    "port refused": ("http://127.0.0.1:9", {}),
    "no such name": ("http://nowhere.invalid", {}),
    "dead proxy": (
        "http://192.0.2.1",
        dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9"),
    ),
    "TLS where none is": ("https", {}),
}
HARMLESS = {"good", "drips", "login in the address"}


def index_of(scene: Scene) -> dict[str, bytes]:
    """The paths of a simple index that has the toy's wheels."""
    contents: dict[str, bytes] = {}
    for file in sorted((scene.work / "wheels").glob("*.whl")):
        data = file.read_bytes()
        name = file.name.partition("-")[0]
        contents[f"/files/{file.name}"] = data
        contents[f"/simple/{name}"] = (
            f'<!DOCTYPE html><a href="/files/{file.name}#sha256={toy.sha256(data)}">{file.name}</a>'.encode()
        )
    return contents


@contextlib.contextmanager
def _address(way: str, contents: dict[str, bytes]) -> Iterator[tuple[str, dict[str, str]]]:
    """The URL of a server that behaves so, and variables that go with it."""
    if way in PLACES:
        url, more = PLACES[way]
        if url != "https":
            yield url, more
            return
    begins = {"login in the address": f"http://user:{badserver.SECRET}@", "TLS where none is": "https://"}
    with badserver.serve("good" if way in PLACES else way, contents) as served:
        yield served.replace("http://", begins.get(way, "http://")), {}


def index(way: str) -> Cell:
    """uv takes the wheels from an index."""

    def do(scene: Scene) -> Seen:
        with _address(way, index_of(scene)) as (url, more):
            own = {"UV_FIND_LINKS": "", "UV_DEFAULT_INDEX": f"{url}/simple", "UV_CACHE_DIR": str(scene.work / "uv-2")}
            return scene.create(**own, **scene.with_artefact(), **more)

    codes = {0} if way in HARMLESS else {24}
    if way == "other bytes":
        codes = {25}
    if way in ("404", "cuts off, no length", "login page, 200", "nothing, 200", "length too short", "speaks no HTTP"):
        codes = {24, 25, 26}
    quick = way in ("stalls", "cuts off", "500", "other bytes", "login in the address")
    return Cell(do, frozenset(codes), quick=quick)


def artefact(way: str) -> Cell:
    """The optional artefact from a mirror: without it the environment is made, and says so."""

    def do(scene: Scene) -> Seen:
        contents = {f"/{urllib.parse.quote(scene.artefact.name)}": scene.artefact.read_bytes()}
        contents |= {f"/{scene.artefact.name}": scene.artefact.read_bytes()}
        with _address(way, contents) as (url, more):
            return scene.create(VERLOCK_ARTEFACTS=url, **more)

    if way in HARMLESS:
        return Cell(do, frozenset({0}), ("fresh",), says=("flash-attn verified",))
    if way == "other bytes":
        return Cell(do, frozenset({25}), ("fresh",), says=("wanted", "got"), quick=True)
    if way in ("login page, 200", "nothing, 200", "length too short", "cuts off, no length"):
        return Cell(do, frozenset({0, 25}), ("fresh",))  # no client can tell these from other bytes
    return Cell(do, frozenset({0}), ("fresh",), says=("INCOMPLETE",), quick=way in ("cuts off", "500"))


def conda(way: str) -> Cell:
    """The conda layer from a mirror, with a channel behind it that does not answer."""

    def do(scene: Scene) -> Seen:
        name = f"/linux-64/python-{toy.MINOR}.0-0.conda"
        with _address(way, {name: bytes(range(256)) * 8}) as (url, more):
            return scene.create("--base", "conda", VERLOCK_CONDA_MIRROR=url, **more, **scene.with_artefact())

    # what is served is no package, and its hash not the lock's: rattler meets the one or the other first
    refused = {25, 26} if way in {*HARMLESS, "other bytes"} else {23}
    if way in ("length too short", "login page, 200", "nothing, 200", "cuts off, no length"):
        refused = {23, 25, 26}
    return Cell(do, frozenset(refused), quick=way == "500")


def source(way: str) -> Cell:
    """The commit that vllm is built from, from a mirror of its repository."""

    def do(scene: Scene) -> Seen:
        refs = b"001e# service=git-upload-pack\n0000"
        with _address(way, {"/vllm.git/info/refs": refs}) as (url, more):
            own = {"GIT_HTTP_LOW_SPEED_LIMIT": "1000", "GIT_HTTP_LOW_SPEED_TIME": "1"}
            return scene.create(VERLOCK_SOURCE_MIRROR=f"{url}/vllm.git", **own, **more)

    return Cell(do, frozenset({24, 30}), ("source",), quick=way == "401")


def tools(way: str) -> Cell:
    """nox installs the tools with pip: half a folder of tools is not taken for one."""

    def do(scene: Scene) -> Seen:
        wheel = next((scene.work / "wheels").glob("odd-*"))
        (scene.project.root / "locks/tools/requirements.txt").write_text(
            f"odd==1 --hash=sha256:{toy.sha256(wheel.read_bytes())}\n"
        )
        with _address(way, index_of(scene)) as (url, more):
            return _nox(scene, PIP_INDEX_URL=f"{url}/simple", **more)

    # pip's own exit code is 1 or 2, and nox's is 1
    good = way in HARMLESS
    return Cell(
        do, frozenset({0} if good else {1}), again=lambda scene: _nox(scene, **_good_pip(scene)), starts=("whole",)
    )


def _nox(scene: Scene, **more: str) -> Seen:
    packages = next(path for path in map(Path, sys.path) if path.name == "site-packages")
    own = {"VERLOCK_TOOLS": str(scene.work / "new-tools"), "PYTHONPATH": str(packages), "PIP_NO_CACHE_DIR": "1"}
    own |= {"PIP_RETRIES": "0", "PIP_DEFAULT_TIMEOUT": "2", "PIP_CONFIG_FILE": "/dev/null"}
    command = [
        scenes.nox() or pytest.skip("there is no nox"),
        "-f",
        str(scene.project.root / "noxfile.py"),
        "-s",
        "verify",
        "--",
        "toy",
    ]
    return scene.finish(scene.start(command, **{**own, **more}))


def _good_pip(scene: Scene) -> dict[str, str]:
    return {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(scene.work / "wheels")}
