"""What decides a lock: the .in and environment.yml files with all they include, and the facts of the recipe, as content hashes.

The pip layer's lock carries a hash of its inputs in its header; conda-lock's own content hash does the same for the conda layer.
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verlock import paths
from verlock.conda import CUTOFF
from verlock.errors import LockError
from verlock.variant import lockfiles

if TYPE_CHECKING:
    from verlock.variant.chosen import Chosen
    from verlock.variant.recipe import Override, Recipe


def text_of(path: Path) -> str:
    """The text of a file that people edit. Raises LockError where it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise LockError(f"{paths.shown(path)} is not text: {error}", "write it in UTF-8") from None


def requirement_files(path: Path) -> list[Path]:
    """A .in file and all it includes by `-r` or `-c`, depth first, each once. Raises LockError when one is missing."""
    found: dict[Path, None] = {}

    def visit(file: Path, asker: Path | None) -> None:
        file = file.resolve()
        if file in found:
            return
        if not file.is_file():
            raise LockError(
                f"{paths.shown(file)} is missing",
                f"{paths.shown(asker)} asks for it" if asker else "a variant needs it",
            )
        found[file] = None
        for line in text_of(file).splitlines():
            if match := re.match(r"^\s*(?:-r|--requirement|-c|--constraint)[\s=]+(\S+)", line):
                visit(file.parent / match[1], file)

    visit(path, None)
    return list(found)


def input_digest(chosen: Chosen, name: str = lockfiles.REQUIREMENTS) -> str:
    """`sha256:<hex>` of all that decides one file of the pip layer, without comments and blank lines.

    That is: the .in file and its includes (by their place in the clone, which `# via` lines show), the Python, the cut-off, the
    glibc, the packages that may be sdists, and for the runtime's file the requirements that are set aside.
    """
    recipe = chosen.recipe
    source = paths.ENVIRONMENTS / chosen.name / f"{name.removesuffix('.txt')}.in"
    sdists = sorted(lockfiles.normalise(sdist.package) for sdist in recipe.sdist)
    facts: list[Any] = [
        chosen.python,
        recipe.cutoff.date.isoformat(),
        recipe.platform.subdir,
        recipe.platform.glibc,
        sdists,
    ]
    if aside := overrides(chosen, name):
        facts.append(sorted([each.requirer, each.requirement] for each in aside))
    return _digest(source, facts)


def overrides(chosen: Chosen, name: str) -> tuple[Override, ...]:
    """The requirements that are set aside in one file of the pip layer: none in that of the build tools."""
    return tuple(chosen.recipe.override) if name == lockfiles.REQUIREMENTS else ()


def _digest(source: Path, facts: list[Any]) -> str:
    for file in requirement_files(source):
        lines = (re.sub(r"(^|\s)#.*$", "", line).strip() for line in text_of(file).splitlines())
        facts.append([file.relative_to(paths.ENVIRONMENTS.resolve()).as_posix(), [line for line in lines if line]])
    return "sha256:" + hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def header(chosen: Chosen, name: str = lockfiles.REQUIREMENTS) -> str:
    """The comment lines at the top of a file of the pip layer; the last of them is what `check` reads."""
    recipe = chosen.recipe
    aside = "".join(f"# Set aside: {each.said} (recipes/{chosen.name} says why).\n" for each in overrides(chosen, name))
    return (
        f"# Made by `nox -s lock -- {chosen.name}` from environments/{chosen.name}/{name.removesuffix('.txt')}.in: edit that.\n"
        f"# CPython {chosen.python}, {recipe.platform.subdir}, glibc {recipe.platform.glibc}; "
        f"nothing uploaded on or after {recipe.cutoff.date.isoformat()} (UTC).\n{aside}"
        f"# inputs {input_digest(chosen, name)}\n"
    )


def tools_sets() -> list[str]:
    """The sets of verlock's own tools, each a .in file; the base set first, since the others must agree with its lock."""
    found = sorted(path.stem for path in (paths.ENVIRONMENTS / lockfiles.TOOLS).glob("*.in"))
    return sorted(found, key=lambda name: name != lockfiles.BASE_TOOLS)


def tools_cutoff() -> str:
    """The cut-off of verlock's own tools, which have no recipe: the date after `# cut-off:` in the base set's .in file."""
    source = paths.ENVIRONMENTS / lockfiles.TOOLS / f"{lockfiles.BASE_TOOLS}.in"
    match = re.search(r"^# cut-off: (\d{4}-\d\d-\d\d)$", text_of(source), re.MULTILINE)
    if not match:
        raise LockError(f"{paths.shown(source)} has no line `# cut-off: YYYY-MM-DD`", "add one")
    return match[1]


def tools_header(name: str, base: bytes | None = None) -> str:
    """The comment lines at the top of the lock of one set of tools; `base` is the base set's lock (None: that in locks/)."""
    facts = [lockfiles.TOOLS, tools_cutoff()]
    path = paths.LOCKS / lockfiles.TOOLS / f"{lockfiles.BASE_TOOLS}.txt"
    if base is None and path.exists():
        base = path.read_bytes()
    if name != lockfiles.BASE_TOOLS and base is not None:
        facts.append(hashlib.sha256(base).hexdigest())
    return (
        f"# Made by `nox -s lock -- tools` from environments/tools/{name}.in: edit that.\n"
        f"# CPython 3.10 and newer, any platform; nothing uploaded on or after {tools_cutoff()} (UTC).\n"
        f"# inputs {_digest(paths.ENVIRONMENTS / lockfiles.TOOLS / f'{name}.in', facts)}\n"
    )


def environment_files(chosen: Chosen) -> list[Path]:
    """The environment.yml files of one conda layer, in the order in which conda-lock merges them.

    The compiler is that of `compiler-cuda-<version>.yml` where the recipe's CUDA has such a file, else that of `compiler.yml`.
    """
    common = paths.ENVIRONMENTS / "common"
    files = [common / "environment.yml", common / f"python-{chosen.python}.yml"]
    if chosen.recipe.vllm.compiles:
        of_cuda = common / f"compiler-cuda-{chosen.recipe.cuda.version}.yml"
        files.append(of_cuda if of_cuda.is_file() else common / "compiler.yml")
    files.append(paths.ENVIRONMENTS / chosen.name / "environment.yml")
    for file in files:
        if not file.is_file():
            raise LockError(
                f"{paths.shown(file)} is missing",
                f"the conda layer of {chosen.name} for Python {chosen.python} needs it",
            )
    return files


def virtual_packages(recipe: Recipe, cutoff: date | None) -> dict[str, str]:
    """The virtual packages of a conda layer, as conda-lock's --virtual-package-spec takes them; none is from this machine.

    The cut-off is passed as one of them: conda-lock has no cut-off, but this way its content hash covers it and
    `conda_command` gets it.
    """
    return {
        "__archspec": "1 x86_64",
        **({CUTOFF: cutoff.strftime("%Y%m%d")} if cutoff else {}),
        "__glibc": recipe.platform.glibc,
        "__linux": recipe.platform.linux,
        "__unix": "0",
    }


def conda_content_hash(chosen: Chosen) -> str:
    """conda-lock's own content hash of one conda layer, computed here.

    Importing conda-lock takes two seconds, too long for `verlock lock --check`. The hash is of JSON, and a test compares this
    function with what conda-lock computes.
    """
    recipe = chosen.recipe
    channels: list[str] = []
    specs: dict[str, dict[str, Any]] = {}
    for file in environment_files(chosen):
        try:
            content = lockfiles.read_yaml(text_of(file))
            channels += [name for name in content["channels"] if name not in channels]
            lines = [str(line) for line in content["dependencies"]]
        except (ValueError, KeyError, TypeError) as error:
            raise LockError(
                f"{paths.shown(file)} is not an environment.yml: {error!r}", "see environments/common"
            ) from None
        for line in lines:
            name, _, version = line.partition(" ")
            specs[name] = _spec(name, version.replace(" ", ""))
    content = {
        "channels": [json.dumps({"url": name, "used_env_vars": []}, separators=(",", ":")) for name in channels],
        "specs": [specs[name] for name in sorted(specs)],
        "virtual_package_hash": {
            "linux-64": {
                "info": {"subdir": "linux-64"},
                "packages": _fake_packages(virtual_packages(recipe, recipe.cutoff.date)),
            },
            "noarch": {"info": {"subdir": "noarch"}, "packages": {}},
        },
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _spec(name: str, version: str) -> dict[str, Any]:
    """One dependency, as conda-lock serialises it."""
    plain = version.removeprefix("==")
    return {
        "build": None,
        "category": "main",
        "conda_channel": None,
        "extras": [],
        "hash": None,
        "manager": "conda",
        "name": name.lower(),
        "version": plain,
    }


def _fake_packages(virtual: dict[str, str]) -> dict[str, Any]:
    """Virtual packages as the fake channel that conda-lock hashes; its timestamp is the first day of 2020."""
    packages: dict[str, Any] = {}
    for name, text in virtual.items():
        version, _, string = text.partition(" ")
        build = f"{string}_0" if string else "0"
        packages[f"{name}-{version}-{build}.tar.bz2"] = {
            "build": build,
            "build_number": 0,
            "build_string": string,
            "depends": [],
            "name": name,
            "noarch": "",
            "package_type": "virtual_system",
            "subdir": "linux-64",
            "timestamp": 1577854800000,
            "version": version,
        }
    return packages
