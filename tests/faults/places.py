"""Faults by disks, file systems, clocks and the user's surroundings."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import scene as scenes
from judge import Cell
from scene import Scene, Seen

Order = dict[str, object]


# A disk that is full or refuses ---------------------------------------------------------------------


def _mounted(place: Path, options: str, act: Callable[[], Seen]) -> Seen:
    try:
        with scenes.small_disk(place, options):
            return act()
    except PermissionError as error:
        pytest.skip(f"mounting is not allowed here: {error}")


def full_envs(options: str) -> Cell:
    return Cell(
        lambda scene: _mounted(scene.envs, options, lambda: scene.create(**scene.with_artefact())),
        frozenset({21}),
        ("fresh",),
    )


def full_cache(name: str, options: str, *codes: int) -> Cell:
    """One of the caches is on a disk that is full; the environments are not."""

    def do(scene: Scene) -> Seen:
        shutil.rmtree(scene.work / name, ignore_errors=True)
        return _mounted(scene.work / name, options, lambda: scene.create(**scene.with_artefact()))

    return Cell(do, frozenset(codes), quick=name == "cache")


def too_small() -> Cell:
    """Less room than the recipe says it takes: refused before anything is made."""

    def do(scene: Scene) -> Seen:
        text = scene.project.recipe.read_text()
        scene.project.recipe.write_text(text.replace("disk = 1000000", f"disk = {10**16}"))
        shutil.rmtree(scene.work / "uv-cache")
        return scene.create(UV_FIND_LINKS="", **scene.with_artefact())

    def lift(scene: Scene) -> None:
        text = scene.project.recipe.read_text()
        scene.project.recipe.write_text(text.replace(str(10**16), "1000000"))

    return Cell(do, frozenset({21}), lift=lift, quick=True)


def other_file_system() -> Cell:
    def do(scene: Scene) -> Seen:
        def both() -> Seen:
            made = scene.create(**scene.with_artefact())
            if made.code == 0 and (checked := scene.verify()).code:
                return checked
            return made

        scene.more = {"VERLOCK_ENVS": str(scene.work / "other-disk/envs")}
        seen = _mounted(scene.work / "other-disk", "size=64m", both)
        scene.more = {}
        return seen

    return Cell(do, frozenset({0}), ("whole",))


def refused(event: str, text: str, number: int, *codes: int, start: str = "older", words: str = "create") -> Cell:
    """The system refuses what a step does: `event` with `text` fails with this errno."""

    def do(scene: Scene) -> Seen:
        order = {"do": "refuse", "event": event, "text": text, "errno": number}
        hooked = scene.hooked(order, **scene.with_artefact())
        return scene.verify(**hooked) if words == "verify" else scene.create(**hooked)

    damaged = frozenset(code for code in codes if 40 < code < 49)
    return Cell(do, frozenset(codes), (start,), damaged=damaged)


def read_only(places: tuple[str, ...], start: str, *codes: int, words: str = "create") -> Cell:
    """Folders in which this user may not write."""

    def do(scene: Scene) -> Seen:
        root = os.geteuid() == 0
        if root and not shutil.which("setpriv"):
            pytest.skip("root may write anywhere, and there is no setpriv to give that up")
        before = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if root else []
        if words == "verify":
            return scene.run("verify", "toy", before=before)
        return scene.create(before=before, **scene.with_artefact())

    def with_modes(scene: Scene) -> Seen:
        found = [scene.work / place for place in places]
        for place in found:
            place.mkdir(parents=True, exist_ok=True)
            place.chmod(0o555)
        try:
            return do(scene)
        finally:
            for place in found:
                place.chmod(0o755)

    return Cell(with_modes, frozenset(codes), (start,))


def in_the_way(place: str, start: str, *codes: int, kind: str = "file", **environment: str) -> Cell:
    """Something else stands where verlock wants a folder or file."""

    def do(scene: Scene) -> Seen:
        path = scene.work / place
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "file":
            path.write_text("somebody's work")
        elif kind == "folder":
            path.mkdir()
            (path / "thesis.tex").write_text("somebody's work")
        else:
            path.symlink_to(scene.work / "nowhere/place")
        more = {name: value.format(work=scene.work) for name, value in environment.items()}
        seen = scene.create(**scene.with_artefact(), **more)
        if kind == "file" and path.read_text() != "somebody's work":
            return Seen(seen.code, f"{seen.said}\nTraceback: somebody's work was taken")
        return seen

    def lift(scene: Scene) -> None:
        path = scene.work / place
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)

    return Cell(do, frozenset(codes), (start,), damaged=frozenset({40, 60}), lift=lift)


# Surroundings ---------------------------------------------------------------------------------------


def _walk(
    begin: Callable[[Scene], dict[str, str]], before: tuple[str, ...], words: str, codes: set[int], start: str
) -> Cell:
    def do(scene: Scene) -> Seen:
        more = begin(scene)
        if words == "verify":
            return scene.run("verify", "toy", before=before, **more)
        return scene.create(before=before, **{**scene.with_artefact(), **more})

    return Cell(do, frozenset(codes), (start,), quick=words == "create" and start == "fresh")


def around(
    begin: Callable[[Scene], dict[str, str]],
    *,
    before: tuple[str, ...] = (),
    codes: tuple[int, ...] = (0,),
    only: str = "",
) -> dict[str, Cell]:
    """A setting of the user's that must change nothing: for a walk from nothing, a run with nothing to do, and `verify`.

    begin: brings it about and gives the variables. before: words in front of the command. only: just this step.
    """
    cells = {
        "whole walk": _walk(begin, before, "create", set(codes), "fresh"),
        "no-op": _walk(begin, before, "create", {0}, "whole"),
        "verify": _walk(begin, before, "verify", {0}, "whole"),
    }
    return {step: cell for step, cell in cells.items() if only in ("", step)}


def variables(**more: str) -> Callable[[Scene], dict[str, str]]:
    return lambda scene: {name: value.format(work=scene.work) for name, value in more.items()}


def without(*names: str) -> tuple[str, ...]:
    return ("env", *(word for name in names for word in ("-u", name)))


def clock(seconds: int) -> Callable[[Scene], dict[str, str]]:
    return lambda scene: scene.hooked({"do": "clock", "seconds": seconds})


def hooked(order: Order) -> Callable[[Scene], dict[str, str]]:
    return lambda scene: scene.hooked(order)


def refused_place(name: str, *codes: int) -> Cell:
    """A place in which no environment works: refused before anything is made."""

    def do(scene: Scene) -> Seen:
        scene.more = {"VERLOCK_ENVS": str(scene.work / name)}
        seen = scene.create(**scene.with_artefact())
        if (scene.work / name).exists():
            seen = Seen(seen.code, f"{seen.said}\nTraceback: something was made there all the same")
        scene.more = {}
        return seen

    return Cell(do, frozenset(codes), ("older",))


def odd_place(name: str) -> Callable[[Scene], dict[str, str]]:
    def begin(scene: Scene) -> dict[str, str]:
        scene.more = {"VERLOCK_ENVS": str(scene.work / name)}
        return {}

    return begin


def stray_modules(scene: Scene) -> dict[str, str]:
    """PYTHONPATH names a folder with modules that have the names of others."""
    folder = scene.work / "stray"
    folder.mkdir(exist_ok=True)
    for name in ("torch", "vllm", "pydantic_extra", "uv"):
        (folder / f"{name}.py").write_text("raise SystemExit('a stray module was imported')\n")
    return {"PYTHONPATH": str(folder)}


def configured(scene: Scene) -> dict[str, str]:
    """pip.conf, uv.toml and git's configuration of the user, each with settings that would spoil an installation."""
    home = scene.work / "home"
    (home / ".config/pip").mkdir(parents=True, exist_ok=True)
    (home / ".config/uv").mkdir(exist_ok=True)
    (home / ".config/pip/pip.conf").write_text("[global]\nindex-url = http://127.0.0.1:9/simple\nuser = true\n")
    (home / ".config/uv/uv.toml").write_text('[pip]\nresolution = "lowest"\nprerelease = "allow"\n')
    (home / ".gitconfig").write_text("[core]\n\tautocrlf = true\n[apply]\n\twhitespace = fix\n")
    (home / ".pydistutils.cfg").write_text("[install]\nprefix=/nonexistent\n")
    return {"HOME": str(home), "XDG_CONFIG_HOME": str(home / ".config")}


def huge(scene: Scene) -> dict[str, str]:
    return {f"HUGE_{number}": "x" * 100_000 for number in range(8)}


def future_files(scene: Scene) -> dict[str, str]:
    """Caches whose files are of the year 2040."""
    for path in (scene.work / "wheels").iterdir():
        os.utime(path, (2208988800, 2208988800))
    return {}


def no_git(scene: Scene) -> dict[str, str]:
    """PATH has no git (the patches need it)."""
    folder = scene.work / "bin"
    folder.mkdir(exist_ok=True)
    for name in ("bash", "sh", "env", "cat", "uname", "ldd", "cc", "gcc"):
        if (found := shutil.which(name)) and not (folder / name).exists():
            (folder / name).symlink_to(found)
    return {"PATH": str(folder)}


def odd_nvidia_smi(code: str) -> Callable[[Scene], dict[str, str]]:
    def begin(scene: Scene) -> dict[str, str]:
        folder = scene.work / "smi"
        folder.mkdir(exist_ok=True)
        (folder / "nvidia-smi").write_text(f"#!{sys.executable}\n{code}\n")
        (folder / "nvidia-smi").chmod(0o755)
        return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}

    return begin


def limited(words: str) -> tuple[str, ...]:
    return ("bash", "-c", f'ulimit {words}; exec "$@"', "limited")


def umask(mask: str) -> tuple[str, ...]:
    return ("bash", "-c", f'umask {mask}; exec "$@"', "umask")


def standing_in_nothing() -> tuple[str, ...]:
    """The folder the user stands in is deleted."""
    return (
        "bash",
        "-c",
        'd=$(mktemp -d); root=$PWD; cd "$d"; rmdir "$d"; export PYTHONPATH="$root"; exec "$@"',
        "gone",
    )


def no_locks() -> Order:
    return {"do": "refuse", "event": "fcntl.flock", "errno": errno.ENOLCK}
