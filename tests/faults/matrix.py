"""The table: what can go wrong (rows) at which step (columns), with a cell for each, or the reason why there is none."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import badserver
import damage as d
import data as b
import networks as n
import places as p
import signals as s
from judge import Cell

STEPS = (
    "tools",  # nox installs verlock's own
    "whole walk",  # from nothing to sealed, where a fault has no one step
    "preflight",
    "base",
    "artefacts",
    "wheels",
    "source",  # of the wheels step: a wheel built from a commit
    "patches",
    "check",
    "seal",
    "no-op",
    "verify",
    "lock",
    "smoke",
)


@dataclass(frozen=True)
class Kind:
    """A row. `empty`: why the steps without a cell have none; a step's own reason goes before the one of `*`."""

    name: str
    group: str
    cells: Mapping[str, Cell]
    empty: Mapping[str, str] = field(default_factory=dict)

    def reason(self, step: str) -> str:
        """Why there is no cell for a step. Raises KeyError where nobody said."""
        return self.empty.get(step) or BEYOND.get(step) or self.empty["*"]


# Steps that this suite cannot reach, whatever the fault.
BEYOND = {
    "lock": "locking needs an index with upload times and a channel: tests/e2e/test_relock.py has its faults",
    "smoke": "needs a GPU: its faults are the sabotages, `nox -s smoke-* -- --sabotage all`",
}
WALK = ("preflight", "base", "artefacts", "wheels", "patches", "check", "seal", "no-op", "verify")
ONE_STEP = {
    "whole walk": "the steps have cells of their own",
    "tools": "pip runs there; its folder is stamped last, and half of one is shown by the rows of networks",
    "source": "the same run of uv and git as in the wheels step",
}


def _signal(name: str, make: Callable[[str], Cell], steps: tuple[str, ...] = WALK, why: str = "") -> Kind:
    return Kind(name, "signals", {step: make(step) for step in steps}, {**ONE_STEP, "*": why})


SIGNALS = [
    _signal("SIGKILL to all", s.kill),
    _signal("Ctrl-C through nox", s.ctrl_c),
    _signal("Ctrl-C without nox", s.interrupt),
    _signal("SIGTERM", s.term),
    _signal("SIGHUP", s.hang_up, ("base", "wheels", "seal"), "as SIGTERM; these three differ in what is there"),
    _signal(
        "Ctrl-C twice", s.ctrl_c_twice, ("base", "wheels", "seal", "verify"), "only a prefix in the making is tidied up"
    ),
    _signal("Ctrl-\\", s.ctrl_backslash, ("wheels",), "as SIGKILL to all; once, to see that nox hands it on"),
    _signal(
        "killed while tidying up",
        s.kill_in_clean_up,
        ("base", "wheels", "patches", "check", "seal"),
        "nothing is tidied up there",
    ),
    _signal(
        "stopped, later continued", s.stop_and_go_on, ("wheels", "check", "verify"), "no clock runs in other steps"
    ),
    _signal(
        "a child is killed", s.child_killed, ("wheels", "check"), "the other steps' children live for milliseconds"
    ),
    _signal(
        "only verlock is killed", s.killed_alone, ("wheels",), "only uv's installation lives on long enough to matter"
    ),
    _signal(
        "its reader goes away", s.no_screen, ("wheels", "no-op", "verify"), "the same lines are written in every step"
    ),
    _signal(
        "no screen at all", s.closed_screen, ("wheels", "no-op", "verify"), "the same lines are written in every step"
    ),
]

NO_SERVICE = "nothing is fetched there"
NETWORKS = [
    Kind(
        f"server: {way}" if way not in n.PLACES else way,
        "networks",
        {
            "base": n.conda(way),
            "artefacts": n.artefact(way),
            "wheels": n.index(way),
            "source": n.source(way),
            **(
                {"tools": n.tools(way)}
                if way in ("stalls", "cuts off", "500", "404", "other bytes", "port refused")
                else {}
            ),
        },
        {"tools": "pip's own matter; six ways show that no half is kept", "*": NO_SERVICE},
    )
    for way in [*(way for way in badserver.WAYS if way != "good"), *n.PLACES]
]

FILE_OF_PACKAGE = "files are installed in the wheels step, and looked at by no-op and verify"


def _damaged(name: str, harm: d.Damage, *codes: int, heals: bool = True, quick: bool = False, **more: Cell) -> Kind:
    """Damage to an environment: seen by verify with these codes, healed by create (if that can see it by itself)."""
    cells = {"verify": d.seen_by_verify(harm, *codes, quick=quick)}
    empty = {"*": FILE_OF_PACKAGE}
    if heals:
        cells["no-op"] = d.healed(harm)
    else:
        empty["no-op"] = (
            "size and time tell nothing, and hashing everything takes seconds: `verify` does, and tells create"
        )
    return Kind(name, "damage", {**cells, **more}, empty)


DAMAGE = [
    _damaged("a byte of a module", d.installed("vllm/__init__.py", d.flip), 46, quick=True),
    _damaged(
        "a byte of an object",
        d.installed(d.OBJECT, d.flip),
        46,
        wheels=d.not_healed_offline(d.installed(d.OBJECT, d.flip), 46),
    ),
    _damaged("a byte, size and time kept", d.installed(d.OBJECT, d.flip_unseen), 46, heals=False),
    _damaged("a file cut", d.installed(d.OBJECT, d.cut), 46),
    _damaged("a file emptied", d.installed("verl/__init__.py", d.empty), 46),
    _damaged(
        "a file deleted",
        d.installed("torch/__init__.py", lambda path: path.unlink()),
        47,
        wheels=d.healed_offline(d.installed("torch/__init__.py", lambda path: path.unlink())),
    ),
    _damaged("a folder for a file", d.installed("vllm/__init__.py", d.to_folder), 46, 47),
    _damaged("a dead link for a file", d.installed("vllm/__init__.py", d.to_link), 46, 47),
    _damaged("RECORD emptied", d.installed("odd-1.dist-info/RECORD", d.empty), 43, 46),
    _damaged("RECORD deleted", d.installed("odd-1.dist-info/RECORD", lambda path: path.unlink()), 42, 43, 46),
    _damaged("metadata emptied", d.installed("odd-1.dist-info/METADATA", d.empty), 42, 43, 46),
    _damaged("a package's folder deleted", d.installed("verl", d.shutil.rmtree), 47),
    _damaged("a package's metadata deleted", d.installed("odd-1.dist-info", d.shutil.rmtree), 42),
    _damaged("a stray module", d.write("sitecustomize.py"), 48),
    _damaged("a stray byte code file", d.write("sitecustomize.pyc"), 48, heals=False),
    _damaged("a stray package", d.add_package, 44),
    _damaged("a stray empty folder", lambda scene: (scene.site / "flash_attn_3").mkdir(), 48, heals=False),
    _damaged("forged byte code", d.forge_byte_code, 46, 48, heals=False),
    _damaged("a stray program in bin", d.of_prefix("bin/gcc", lambda path: path.write_text("#!/bin/sh\n")), 48),
    _damaged("a program loses its x bit", d.of_prefix("bin/vllm", lambda path: path.chmod(0o644)), 46, heals=False),
    _damaged("another interpreter", d.other_interpreter, 46),
    _damaged("activate edited", d.of_prefix("bin/activate", d.flip), 46),
    _damaged("pyvenv.cfg deleted", d.of_prefix("pyvenv.cfg", lambda path: path.unlink()), 47),
    _damaged("a patch undone", d.installed("vllm/rank.py", lambda path: path.write_text(s.scenes.OLD)), 45),
    _damaged("a patched file deleted", d.installed("vllm/rank.py", lambda path: path.unlink()), 45),
    Kind(
        "a byte of uv's cache",
        "damage",
        {"wheels": d.healed(d.cached(d.flip), gone=True, quick=True)},
        {"*": "uv reads its cache in the wheels step alone"},
    ),
    Kind(
        "a file of uv's cache cut",
        "damage",
        {"wheels": d.healed(d.cached(d.cut), gone=True)},
        {"*": "uv reads its cache in the wheels step alone"},
    ),
    Kind(
        "a file of uv's cache deleted",
        "damage",
        {"wheels": d.healed(d.cached(lambda path: path.unlink()), gone=True)},
        {"*": "uv reads its cache in the wheels step alone"},
    ),
    Kind(
        "uv's cache deleted", "damage", {"no-op": d.healed(d.cache_gone)}, {"*": "as with nothing cached: whole walk"}
    ),
    Kind(
        "a byte of a kept artefact",
        "damage",
        {
            "artefacts": d.healed(d.kept("artefacts/*/*.whl", d.flip), gone=True, quick=True),
            "no-op": d.healed(d.kept("artefacts/*/*.whl", d.flip, prefix=True)),
        },
        {"*": "read in the artefacts step alone"},
    ),
    Kind(
        "a kept artefact cut",
        "damage",
        {"artefacts": d.healed(d.kept("artefacts/*/*.whl", d.cut), gone=True)},
        {"*": "read in the artefacts step alone"},
    ),
    Kind(
        "a folder for a kept artefact",
        "damage",
        {"artefacts": d.refused_folder()},
        {"*": "read in the artefacts step alone"},
    ),
    Kind(
        "a byte of a built wheel",
        "damage",
        {"source": d.stores_wheel(d.flip)},
        {"*": "read where it is installed alone"},
    ),
    Kind("a built wheel cut", "damage", {"source": d.stores_wheel(d.cut)}, {"*": "read where it is installed alone"}),
    Kind(
        "a half-deleted prefix",
        "damage",
        {"base": d.healed(d.half_deleted, quick=True), "verify": d.seen_by_verify(d.half_deleted, 40)},
        {"*": "met before the base is begun"},
    ),
    Kind("the same without its mark", "damage", {"base": d.unmarked()}, {"*": "met before the base is begun"}),
    Kind(
        "the older one left aside",
        "damage",
        {"base": d.aside_and_no_network(), "no-op": d.left_behind("aside", d.half_deleted_aside)},
        {"*": "met before the base is begun"},
    ),
    Kind(
        "stale drafts",
        "damage",
        {
            "artefacts": d.left_behind(
                "d", d.stale("cache/artefacts/aa/.flash.whl.99"), "cache/artefacts/*/.*", start="older"
            ),
            "seal": d.left_behind(
                "d", d.stale("envs/toy/.verlock.json.99-1"), "envs/toy/.verlock.json.*", start="older"
            ),
        },
        {"*": "no drafts are made there, or in folders of their own that end with the step"},
    ),
]

FULL = {"*": "a full disk is met where something is written: base, artefacts, wheels, seal"}
DISKS = [
    Kind("less room than it takes", "disks", {"preflight": p.too_small()}, {"*": "preflight is there to say so first"}),
    Kind(
        "a full disk",
        "disks",
        {
            "base": p.full_envs("size=64k,nr_inodes=4"),
            "wheels": p.full_envs("size=200k"),
            "artefacts": p.full_cache("cache", "size=4k,nr_inodes=3", 21),
            "source": p.full_cache("uv-cache", "size=64k", 21),
            "seal": p.refused("os.rename", "/verlock.json", errno.ENOSPC, 21),
        },
        FULL,
    ),
    Kind("over quota", "disks", {"seal": p.refused("os.rename", "/verlock.json", errno.EDQUOT, 21)}, FULL),
    Kind(
        "an input/output error",
        "disks",
        {
            "seal": p.refused("os.rename", "/verlock.json", errno.EIO, 60),
            "artefacts": p.refused("open", "/cache/artefacts/", errno.EIO, 60),
            "patches": p.refused("os.rename", "rank.py", errno.EIO, 60),
            "verify": p.refused(
                "open", "vllm-0.7.3.dist-info/RECORD", errno.EIO, 60, 43, 46, start="whole", words="verify"
            ),
        },
        {"*": "the error of any other call has the same way to the screen"},
    ),
    Kind(
        "no file handles left",
        "disks",
        {"seal": p.refused(*s.AT["seal"], errno.EMFILE, 60)},
        {"*": "the error of any other call has the same way to the screen"},
    ),
    Kind(
        "no processes left",
        "disks",
        {
            "base": p.refused(*s.AT["base"], errno.EAGAIN, 60),
            "check": p.refused(*s.AT["check"], errno.EAGAIN, 60),
        },
        {"*": "programs are started in the same way everywhere"},
    ),
    Kind("another file system than the cache", "disks", {"whole walk": p.other_file_system()}, {"*": "it is one walk"}),
    Kind(
        "read-only environments",
        "disks",
        {
            "preflight": p.read_only(("envs",), "fresh", 60),
            "no-op": p.read_only(("envs", "envs/toy"), "whole", 0),
            "verify": p.read_only(("envs", "envs/toy"), "whole", 0, words="verify"),
            "base": p.read_only(("envs",), "older", 0),
        },
        {"*": "refused before a step begins"},
    ),
    Kind(
        "a read-only cache",
        "disks",
        {
            "artefacts": p.read_only(("cache", "cache/artefacts"), "fresh", 60),
            "wheels": p.read_only(("uv-cache",), "fresh", 26, 60),
        },
        {"*": "nothing is cached there"},
    ),
    Kind(
        "a file system without locks",
        "disks",
        p.around(p.hooked(p.no_locks())),
        {"*": "the lock is taken before all steps"},
    ),
    Kind("a file in the prefix's place", "disks", {"base": p.in_the_way("envs/toy", "fresh", 23)}, {"*": "met once"}),
    Kind(
        "a foreign folder there",
        "disks",
        {"base": p.in_the_way("envs/toy", "fresh", 23, kind="folder")},
        {"*": "met once"},
    ),
    Kind(
        "a dead link there",
        "disks",
        {"base": p.in_the_way("envs/toy", "fresh", 0, 23, 60, kind="link")},
        {"*": "met once"},
    ),
    Kind(
        "VERLOCK_ENVS is a file",
        "disks",
        {"preflight": p.in_the_way("a-file", "older", 60, VERLOCK_ENVS="{work}/a-file")},
        {"*": "met once"},
    ),
    Kind(
        "VERLOCK_CACHE is a file",
        "disks",
        {"artefacts": p.in_the_way("a-file", "older", 60, VERLOCK_CACHE="{work}/a-file")},
        {"*": "met once"},
    ),
    Kind(
        "UV_CACHE_DIR is a file",
        "disks",
        {"wheels": p.in_the_way("a-file", "older", 26, 60, UV_CACHE_DIR="{work}/a-file")},
        {"*": "met once"},
    ),
]

AROUND: dict[str, dict[str, Cell]] = {
    "clock of 2001": p.around(p.clock(-800_000_000)),
    "clock of 2040": p.around(p.clock(450_000_000)),
    "caches of the year 2040": p.around(p.future_files, only="whole walk"),
    "umask 077": p.around(p.variables(), before=p.umask("077")),
    "umask 000": p.around(p.variables(), before=p.umask("000"), only="whole walk"),
    "LANG=C": p.around(p.variables(LANG="C", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")),
    "a Turkish locale": p.around(p.variables(LANG="tr_TR.UTF-8", LC_ALL="tr_TR.UTF-8"), only="whole walk"),
    "blanks and quotes in the path": p.around(p.odd_place('my envs\' "place" $HOME'), only="whole walk"),
    "Unicode in the path": p.around(p.odd_place("Ünï-環境"), only="whole walk"),
    "a colon in the path": {"preflight": p.refused_place("a:b", 60)},
    "a very long path": p.around(p.odd_place("/".join(["deep" * 12] * 3)), only="whole walk"),
    "a percent sign and a hash": p.around(p.odd_place("50%#x?y"), only="whole walk"),
    "no HOME": p.around(p.variables(), before=p.without("HOME", "USER", "LOGNAME")),
    "TMPDIR is missing": p.around(p.variables(TMPDIR="{work}/nowhere")),
    "PYTHONPATH with other modules": p.around(p.stray_modules),
    "PYTHONHOME is set for children": p.around(p.variables(PYTHONSTARTUP="/nonexistent", PYTHONDONTWRITEBYTECODE="1")),
    "another environment is active": p.around(p.variables(VIRTUAL_ENV="/nonexistent", CONDA_PREFIX="/nonexistent")),
    "the user's pip, uv and git settings": p.around(p.configured),
    "uv's variables of an image": p.around(
        p.variables(
            UV_SYSTEM_PYTHON="1",
            UV_TARGET="/nowhere",
            UV_NO_VERIFY_HASHES="1",
            UV_PYTHON="3.9",
            UV_CONSTRAINT="/nowhere",
        ),
        only="whole walk",
    ),
    "a huge environment": p.around(p.huge),
    "few open files allowed": p.around(p.variables(), before=p.limited("-n 64")),
    "no core, no locked memory": p.around(p.variables(), before=p.limited("-c 0 -l 0"), only="whole walk"),
    "Python's warnings are errors": p.around(p.variables(PYTHONWARNINGS="error"), only="no-op"),
    "asserts are off": p.around(p.variables(PYTHONOPTIMIZE="2")),
    "no terminal width": p.around(p.variables(COLUMNS="0", TERM="dumb"), only="whole walk"),
    "a folder that is gone": p.around(p.variables(), before=p.standing_in_nothing()),
    "no git": p.around(p.no_git, codes=(29,), only="whole walk"),
    "nvidia-smi fails": p.around(p.odd_nvidia_smi("raise SystemExit(9)"), only="whole walk"),
    "nvidia-smi says nonsense": p.around(p.odd_nvidia_smi("print('[N/A], [N/A]\\nFailed')"), only="whole walk"),
    "nvidia-smi hangs": p.around(p.odd_nvidia_smi("import time; time.sleep(90)"), only="whole walk"),
}
SURROUNDINGS = [
    Kind(
        name,
        "surroundings",
        cells,
        {
            "*": "a setting acts on the run as a whole",
            **dict.fromkeys(("whole walk", "no-op", "verify"), "what it acts on is not used there"),
        },
    )
    for name, cells in AROUND.items()
]

CREATE = ("create", "toy", "--base", "host")
AT_ONCE = [
    Kind(
        "two runs from nothing", "two at once", {"whole walk": b.two_runs(CREATE, CREATE, "fresh")}, {"*": "one walk"}
    ),
    Kind(
        "two runs over an older one",
        "two at once",
        {"whole walk": b.two_runs(CREATE, CREATE, "older")},
        {"*": "one walk"},
    ),
    Kind(
        "two runs with nothing to do",
        "two at once",
        {"no-op": b.two_runs(CREATE, CREATE, "whole")},
        {"*": "no-op only"},
    ),
    Kind(
        "the first is slow",
        "two at once",
        {"wheels": b.second_waits(None)},
        {"*": "the lock is held from first to last"},
    ),
    Kind(
        "the first is killed",
        "two at once",
        {"wheels": b.second_waits(s.signal.SIGKILL)},
        {"*": "the lock is held from first to last"},
    ),
    Kind(
        "the first is interrupted",
        "two at once",
        {"wheels": b.second_waits(s.signal.SIGINT)},
        {"*": "the lock is held from first to last"},
    ),
    Kind(
        "Ctrl-C while waiting",
        "two at once",
        {"wheels": b.interrupt_the_waiting()},
        {"*": "the lock is held from first to last"},
    ),
    Kind(
        "verify while it is made", "two at once", {"check": b.verify_while_made()}, {"*": "the prefix has no receipt"}
    ),
    Kind(
        "two times verify",
        "two at once",
        {"verify": b.two_runs(("verify", "toy"), ("verify", "toy"), "whole")},
        {"*": "verify only"},
    ),
    Kind(
        "verify and a no-op",
        "two at once",
        {"verify": b.two_runs(("verify", "toy"), CREATE, "whole")},
        {"*": "verify only"},
    ),
    Kind("another uv holds the cache", "two at once", {"no-op": b.cache_held()}, {"*": "only healing needs it alone"}),
]

MET = {"*": "data is read before the first step"}


def _data(name: str, cells: Mapping[str, Cell]) -> Kind:
    return Kind(name, "bad data", cells, MET)


SUMMARY, PYTHON = b'summary = "toy"', f'python = ["{n.toy.MINOR}"]'.encode()
BAD_DATA = [
    _data(
        "recipe: no TOML",
        {
            step: b.bad("recipe", b.content(b"= nonsense"), 11, words=word)
            for step, word in (("preflight", "create"), ("verify", "verify"))
        },
    ),
    _data("recipe: not UTF-8", {"preflight": b.bad("recipe", b.binary, 11)}),
    _data("recipe: empty", {"preflight": b.bad("recipe", b.content(b""), 11)}),
    _data("recipe: a conflict", {"preflight": b.bad("recipe", b.conflict, 11)}),
    _data(
        "recipe: a Python that is a number", {"preflight": b.bad("recipe", b.replace(PYTHON, b"python = [3.10]"), 11)}
    ),
    _data("recipe: an unknown key", {"preflight": b.bad("recipe", b.replace(SUMMARY, b'sumary = "toy"'), 11)}),
    _data("recipe: missing", {"preflight": b.bad("recipe", None, 10, 11)}),
    _data(
        "recipe: an include that is missing",
        {"preflight": b.bad("recipe", b.replace(SUMMARY, SUMMARY + b'\ninclude = ["nothing"]'), 11)},
    ),
    *(
        _data(f"{name}: {what}", {"preflight": b.bad(name, change, 12, 26, early=True)})
        for name in ("requirements", "conda")
        for what, change in (("a conflict", b.conflict), ("not text", b.binary), ("missing", None))
    ),
    _data("requirements: cut", {"preflight": b.bad("requirements", b.cut, 12, 25, 26, 27)}),
    _data("requirements: another hash", {"wheels": b.bad("requirements", b.other_hash, 25)}),
    _data("requirements: no hash", {"preflight": b.bad("requirements", b.replace(b"verl==", b"x==1\nverl=="), 12)}),
    _data(
        "requirements: a package twice",
        {"preflight": b.bad("requirements", b.replace(b"torch==2.5.1", b"vllm==0.7.3"), 12)},
    ),
    _data(
        "requirements: a version there is not", {"wheels": b.bad("requirements", b.replace(b"odd==1", b"odd==7"), 26)}
    ),
    _data(
        "recipe: another vllm", {"check": b.bad("recipe", b.replace(b'version = "0.7.3"', b'version = "0.7.4"'), 27)}
    ),
    _data("conda-lock: cut", {"preflight": b.bad("conda", b.cut, 12)}),
    _data("build-requirements: missing", {"preflight": b.bad("build", None, 12)}),
    _data("sources: no JSON", {"preflight": b.bad("sources", b.content(b"{"), 12, early=True)}),
    _data("sources: a list", {"preflight": b.bad("sources", b.content(b"[]"), 12, early=True)}),
    _data("sources: missing", {"preflight": b.bad("sources", None, 12, 13, early=True)}),
    _data("patch: missing", {"preflight": b.bad("patch", None, 12, 13, 33, early=True)}),
    _data("patch: edited", {"preflight": b.bad("patch", b.replace(b"return 1", b"return 2"), 13, 33, early=True)}),
    _data("patch: not UTF-8", {"preflight": b.bad("patch", b.binary, 13, 33, early=True)}),
    _data("patch: cut", {"preflight": b.bad("patch", b.cut, 13, 33, early=True)}),
    *(
        _data(f"receipt: {what}", {"no-op": b.bad_receipt(change, "create"), "verify": b.bad_receipt(change, "verify")})
        for what, change in (
            ("empty", b.content(b"")),
            ("cut", b.cut),
            ("binary", b.binary),
            ("a list", b.content(b"[]")),
            ("missing", None),
            ("of another verlock", b.replace(b'"schema": 1', b'"schema": 99')),
            ("null for a table", b.replace(b'"packages": {', b'"packages": null, "x": {')),
        )
    ),
    _data("receipt: another digest", {"verify": b.edited_receipt(lambda sealed: sealed.update(digest="0" * 64), 41)}),
    _data(
        "receipt: another place", {"verify": b.edited_receipt(lambda sealed: sealed.update(prefix="/elsewhere"), 40)}
    ),
    _data(
        "receipt: a package less", {"verify": b.edited_receipt(lambda sealed: sealed["packages"].pop("odd"), 42, 44)}
    ),
    _data("command: an unknown variant", {"preflight": b.words("create", "toi", codes=(10,))}),
    _data("command: an unknown Python", {"preflight": b.words("create", "toy", "--python", "3.4", codes=(10,))}),
    _data(
        "command: a site wheel that is not there",
        {"preflight": b.words("create", "toy", "--site-wheel", "flash-attn=/nowhere.whl", codes=(61,))},
    ),
]

KINDS = [*SIGNALS, *NETWORKS, *DAMAGE, *DISKS, *SURROUNDINGS, *AT_ONCE, *BAD_DATA]


def cells() -> dict[str, Cell]:
    """Every cell, by "step / kind"."""
    return {f"{step} / {kind.name}": kind.cells[step] for kind in KINDS for step in STEPS if step in kind.cells}


def table() -> str:
    """The matrix for people: a letter in each cell, and below it why the empty ones are empty."""
    width = max(len(kind.name) for kind in KINDS)
    heads = [f"{step[:9]:>9}" for step in STEPS]
    lines: list[str] = []
    reasons: dict[str, int] = {}
    last = ""
    for kind in KINDS:
        if kind.group != last:
            lines += ["", f"{kind.group:<{width}} {' '.join(heads)}"]
        last = kind.group
        marks = []
        for step in STEPS:
            if step in kind.cells:
                marks.append("x" if kind.cells[step].quick else "o")
            else:
                marks.append(str(reasons.setdefault(kind.reason(step), len(reasons) + 1)))
        lines.append(f"{kind.name:<{width}} {' '.join(f'{mark:>9}' for mark in marks)}")
    lines += ["", "x  tried, with --quick as well     o  tried     a number  not tried, because:"]
    return "\n".join([*lines, *(f"{number:>4}  {reason}" for reason, number in reasons.items())])
