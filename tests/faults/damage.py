"""Faults by damage: what is installed, cached or kept is changed, cut, emptied or gone."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from judge import Cell
from scene import Scene, Seen

Damage = Callable[[Scene], object]
OBJECT = "torch/lib/libtorch_python.so"


# How a file is damaged ------------------------------------------------------------------------------


def flip(path: Path) -> None:
    """Change a byte in place: where the file is a hardlink, in uv's cache as well."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    with path.open("r+b") as file:
        file.write(data)


def cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def empty(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(0)


def flip_unseen(path: Path) -> None:
    """Change a byte, and leave size and time as they were."""
    before = path.stat()
    flip(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def to_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/nonexistent")


# Where --------------------------------------------------------------------------------------------


def installed(name: str, how: Callable[[Path], object]) -> Damage:
    return lambda scene: how(scene.site / name)


def of_prefix(name: str, how: Callable[[Path], object]) -> Damage:
    return lambda scene: how(scene.prefix / name)


def write(name: str, data: bytes = b"x = 1\n") -> Damage:
    def add(scene: Scene) -> None:
        path = scene.site / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    return add


def add_package(scene: Scene) -> None:
    info = scene.site / "stray-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stray\nVersion: 1\n")
    (info / "RECORD").write_text("stray-1.dist-info/METADATA,,\nstray-1.dist-info/RECORD,,\n")


def forge_byte_code(scene: Scene) -> None:
    """Byte code that Python believes, since it names time and size of its source."""
    import importlib._bootstrap_external as external
    import importlib.util

    source = scene.site / "verl/__init__.py"
    stat = source.stat()
    code = compile("forged = True", str(source), "exec")
    target = Path(importlib.util.cache_from_source(str(source)))
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(external._code_to_timestamp_pyc(code, int(stat.st_mtime), stat.st_size))  # type: ignore[attr-defined]


def other_interpreter(scene: Scene) -> None:
    link = scene.prefix / "bin/python"
    link.unlink()
    link.symlink_to("/bin/false")


def cached(how: Callable[[Path], object]) -> Damage:
    """Damage a file in uv's cache whose prefix is gone."""

    def damage(scene: Scene) -> None:
        shutil.rmtree(scene.prefix)
        how(next((scene.work / "uv-cache").glob(f"archive-v0/*/{OBJECT}")))

    return damage


def cache_gone(scene: Scene) -> None:
    shutil.rmtree(scene.work / "uv-cache")


def kept(pattern: str, how: Callable[[Path], object], prefix: bool = False) -> Damage:
    """Damage what verlock keeps in its own cache; neither prefix nor uv's cache can replace it."""

    def damage(scene: Scene) -> None:
        how(next(scene.work.glob(f"cache/{pattern}")))
        if not prefix:
            shutil.rmtree(scene.prefix)
            cache_gone(scene)

    return damage


# Cells ---------------------------------------------------------------------------------------------


def refused_folder() -> Cell:
    """A folder stands where an artefact is kept: refused, or replaced, but never taken for the file."""

    def do(scene: Scene) -> Seen:
        kept("artefacts/*/*.whl", to_folder)(scene)
        return scene.create(**scene.with_artefact())

    def lift(scene: Scene) -> None:
        for path in scene.work.glob("cache/artefacts/*/*.whl"):
            if path.is_dir():
                path.rmdir()

    return Cell(do, frozenset({0, 60}), ("whole",), damaged=frozenset({40}), lift=lift)


def seen_by_verify(damage: Damage, *codes: int, quick: bool = False) -> Cell:
    """`verify` names the damage, and the next `create` heals it."""

    def do(scene: Scene) -> Seen:
        damage(scene)
        return scene.verify()

    return Cell(do, frozenset(codes), ("whole",), damaged=frozenset(codes), quick=quick)


def healed(damage: Damage, quick: bool = False, gone: bool = False) -> Cell:
    """`create` heals it by itself. gone: the environment is not there any more when it begins."""

    def do(scene: Scene) -> Seen:
        damage(scene)
        return scene.create(**scene.with_artefact())

    return Cell(do, frozenset({0}), ("whole",), damaged=frozenset({40} if gone else ()), quick=quick)


def not_healed_offline(damage: Damage, *codes: int) -> Cell:
    """It cannot be healed now, and what is there stays as it is until it can."""

    def do(scene: Scene) -> Seen:
        damage(scene)
        return scene.create(UV_FIND_LINKS="", UV_OFFLINE="1", **scene.with_artefact())

    return Cell(do, frozenset({24, 26}), ("whole",), damaged=frozenset(codes))


def healed_offline(damage: Damage) -> Cell:
    """The caches have all that is needed: no network is (D3, D7)."""

    def do(scene: Scene) -> Seen:
        damage(scene)
        return scene.create(UV_FIND_LINKS=str(scene.work / "wheels"), UV_OFFLINE="1", **scene.with_artefact())

    return Cell(do, frozenset({0}), ("whole",))


def left_behind(name: str, make: Damage, *gone: str, step: str = "no-op", start: str = "whole") -> Cell:
    """Something that a killed run left; it is gone after the next one."""

    def do(scene: Scene) -> Seen:
        make(scene)
        return scene.create(**scene.with_artefact())

    return Cell(do, frozenset({0}), (start,), gone=gone)


def stores_wheel(how: Callable[[Path], object]) -> Cell:
    """The wheel that was built from a commit, damaged in verlock's own store."""

    def do(scene: Scene) -> Seen:
        first = scene.create(**scene.with_artefact())
        assert first.code == 0, first.said
        how(next(scene.work.glob("cache/wheels/*/vllm-*.whl")))
        shutil.rmtree(scene.prefix)
        cache_gone(scene)
        return scene.create(**scene.with_artefact())

    return Cell(do, frozenset({0}), ("source",))


def half_deleted(scene: Scene) -> None:
    """A prefix whose deletion was cut off: the receipt is gone, some files are."""
    (scene.prefix / "verlock.json").unlink()
    shutil.rmtree(scene.site / "torch")


def half_deleted_unmarked(scene: Scene) -> None:
    half_deleted(scene)
    (scene.prefix / ".verlock").unlink(missing_ok=True)


def aside(scene: Scene) -> None:
    """As a run leaves it that was killed after it put the older environment aside."""
    scene.prefix.rename(scene.prefix.with_name(".toy.old"))
    scene.prefix.mkdir()
    (scene.prefix / ".verlock").write_text("")


def half_deleted_aside(scene: Scene) -> None:
    """As a run leaves it that was killed while it deleted the older environment."""
    shutil.copytree(scene.prefix, scene.prefix.with_name(".toy.old"), symlinks=True)
    (scene.prefix.with_name(".toy.old") / "verlock.json").unlink()


def aside_and_no_network() -> Cell:
    def do(scene: Scene) -> Seen:
        aside(scene)
        own = {"UV_FIND_LINKS": "", "UV_OFFLINE": "1", "UV_CACHE_DIR": str(scene.work / "uv-2")}
        return scene.create(**own, **scene.with_artefact())

    return Cell(do, frozenset({24, 26}), ("older",), quick=True)


def unmarked() -> Cell:
    def do(scene: Scene) -> Seen:
        half_deleted_unmarked(scene)
        return scene.create(**scene.with_artefact())

    def lift(scene: Scene) -> None:
        if not (scene.prefix / "verlock.json").exists():
            shutil.rmtree(scene.prefix)

    return Cell(do, frozenset({0, 23}), ("whole",), damaged=frozenset({40}), lift=lift)


def stale(*names: str) -> Damage:
    """Drafts of ten days ago."""

    def make(scene: Scene) -> None:
        for name in names:
            path = scene.work / name.format(site=scene.site, prefix=scene.prefix)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("half")
            os.utime(path, (time.time() - 864000,) * 2)

    return make
